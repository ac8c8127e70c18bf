"""Before the loop begins: is the queue whole, and does it know of every attempt that has a folder?

The folders are the second record of what was started. Where the file had to be restored from an earlier state, or lost
the end of its write-ahead log, they tell what it has forgotten; that is taken in again, and the queue waits for a
person to look at it.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator

import msgspec

from p104d.core.job import JobSpec, Outcome
from p104d.daemon import sdnotify
from p104d.daemon.accounts import account
from p104d.daemon.paths import Places
from p104d.processes import attempt
from p104d.processes.attempt import Key, LaunchSpec, Look, LookKind
from p104d.store import cards, forgotten
from p104d.store.backup import FOLDER
from p104d.store.engine import Database
from p104d.store.forgotten import Found, Origin
from p104d.store.rescue import QUARANTINE, rescue

log = logging.getLogger(__name__)
#: systemd waits that much longer with each word that the restoring goes on.
_PATIENCE_SECONDS = 60
_BEAT_SECONDS = 5.0
#: A person's notice of what was restored; cleared by ``p104ctl resume``.
RESCUE = "rescue"
#: The daemon adds these to every environment.
_PLACED = ("P104_JOB_ID", "P104_ATTEMPT", "P104_CARDS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def check_queue(where: Places, now: float, doubt: str | None, *, insist: bool = False) -> None:
    """Put a damaged or missing queue aside and restore it. Raises UnavailableError or P104Error where that fails."""
    done = rescue(where.database, now, lived=_lived(where), doubt=doubt, insist=insist, beat=_Beat())
    if done is not None:
        log.error("%s; it is kept in %s", done.text, done.quarantine, extra={"action": "restored"})


def _lived(where: Places) -> bool:
    """Whether there was a queue here before."""
    state = where.state
    return (
        any((state / name).exists() for name in (FOLDER, QUARANTINE))
        or next(_folders(str(where.jobs)), None) is not None
    )


class _Beat:
    """Tells systemd now and then that a long start is no stuck one."""

    def __init__(self) -> None:
        self._at = time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self._at >= _BEAT_SECONDS:
            self._at = now
            sdnotify.notify(f"EXTEND_TIMEOUT_USEC={_PATIENCE_SECONDS * 1_000_000}")


# --- what the queue has forgotten ------------------------------------------------------------------------------------


def take_in_forgotten(database: Database, jobs: str, now: float, *, keep_seconds: float, boot_id: str) -> int:
    """Take in again every attempt that has a folder and no row; how many. They are then open, as those of an earlier
    daemon are, and the queue is paused. Folders of attempts that would be too old to be kept are removed instead: a
    daemon died between forgetting them and removing their folders.
    """
    taken, beat = 0, _Beat()
    for first, found in _by_thousand(jobs):
        beat()
        with database.read() as conn:
            known = forgotten.known(conn, first, first + 999)
        unknown: dict[int, list[int]] = {}
        for job_id, number in sorted(found - known):
            if not _is_old(attempt.folder_of(jobs, Key("job", job_id, number)), now - keep_seconds):
                unknown.setdefault(job_id, []).append(number)
        for job_id, numbers in unknown.items():
            taken += _take_in(database, jobs, job_id, numbers, boot_id)
    _note(database, taken, now)
    return taken


def _note(database: Database, taken: int, now: float) -> None:
    """Pause where something was taken in, and lose what can never end; nothing is written where all is well."""
    with database.read() as conn:
        rescued = cards.get_setting(conn, RESCUE, "")
    if not taken and not rescued:
        return
    with database.write() as conn:
        lost = forgotten.lose_what_is_nowhere(conn, now)
        if taken:
            text = f"{taken} attempts that the queue had forgotten were taken in again from their folders"
            cards.set_setting(conn, "paused", "1")
            cards.set_setting(conn, RESCUE, f"{rescued}; {text}" if rescued else text)
    if taken or lost:
        log.error("%d forgotten attempts taken in, %d lost", taken, len(lost), extra={"action": "taken_in"})


def _folders(jobs: str) -> Iterator[tuple[int, int, int]]:
    """(Thousand, job, number) of every attempt's folder."""
    for outer in _scan(jobs):
        if outer.isdigit():
            for name in _scan(f"{jobs}/{outer}"):
                job_id, _, number = name.partition("-")
                if job_id.isdigit() and number.isdigit():
                    yield int(outer), int(job_id), int(number)


