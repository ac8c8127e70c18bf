"""A queue that is damaged or gone: put aside, restored from the newest backup and from what of it can still be read.

The order of the steps survives a kill after each of them. What is damaged moves to ``quarantine/pending``; the new file
is complete, checked and durable before it gets its name; then the quarantine gets its own::

    queue.db, -wal, -shm  ->  quarantine/pending/      (each by a rename)
    backup + pending      ->  queue.db.new             (begun again after a kill)
    queue.db.new          ->  queue.db
    quarantine/pending    ->  quarantine/20261124T031500Z
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from p104d.core.errors import P104Error
from p104d.store.backup import FOLDER, backups, make_durable, problem
from p104d.store.migrate import upgrade_in_child
from p104d.store.salvage import Salvaged, salvage
from p104d.store.tidying import tidy

QUARANTINE = "quarantine"
_PENDING = "pending"
_ENDINGS = ("", "-wal", "-shm")
#: So often within this time, and the disk is what has to be mended: every restoring keeps a copy of what was damaged.
_MOST_TIMES, _WITHIN_SECONDS = 3, 3600.0
#: Ids that were given since the backup may be lost: nobody is to get one of them again.
_SKIPPED_IDS = 1000


class Rescue(msgspec.Struct, frozen=True, kw_only=True):
    """What was done. ``text`` is for people, and stays in ``status`` until they let the queue go on."""

    text: str
    quarantine: Path


def rescue(
    database: Path,
    now: float,
    *,
    lived: bool,
    doubt: str | None = None,
    insist: bool = False,
    beat: Callable[[], None] = lambda: None,
) -> Rescue | None:
    """Check ``database`` and restore it where that is needed; None where it is whole, or new.

    ``lived`` tells that there was a queue here before, ``doubt`` what was found to be wrong with the file while it was
    used: it is looked at more closely, for SQLite takes one failed reading for damage too; ``insist`` that a closer
    look did not help. ``beat`` is called now and then. Raises UnavailableError where the disk does not let it (and it
    goes on from there the next time), P104Error where it was needed too often.
    """
    pending = database.parent / QUARANTINE / _PENDING
    if pending.is_dir() and (pending / database.name).exists() and _there(database):
        _settle_quarantine(pending, now)  # it was restored; only the last step was missing
        pending = database.parent / QUARANTINE / _PENDING
    if not pending.is_dir():
        found = problem(database, thorough=doubt is not None) or (doubt if insist else None)
        cause = found or (None if _there(database) or not lived else "it was missing")
        if cause is None:
            return None
        _not_too_often(pending.parent, now)
        _put_aside(database, pending, cause)
    cause = _read_cause(pending)
    _put_aside(database, pending, cause)
    text = _restore(database, pending, cause, beat)
    return Rescue(text=text, quarantine=_settle_quarantine(pending, now))


def _there(database: Path) -> bool:
    return database.exists() and database.stat().st_size > 0


def _not_too_often(folder: Path, now: float) -> None:
    recent = [each for each in folder.glob("2*") if now - each.stat().st_mtime < _WITHIN_SECONDS]
    if len(recent) >= _MOST_TIMES:
        raise P104Error(
            f"the queue was damaged {len(recent) + 1} times within an hour",
            mend=f"check the disk (dmesg, smartctl), then move {folder} away",
        )


def _put_aside(database: Path, pending: Path, cause: str) -> None:
    pending.mkdir(mode=0o700, parents=True, exist_ok=True)
    reason = pending / "cause"
    if not reason.exists():
        reason.write_text(cause + "\n")
    for ending in _ENDINGS:
        source = database.with_name(database.name + ending)
        if source.exists():
            os.replace(source, pending / source.name)
    make_durable(pending)
    make_durable(database.parent)


def _read_cause(pending: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return " ".join((pending / "cause").read_text().split()) or "unknown"
    return "unknown"


def _settle_quarantine(pending: Path, now: float) -> Path:
    """Its last name; a restoring within the same second takes the next free one."""
    stamp, number = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)), 0
    while (target := pending.with_name(stamp + (f"-{number}" if number else ""))).exists():
        number += 1
    os.utime(pending, (now, now))
    pending.rename(target)
    make_durable(target.parent)
    return target


# --- the new file ----------------------------------------------------------------------------------------------------


def _restore(database: Path, pending: Path, cause: str, beat: Callable[[], None]) -> str:
    fresh = database.with_name(database.name + ".new")
    for ending in (*_ENDINGS, "-journal"):
        fresh.with_name(fresh.name + ending).unlink(missing_ok=True)
    made, base = _base(database.parent / FOLDER)
    if base is not None:
        shutil.copyfile(base, fresh)
    beat()
    upgrade_in_child(fresh)
    beat()
    connection = sqlite3.connect(fresh, isolation_level=None)
    try:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("BEGIN IMMEDIATE")
        found = salvage(pending / database.name, connection, beat)
        dropped = tidy(connection, skipped_ids=_SKIPPED_IDS if found.incomplete else 0)
        beat()
        text = _text(cause, made, found, dropped)
        for key, value in (("paused", "1"), ("rescue", text)):
            connection.execute("INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)", (key, value))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode=DELETE")
    finally:
        connection.close()
    wrong = problem(fresh)
    if wrong is not None:
        raise P104Error(f"the queue could not be restored: {wrong}", mend="check the disk it is on (dmesg, smartctl)")
    make_durable(fresh)
    os.replace(fresh, database)
    make_durable(database.parent)
    return text


def _base(folder: Path) -> tuple[float | None, Path | None]:
    """The newest backup that is whole."""
    for made, path in backups(folder):
        if problem(path) is None:
            return made, path
    return None, None


def _text(cause: str, made: float | None, found: Salvaged, dropped: int) -> str:
    """What a person has to know, in one line."""
    said = [f"the queue was restored, because of its file: {cause}"]
    since = "ever" if made is None else f"since {time.strftime('%Y-%m-%d %H:%M', time.gmtime(made))} UTC"
    if made is not None:
        said.append(f"from the backup of {since.removeprefix('since ')}")
    else:
        said.append("without a backup")
    read = found.rows.get("jobs", 0)
    if found.incomplete:
        some = f"of what came later {read} jobs were read from the damaged file" if read else "nothing later was read"
        said.append(f"{some}; jobs submitted {since} that never started may be missing")
    else:
        said.append(f"all {read} jobs of the damaged file were read")
    if dropped:
        said.append(f"{dropped} rows without their other half were left out")
    return ", ".join(said)
