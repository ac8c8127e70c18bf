"""The files of one attempt's folder, as shim and daemon both know them. Standard library only: shims import this.

- ``launch.json``: what to run, written by the daemon before anything else.
- ``exit``: made by the shim, which holds flock on it for as long as it lives. Its first block is set aside at once and
  written at the very end: how the attempt ended. Its second holds a note: who the shim is, the job's cgroup and pid.
- ``claim``: who owns the attempt. The shim makes it as a hard link to its ``exit``, which bears its name by then; a
  daemon that revokes the attempt, as a symlink whose text is its own name. Both fail where there is one already.
- ``log``, ``log.1``: the output, made with its first byte.

Few files on purpose: each inode costs some file systems more than half a millisecond, which is what the fork of a
process costs. Version 1 of the folder; a newer daemon must understand it for one release.
"""

from __future__ import annotations

import binascii
import json
from typing import Any, NamedTuple, TypedDict

VERSION = 1
LAUNCH, CLAIM, EXIT, LOG, LOG_OLD = "launch.json", "claim", "exit", "log", "log.1"

#: One block: it is allocated at the claim and overwritten in place, so a full disk cannot lose how a job ended.
EXIT_BYTES = 4096
NOTE_AT = EXIT_BYTES
FILE_BYTES = 2 * EXIT_BYTES
#: Keeps the record within its block whatever a command is called.
_MAX_REASON = 1000

#: The variable that marks every process of an attempt, so that what a dead shim left behind can be found.
TOKEN_VARIABLE = "P104_TOKEN"  # noqa: S105 - the name of a marker, not a secret


class ExitDict(TypedDict):
    """What ``exit`` holds. Times are Unix seconds; ``wall_seconds`` is measured by the monotonic clock."""

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
    left_behind: int


class Owner(NamedTuple):
    """Who owns an attempt: its ``shim`` or the one who ``revoked`` it."""

    who: str
    pid: int
    start: int
    boot: str

    def text(self) -> str:
        """As it is written into the note, or as the target of the symlink."""
        return f"{self.who} {self.pid} {self.start} {self.boot}"


#: A claim whose owner cannot be read (its block was lost with the power): a shim, surely dead.
NOBODY = Owner("shim", 0, 0, "")


def parse_owner(text: str) -> Owner:
    """The owner in ``text``; NOBODY when it names none."""
    parts = text.split()
    if len(parts) != 4 or parts[0] not in ("shim", "revoked") or not (parts[1].isdigit() and parts[2].isdigit()):
        return NOBODY
    return Owner(parts[0], int(parts[1]), int(parts[2]), parts[3])


def group_prefix(pid: int, start: int) -> str:
    """How the names of a shim's cgroups begin, a number follows: no other process of this boot is called so."""
    return f"shim-{pid}-{start}-"


def parse_group(name: str) -> tuple[int, int] | None:
    """(pid, start) of the shim whose cgroup is called ``name``; None when it is none of ours."""
    parts = name.split("-")
    if len(parts) != 4 or parts[0] != "shim" or not all(part.isdigit() for part in parts[1:]):
        return None
    return int(parts[1]), int(parts[2])


class Note(NamedTuple):
    """What a shim notes of itself: who it is, the cgroup of its job, the job's pid and start (Unix seconds)."""

    owner: Owner
    group: str | None
    job_pid: int | None
    started_at: float | None


def parse_note(data: bytes) -> Note:
    """The note in the second block of ``exit``."""
    lines = [*data[NOTE_AT:].rstrip(b"\0").decode("utf-8", "replace").split("\n"), "", "", ""]
    words = lines[2].split()
    pid, at = (int(words[1]), float(words[2])) if len(words) == 3 and words[0] == "job" else (None, None)
    return Note(parse_owner(lines[0]), lines[1] if lines[1].startswith("/") else None, pid, at)


def begun(started_at: float | None, ended_at: float, wall_seconds: float) -> float | None:
    """When it began (Unix seconds): where the host's clock was set meanwhile, by the clock of its end."""
    if started_at is None or abs(ended_at - started_at - wall_seconds) < 1.0:
        return started_at
    return ended_at - wall_seconds


def encode_exit(record: ExitDict) -> bytes:
    """The record and its checksum, padded to its block so that nothing of an earlier write shows through."""
    bounded: ExitDict = {**record, "reason": record["reason"] and record["reason"][:_MAX_REASON]}
    body = json.dumps(bounded, separators=(",", ":")).encode()
    if len(body) > EXIT_BYTES - 16:
        bounded["reason"] = (bounded["reason"] or "").encode("ascii", "replace").decode()
        body = json.dumps(bounded, separators=(",", ":")).encode()
    return (body + b"\n%08x\n" % binascii.crc32(body)).ljust(EXIT_BYTES, b"\0")


def decode_exit(data: bytes) -> dict[str, Any] | None:
    """The record in ``data``; None when it was never written, or not wholly."""
    body, _, rest = data[:EXIT_BYTES].partition(b"\n")
    if rest[:9] != b"%08x\n" % binascii.crc32(body):
        return None
    try:
        record = json.loads(body)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
