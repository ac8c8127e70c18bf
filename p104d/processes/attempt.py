"""One attempt as the daemon sees it: its folder, what is launched in it, and what can be read from it afterwards."""

from __future__ import annotations

import errno
import fcntl
import glob
import os
from enum import StrEnum
from typing import NamedTuple

import msgspec

from p104d.processes import identity, record
from p104d.processes.record import VERSION


class Key(NamedTuple):
    """Which attempt. ``kind`` is ``job``, ``notify`` for a command that tells people of an ending, ``server`` for a
    copy of a model."""

    kind: str
    id: int
    number: int


class LaunchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a shim needs, as ``launch.json`` holds it: enough to rebuild a lost database from the folders too.

    ``env`` is the job's whole environment; ``P104_TOKEN=token`` is added to it, by which its processes are known.
    ``uid`` None: run as the daemon's own user; otherwise ``user`` and ``gid`` are needed as well. ``rlimits`` maps
    names such as ``nofile`` to (soft, hard), -1 being unlimited. ``ram_bytes`` and ``pids_max`` (0: none) hold where
    cgroups allow. ``log_limit_bytes`` is for the whole log; ``log_rate_bytes`` a second is what a job may write for
    long. ``annex`` is kept for the daemon's own use. ``folder``, ``events``, ``cgroup`` and ``token`` are filled in by
    the Supervisor when left empty.
    """

    kind: str = "job"
    id: int
    number: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    umask: int = 0o022
    rlimits: dict[str, tuple[int, int]] = {}
    time_limit_seconds: float | None = None
    grace_seconds: float = 10.0
    log_limit_bytes: int = 16 * 2**20
    log_rate_bytes: int = 4 * 2**20
    ram_bytes: int = 0
    pids_max: int = 4096
    cards: tuple[str, ...] = ()
    reserved_bytes: tuple[int, ...] = ()
    annex: str = ""
    folder: str = ""
    events: str = ""
    cgroup: str | None = None
    token: str = ""
    version: int = VERSION

    @property
    def key(self) -> Key:
        """Which attempt this launches."""
        return Key(self.kind, self.id, self.number)


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended; written by its shim, durable before anybody is told.

    ``reason`` is None, ``time limit``, ``stopped``, or why the command could not be started. Times are Unix seconds,
    ``started_at`` None when nothing was ever executed. ``max_rss_bytes`` is the largest process's. ``log_bytes`` were
    written to the log (rotation may have removed some), ``dropped_bytes`` were not. ``left_behind`` counts processes
    that even SIGKILL did not end.
    """

    version: int
    exit_code: int | None
    signal: int | None
    reason: str | None
    started_at: float | None
    ended_at: float
    wall_seconds: float
    user_seconds: float
    system_seconds: float
    max_rss_bytes: int
    log_bytes: int
    dropped_bytes: int
    left_behind: int = 0


class LookKind(StrEnum):
    """What a folder says of its attempt."""

    UNCLAIMED = "unclaimed"
    REVOKED = "revoked"
    RUNNING = "running"
    ENDED = "ended"
    DEAD = "dead"


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder says. ``pid``, ``start`` and ``boot`` are the shim's, ``group`` its job's cgroup; ``job_pid`` and
    ``started_at`` (Unix seconds) come once the job was executed.

    ``dead`` is claimed, no shim alive, no valid exit record: nobody knows how it ended.
    """

    kind: LookKind
    pid: int | None = None
    start: int | None = None
    boot: str | None = None
    group: str | None = None
    job_pid: int | None = None
    started_at: float | None = None
    exit: ExitRecord | None = None


def folder_of(root: str, key: Key) -> str:
    """``ROOT/ID // 1000/ID-NUMBER``: from integers alone, about a thousand to a folder."""
    return f"{root}/{key.id // 1000}/{key.id}-{key.number}"


def keys_in(root: str, kind: str) -> list[Key]:
    """The attempts that have a folder below ``root``; none where that cannot be read."""
    names = [os.path.basename(path) for path in glob.iglob(f"{glob.escape(root)}/*/*-*")]
    parts = [name.partition("-") for name in names]
    return [Key(kind, int(first), int(last)) for first, _, last in parts if first.isdigit() and last.isdigit()]


def read_launch(folder: str) -> LaunchSpec | None:
    """What was launched there; None where that is missing or damaged."""
    try:
        with open(os.path.join(folder, record.LAUNCH), "rb") as file:
            return msgspec.json.decode(file.read(), type=LaunchSpec)
    except (OSError, msgspec.DecodeError):
        return None


def _claim_of(folder: str) -> tuple[int | None, record.Owner | None]:
    """(A descriptor of the shim's file, None) or (None, who revoked it) or, unclaimed, (None, None)."""
    path = os.path.join(folder, record.CLAIM)
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), None
    except FileNotFoundError:
        return None, None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    return None, record.parse_owner(os.readlink(path))


def look(folder: str) -> Look:
    """What the folder says of its attempt now.

    An unclaimed attempt's lock is left alone, so that a slow shim is never disturbed. Raises OSError when the folder
    cannot be read for another reason than its absence.
    """
    descriptor, revoker = _claim_of(folder)
    if descriptor is None:
        return Look(kind=LookKind.UNCLAIMED if revoker is None else LookKind.REVOKED)
    try:
        # Liveness first: a shim that ends between the two questions has written its record by then.
        running = _locked(descriptor)
        data = os.pread(descriptor, record.FILE_BYTES, 0)
    finally:
        os.close(descriptor)
    note, exit_record = record.parse_note(data), _parse_exit(data)
    kind = LookKind.RUNNING if running else LookKind.DEAD
    return Look(
        kind=kind if exit_record is None else LookKind.ENDED,
        pid=note.owner.pid,
        start=note.owner.start,
        boot=note.owner.boot,
        group=note.group,
        job_pid=note.job_pid,
        started_at=note.started_at if exit_record is None else exit_record.started_at,
        exit=exit_record,
    )


def _parse_exit(data: bytes) -> ExitRecord | None:
    found = record.decode_exit(data)
    if found is None:
        return None
    try:
        return msgspec.convert(found, ExitRecord)
    except msgspec.ValidationError:
        return None


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def revoke(folder: str) -> bool:
    """Take the attempt, so that no shim ever runs it; True when it is ours, by this call or an earlier one.

    The folder is made where nobody came that far. Durable on return. Raises OSError when the disk refuses.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    me = record.Owner("revoked", os.getpid(), identity.start_time(os.getpid()) or 0, identity.boot_id())
    try:
        os.symlink(me.text(), os.path.join(folder, record.CLAIM))
    except FileExistsError:
        descriptor, revoker = _claim_of(folder)
        if descriptor is not None:
            os.close(descriptor)
        return revoker is not None
    _sync_folder(folder)
    return True


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_launch(spec: LaunchSpec) -> None:
    """Make the attempt's folder and ``launch.json`` in it. Raises OSError; FileExistsError when it was launched before.

    Not synced here: the shim's claim is, and an attempt that was never claimed needs no launch.
    """
    data = msgspec.json.encode(spec)
    path = os.path.join(spec.folder, record.LAUNCH)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.mkdir(spec.folder, 0o700)
    except FileNotFoundError:
        os.makedirs(spec.folder, 0o700, exist_ok=True)
    except FileExistsError:
        pass
    descriptor = os.open(path, flags, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)
