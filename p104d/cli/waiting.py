"""Waiting for jobs and following their output, through restarts of the daemon and up to Ctrl-C.

Jobs outlive the daemon, so whoever waits for one does not give up because the daemon is being restarted. Ctrl-C ends
the waiting, never the job.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from p104d.api.client import Answer, Client
from p104d.cli.common import note
from p104d.cli.main import Interrupted
from p104d.core.errors import P104Error

_T = TypeVar("_T")

ENDED = frozenset({"succeeded", "failed", "cancelled", "lost"})
#: How long a daemon that was there may stay away: a restart with recovery takes seconds, a reboot is not waited for.
PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.25
#: How much later than the wait itself its answer may come before the daemon counts as stuck.
_ANSWER_GRACE_SECONDS = 30.0


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Turn Ctrl-C into exit code 130 with ``message``, which says what goes on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message) from None


def goes_on(ids: Sequence[int]) -> str:
    """What to tell whoever stops waiting for these jobs."""
    if len(ids) == 1:
        return f"interrupted; job {ids[0]} goes on, p104ctl cancel {ids[0]} stops it"
    some = " ".join(str(one) for one in ids[:10]) + (" ..." if len(ids) > 10 else "")
    return f"interrupted; {len(ids)} jobs go on: {some}"


class Watch:
    """Waits for jobs at one daemon. ``outages`` counts how often it went away meanwhile."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.outages = 0

    def patiently(self, ask: Callable[[], _T]) -> _T:
        """What ``ask`` returns; once the daemon has been reached, its absence is borne for a while."""
        give_up = None
        while True:
            try:
                return ask()
            except P104Error as error:
                now = time.monotonic()
                if not (error.retry and self._client.reached) or (give_up is not None and now > give_up):
                    raise
                if give_up is None:
                    give_up = now + PATIENCE_SECONDS
                    self.outages += 1
                    note("the daemon went away; jobs go on, waiting for it to come back")
                time.sleep(_PAUSE_SECONDS)

    def wait(self, ids: Sequence[int], timeout: float | None = None) -> list[dict[str, Any]]:
        """The jobs as they are once all have ended, or when ``timeout`` seconds have passed."""
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            jobs = self.patiently(lambda: self._wait_once(ids, give_up))
            if all(job["state"] in ENDED for job in jobs) or (give_up is not None and time.monotonic() >= give_up):
                return jobs
            # The daemon may cut a long wait short; a pause keeps a daemon that answers at once from being flooded.
            time.sleep(min(_PAUSE_SECONDS, max(0.0, (give_up or time.monotonic() + 1) - time.monotonic())))

    def _wait_once(self, ids: Sequence[int], give_up: float | None) -> list[dict[str, Any]]:
        left = None if give_up is None else max(0.0, give_up - time.monotonic())
        body = {"ids": list(ids), "timeout_seconds": left}
        patience = None if left is None else left + _ANSWER_GRACE_SECONDS
        jobs = self._client.post("/v1/jobs/wait", body, timeout=patience)["jobs"]
        assert isinstance(jobs, list)
        return jobs

    def follow(
        self, job: int, query: dict[str, object], while_silent: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Print the output of ``job`` until it has ended; returns the job as :meth:`wait` tells it.

        ``query`` selects what to print first (tail, attempt). ``while_silent`` is called once if nothing comes for a
        second. After an outage the log is asked for again from the byte reached.
        """
        place = Place()
        while True:
            answer = self.patiently(partial(self._open, job, place.resume(query), while_silent))
            before = self.outages
            complete = _print(answer, place)
            [state] = self.wait([job], timeout=1.0)
            if complete and state["state"] in ENDED and self.outages == before:
                return state
            while_silent = None

    def _open(self, job: int, query: dict[str, object], while_silent: Callable[[], None] | None) -> Answer:
        return self._client.stream(f"/v1/jobs/{job}/log", {**query, "follow": 1}, while_silent=while_silent)


class Place:
    """How far into a log its reader has come, in bytes from its beginning; ``reached`` None: nothing read yet.

    A daemon that does not tell (``P104-Log-Offset``) where in the log its answer begins began at the beginning, unless
    only the tail was asked for: then the place stays unknown.
    """

    def __init__(self) -> None:
        self.reached: int | None = None
        self.unknown = False

    def resume(self, query: dict[str, object]) -> dict[str, object]:
        """``query``, changed so that it goes on from here."""
        if self.reached is None:
            self.unknown = query.get("tail") is not None
            return query
        start = {"tail": 0} if self.unknown else {"from": self.reached}
        return {key: value for key, value in query.items() if key != "tail"} | start

    def begin(self, offset: str | None) -> int:
        """Where an answer begins whose header says ``offset``."""
        if offset is not None:
            self.unknown = False
            at = int(offset)
        else:
            at = (self.reached or 0) if self.unknown else 0
        self.reached = at if self.reached is None else self.reached
        return at


def _print(answer: Answer, place: Place) -> bool:
    """Print what is new in ``answer``; whether it came to its end, and not to the daemon's."""
    at = place.begin(answer.headers.get("p104-log-offset"))
    with answer:
        try:
            for piece in answer.pieces():
                reached = place.reached or 0
                write_raw(piece[max(0, reached - at) :])
                at += len(piece)
                place.reached = max(reached, at)
        except P104Error as error:
            if not error.retry:
                raise
            return False
    return True


def write_raw(piece: bytes) -> None:
    """Bytes of a job's output, as they are, at once: progress bars live from it."""
    if piece and sys.stdout is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def describe_end(job: dict[str, Any]) -> str:
    """``job 12 failed: exit code 3``."""
    reason = job.get("reason")
    return f"job {job['id']} {job['state']}" + (f": {reason}" if reason else "")
