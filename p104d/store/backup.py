"""A copy of the queue once a day, and whether a file is whole.

A backup is made from a living queue by SQLite's own means, checked, and only then given its name: what bears the name
of a backup can be restored.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import re
import sqlite3
import time
from pathlib import Path

from p104d.core.errors import UnavailableError
from p104d.store.engine import DamagedError, Database, is_damage

FOLDER = "backup"
_NAME = re.compile(r"queue-(\d{8}T\d{6})Z\.db")
_QUICK, _THOROUGH = "PRAGMA quick_check(1)", "PRAGMA integrity_check(1)"
_UNFINISHED = "queue.db.new"
#: SQLite's own words where a page cannot be read; used for what its check finds too, so that both are told alike.
_MALFORMED = "database disk image is malformed"
_MOST_CHARS = 200


def problem(path: Path, *, thorough: bool = False) -> str | None:
    """What is wrong with the content of ``path``, in one line; None for a whole queue, and for a file that is empty or
    not there. ``thorough`` compares the indexes with their tables too.

    Reads all of it (140 MB: 0.1 s). Raises UnavailableError where it cannot be read for another reason: a disk that
    fails or a folder that may not be entered is no reason to put the queue aside.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    try:
        connection = sqlite3.connect(path, timeout=5.0)
        # Noise in a table's name comes back in the words of what is wrong with it.
        connection.text_factory = lambda raw: raw.decode(errors="backslashreplace")
        try:
            found = [str(row[0]) for row in connection.execute(_THOROUGH if thorough else _QUICK)]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            return str(error)
        raise UnavailableError(f"{path} cannot be read: {error}", mend="check its disk and its rights") from None
    return None if found == ["ok"] else f"{_MALFORMED} ({one_line(found)})"


def one_line(found: list[str]) -> str:
    """What a check found, without the headings that SQLite puts over it (``*** in database main ***``)."""
    lines = [line.strip() for text in found for line in text.split("\n")]
    return "; ".join(line for line in lines if line and not line.startswith("***"))[:_MOST_CHARS]


def backups(folder: Path) -> list[tuple[float, Path]]:
    """(When it was made, path) of every backup, the newest first."""
    found = []
    for path in folder.glob("queue-*.db"):
        match = _NAME.fullmatch(path.name)
        if match:
            found.append((float(calendar.timegm(time.strptime(match[1], "%Y%m%dT%H%M%S"))), path))
    return sorted(found, reverse=True)


def is_due(folder: Path, now: float, every: float) -> bool:
    """Whether the newest backup is older than ``every`` seconds, or from a future that a wrong clock made."""
    newest = next(iter(backups(folder)), None)
    return newest is None or not 0 <= now - newest[0] < every


def back_up(database: Database, folder: Path, now: float, keep: int) -> Path:
    """Write a backup and remove all but the newest ``keep``; its path. Safe in a thread while the queue goes on.

    Raises UnavailableError where the disk has no room, DamagedError where the queue turns out to be damaged.
    """
    target = folder / time.strftime("queue-%Y%m%dT%H%M%SZ.db", time.gmtime(now))
    unfinished = folder / _UNFINISHED
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        database.copy_to(unfinished)
        wrong = problem(unfinished)
        if wrong is not None:
            raise DamagedError(wrong)
        make_durable(unfinished)
        os.replace(unfinished, target)
        make_durable(folder)
    except (OSError, sqlite3.Error) as error:
        if is_damage(error):
            raise DamagedError(error) from error
        mend = f"free space on or check the disk of {folder}"
        raise UnavailableError(f"the queue could not be backed up: {error}", mend=mend) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    for _, old in backups(folder)[keep:]:
        with contextlib.suppress(OSError):
            old.unlink()
    return target


def make_durable(path: Path) -> None:
    """fsync a file or a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
