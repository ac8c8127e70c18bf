"""Statements as text, inside SQLAlchemy's transactions: the driver's cursor, rows with names.

Every dispatch takes a dozen statements, and SQLAlchemy's own result set-up costs about 80 µs for each on the hosts this
is for; the driver takes 10. So SQLAlchemy keeps the connections, the transactions, the tables and the bulk inserts, and
the guarded statements, which are text anyhow, go through here.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy.engine import Connection

Parameters = Sequence[object] | Mapping[str, object]


@lru_cache(maxsize=256)
def _row_type(names: tuple[str, ...]) -> Any:
    # Columns without a name (counts, EXISTS) and doubled ones are read by position.
    return namedtuple("Row", names, rename=True)


def _execute(conn: Connection, statement: str, parameters: Parameters) -> sqlite3.Cursor:
    driver = conn.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver.execute(statement, parameters)


def _type_of(cursor: sqlite3.Cursor) -> Any:
    return _row_type(tuple(column[0] for column in cursor.description))


def run(conn: Connection, statement: str, parameters: Parameters = ()) -> int:
    """Execute a statement without a result; how many rows it changed."""
    return _execute(conn, statement, parameters).rowcount


def rows(conn: Connection, statement: str, parameters: Parameters = ()) -> list[Any]:
    """All rows of the result, by attribute or position."""
    cursor = _execute(conn, statement, parameters)
    return list(map(_type_of(cursor)._make, cursor.fetchall()))


def each(conn: Connection, statement: str, parameters: Parameters = ()) -> Iterator[Any]:
    """The rows one by one, as they are wanted: for answers that may be large."""
    cursor = _execute(conn, statement, parameters)
    return map(_type_of(cursor)._make, cursor)


def row(conn: Connection, statement: str, parameters: Parameters = ()) -> Any | None:
    """The first row; None where there is none."""
    # Fetched to the end: a RETURNING statement is only done when all of it was read.
    found = rows(conn, statement, parameters)
    return found[0] if found else None


def value(conn: Connection, statement: str, parameters: Parameters = ()) -> Any:
    """The first column of the first row; None where there is no row."""
    found = _execute(conn, statement, parameters).fetchall()
    return found[0][0] if found else None
