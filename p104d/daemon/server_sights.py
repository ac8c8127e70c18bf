"""What the sensor sees of model servers: whose their processes are, and the most memory that they were seen to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.engine import Connection

from p104d.daemon.residents import jobs_on
from p104d.store import instances
from p104d.store.instances import Instance
from p104d.store.reads import OpenAttempt


class ServerSights:
    """As of the last look and the last step."""

    def __init__(self) -> None:
        #: Which job each copy serves.
        self.jobs: dict[int, int] = {}
        self._peaks: dict[tuple[int, str], int] = {}

    def owner(self, number: int) -> int:
        """Whose a server's process is: its job's, or, idle, its own (as a negative number)."""
        return self.jobs.get(number, -number)

    def note(
        self, copies: Sequence[Instance], attempts: Sequence[OpenAttempt], ours: Mapping[str, Mapping[int, int]]
    ) -> None:
        """Take in what processes of ours were seen to use, by card and owner."""
        self.jobs = {number: attempt.job_id for number, attempt in jobs_on(attempts).items()}
        for copy in copies:
            for uuid in copy.uuids:
                seen = ours.get(uuid, {})
                most = seen.get(-copy.id, 0) or seen.get(self.owner(copy.id), 0)
                if most > self._peaks.get((copy.id, uuid), 0):
                    self._peaks[copy.id, uuid] = most

    def keep(self, conn: Connection, number: int) -> None:
        """The copy is gone: what it used at most teaches something about the next."""
        for (copy, uuid), most in list(self._peaks.items()):
            if copy == number:
                instances.peaked(conn, number, uuid, most)
                del self._peaks[copy, uuid]