def _scan(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _by_thousand(jobs: str) -> Iterator[tuple[int, set[tuple[int, int]]]]:
    """(First job, its and its neighbours' attempts) for each folder of a thousand."""
    current, found = -1, set[tuple[int, int]]()
    for outer, job_id, number in _folders(jobs):
        if outer != current and found:
            yield current * 1000, found
            found = set()
        current = outer
        if job_id // 1000 == outer:
            found.add((job_id, number))
    if found:
        yield current * 1000, found


def _is_old(folder: str, before: float) -> bool:
    """Whether the attempt there ended before ``before``; then its folder is removed."""
    try:
        look = attempt.look(folder)
        ended_at = look.exit.ended_at if look.exit is not None else os.stat(folder).st_mtime
        if look.kind is LookKind.RUNNING or ended_at >= before:
            return False
    except OSError:
        return False
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _take_in(database: Database, jobs: str, job_id: int, numbers: list[int], boot_id: str) -> int:
    """One job's attempts, the last one left open; how many were taken in."""
    found, launch = [], None
    for number in numbers:
        folder = attempt.folder_of(jobs, Key("job", job_id, number))
        launch = attempt.read_launch(folder) or launch
        found.append(_found(folder, number, attempt.read_launch(folder), boot_id, is_last=number == numbers[-1]))
    if launch is None:
        # Nothing says what it was, so it never ran: the launch is written before a shim is told of it.
        log.error("job %d has folders without a launch", job_id, extra={"action": "taken_in"})
        return 0
    with database.write() as conn:
        if not forgotten.is_behind(conn, job_id, numbers[-1]):
            return 0  # an attempt of before what the queue knows: nothing follows from it
        forgotten.take_in(conn, job_id, _origin(launch), _env(launch), launch.umask, found)
    return len(found)


def _found(folder: str, number: int, launch: LaunchSpec | None, boot_id: str, *, is_last: bool) -> Found:
    look = attempt.look(folder)
    record = look.exit
    placed_at = _made_at(folder)
    outcome = None
    if not is_last:
        outcome = Outcome.LOST if record is None else _outcome(look)
    return Found(
        number=number,
        boot_id=look.boot or (boot_id if placed_at >= _booted_at() else "another"),
        placed_at=placed_at,
        cards=launch.cards if launch else (),
        reserved_bytes=launch.reserved_bytes if launch else (),
        ram_bytes=launch.ram_bytes if launch else 0,
        outcome=outcome,
        exit_code=record.exit_code if record and outcome else None,
        signal=record.signal if record and outcome else None,
        started_at=look.started_at,
        ended_at=record.ended_at if record and outcome else None,
    )


def _outcome(look: Look) -> Outcome:
    assert look.exit is not None
    return Outcome.SUCCEEDED if look.exit.exit_code == 0 and look.exit.reason is None else Outcome.FAILED


def _made_at(folder: str) -> float:
    try:
        return os.stat(os.path.join(folder, "launch.json")).st_mtime
    except OSError:
        return os.stat(folder).st_mtime


def _booted_at() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _env(launch: LaunchSpec) -> dict[str, str]:
    return {name: value for name, value in launch.env.items() if name not in _PLACED}


def _origin(launch: LaunchSpec) -> Origin:
    """What the launch keeps of its job; of one by an earlier release, what follows from it."""
    try:
        return msgspec.json.decode(launch.annex, type=Origin)
    except msgspec.DecodeError:
        uid = launch.uid if launch.uid is not None else os.getuid()
        found = account(uid)
        return Origin(
            name=f"job-{launch.id}",
            uid=uid,
            user=launch.user or (found.name if found else str(uid)),
            submitted_at=time.time(),
            spec=JobSpec(
                name=f"job-{launch.id}",
                command=launch.argv,
                cwd=launch.cwd,
                cards=len(launch.cards),
                vram_bytes=min(launch.reserved_bytes, default=None),
                ram_bytes=launch.ram_bytes,
                time_limit_seconds=launch.time_limit_seconds,
            ),
        )
