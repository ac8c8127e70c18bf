"""A small rig for random lives: its cards, what is submitted to it, what the folders of attempts say."""

from __future__ import annotations

from hypothesis import strategies as st

from p104d.core.snapshot import CardView, Hold
from p104d.core.units import GIB
from p104d.daemon.endings import Finished
from p104d.daemon.models import Models
from p104d.daemon.observe import Capacity
from p104d.processes.attempt import ExitRecord, Key, Look, LookKind
from p104d.store.reads import OpenAttempt

CAPACITIES = {"GPU-0": 8 * GIB, "GPU-1": 8 * GIB, "GPU-2": 4 * GIB}
HOST = Capacity(cpu_slots=2, ram_bytes=4 * GIB)
#: No job here asks for one.
NO_MODELS = Models(system=False, user="me", units_in=None, monotonic=lambda: 0.0, wake=lambda: None)
KEEP_SECONDS = 500.0

DOCUMENTS = st.fixed_dictionaries(
    {
        "cards": st.sampled_from([0, 1, 1, 1, 2]),
        "vram_bytes": st.sampled_from([None, GIB, 3 * GIB, 5 * GIB]),
        "ram_bytes": st.sampled_from([0, 0, 2 * GIB]),
        "priority": st.sampled_from([0, 0, 5]),
        "retries": st.integers(0, 2),
        "idempotent": st.booleans(),
        "time_limit_seconds": st.sampled_from([None, 60.0]),
        "matrix": st.sampled_from([0, 0, 2]),
    }
)
HOW = ["0", "1", "signal", "dead", "unclaimed", "not started"]
#: What may have become of an attempt while no daemon was there.
MEANWHILE = ["as before", "as before", "running", "0", "1", "dead"]


class Failed(Exception):
    """What a step met: a full disk, say."""


class Folders:
    """What the attempts' folders say, to a daemon that asks; a Supervisor as far as recovery needs one."""

    def __init__(self) -> None:
        self.said: dict[Key, Look] = {}
        self.adopted: set[Key] = set()
        self.stopped: set[Key] = set()

    def look(self, key: Key) -> Look:
        return self.said.get(key, Look(kind=LookKind.UNCLAIMED))

    def revoke(self, key: Key) -> bool:
        assert self.look(key).kind is LookKind.UNCLAIMED
        self.said[key] = Look(kind=LookKind.REVOKED)
        return True

    def adopt(self, key: Key) -> bool:
        self.adopted.add(key)
        return self.look(key).kind is LookKind.RUNNING

    def keys(self, kind: str) -> list[Key]:
        return [key for key in self.said if key.kind == kind]

    def stop(self, key: Key) -> bool:
        self.stopped.add(key)
        return True


def views(attempts: list[OpenAttempt], closed: set[str]) -> tuple[CardView, ...]:
    holds: dict[str, list[Hold]] = {uuid: [] for uuid in CAPACITIES}
    for attempt in attempts:
        for uuid, reserved, exclusive in attempt.holds:
            holds[uuid].append(Hold(job_id=attempt.job_id, reserved_bytes=reserved, exclusive=exclusive))
    return tuple(
        CardView(uuid=uuid, index=n, name="P104-100", capacity_bytes=size, promised_bytes=8 * GIB,
                 closed="drained" if uuid in closed else None, holds=tuple(holds[uuid]))
        for n, (uuid, size) in enumerate(CAPACITIES.items())
    )  # fmt: skip


def finished(key: Key, how: str, now: float) -> Finished:
    """What the folder of an attempt says that ended so."""
    if how == "not started":
        return Finished(key=key, look=None, failure="no such program")
    if how in ("dead", "unclaimed"):
        return Finished(key=key, look=Look(kind=LookKind.DEAD if how == "dead" else LookKind.UNCLAIMED))
    record = ExitRecord(
        version=1, exit_code=None if how == "signal" else int(how), signal=9 if how == "signal" else None, reason=None,
        started_at=now, ended_at=now, wall_seconds=0.0, user_seconds=0.0, system_seconds=0.0, max_rss_bytes=0,
        log_bytes=0, dropped_bytes=0,
    )  # fmt: skip
    return Finished(key=key, look=Look(kind=LookKind.ENDED, exit=record))
