"""Reading what can be read of a damaged queue, row by row, around what cannot."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

#: Parents before what names them.
TABLES = (
    "settings",
    "requirements",
    "documents",
    "needs",
    "jobs",
    "attempts",
    "attempt_cards",
    "measurements",
    "results",
    "cards",
    "memory_tests",
    "schedules",
    "notifications",
    "families",
    "instances",
    "instance_cards",
    "pins",
)
_ROWS = 256
_LAST_ROWID = 2**63 - 1


class Salvaged(msgspec.Struct, kw_only=True):
    """Rows read by table, and in which tables some could not be."""

    rows: dict[str, int] = {}
    incomplete: list[str] = []


def salvage(damaged: Path, into: sqlite3.Connection, beat: Callable[[], None]) -> Salvaged:
    """Copy every row that ``damaged`` still gives over those of ``into``, which is open in a transaction without
    foreign keys. ``beat`` is called now and then. A file of which nothing can be read gives nothing."""
    found = Salvaged(rows={}, incomplete=[])
    try:
        source = sqlite3.connect(f"file:{_quoted(damaged)}?mode=ro", uri=True, isolation_level=None, timeout=5.0)
    except sqlite3.Error:
        return _nothing()
    try:
        for table in TABLES:
            _salvage_table(source, into, table, found, beat)
    finally:
        source.close()
    return found


def _nothing() -> Salvaged:
    return Salvaged(rows={}, incomplete=list(TABLES))


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def _salvage_table(
    source: sqlite3.Connection, into: sqlite3.Connection, table: str, found: Salvaged, beat: Callable[[], None]
) -> None:
    wanted = _columns(into, table)
    try:
        there = _columns(source, table)
    except sqlite3.Error:
        there = []
    columns = [name for name in wanted if name in there]
    if not columns:
        found.incomplete.append(table)
        return
    names = ", ".join(f'"{name}"' for name in columns)
    insert = f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    reader = _Reader(source, table, names)
    count = 0
    for rows in reader:
        beat()
        count += _insert(into, insert, rows, reader)
    found.rows[table] = count
    if not reader.complete:
        found.incomplete.append(table)


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]


def _insert(into: sqlite3.Connection, statement: str, rows: Sequence[tuple[Any, ...]], reader: _Reader) -> int:
    """Store them; one that STRICT or NOT NULL refuses came from a damaged page and is left out."""
    stored = 0
    for row in rows:
        try:
            into.execute(statement, row)
            stored += 1
        except sqlite3.IntegrityError:
            reader.complete = False
    return stored


class _Reader:
    """The rows of one table in order of their rowids; where a page cannot be read, what is behind it is looked for."""

    def __init__(self, source: sqlite3.Connection, table: str, names: str) -> None:
        self._source = source
        self._select = f"SELECT rowid, {names} FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid LIMIT ?"  # noqa: S608
        self.complete = True

    def __iter__(self) -> Iterator[list[tuple[Any, ...]]]:
        after, limit = -1, _ROWS
        while True:
            rows = self._read(after, limit)
            if rows is None and limit > 1:
                limit = max(1, limit // 4)
                continue
            if rows is None:
                self.complete = False
                further = self._behind(after)
                if further is None:
                    return
                after, limit = further, _ROWS
                continue
            if not rows:
                return
            yield [row[1:] for row in rows]
            after, limit = rows[-1][0], min(_ROWS, limit * 2)

    def _read(self, after: int, limit: int) -> list[tuple[Any, ...]] | None:
        """None where they cannot be read. A text that is none is damage too."""
        try:
            return self._source.execute(self._select, (after, limit)).fetchall()
        except (sqlite3.Error, UnicodeDecodeError):
            return None

    def _behind(self, after: int) -> int | None:
        """The smallest rowid behind ``after`` from which on reading goes on; None where it never does."""
        step = 1
        while after + step < _LAST_ROWID and self._read(after + step, 1) is None:
            step *= 2
        if after + step >= _LAST_ROWID:
            return None
        low, high = after + step // 2, after + step
        while low + 1 < high:
            middle = (low + high) // 2
            if self._read(middle, 1) is None:
                low = middle
            else:
                high = middle
        return high
