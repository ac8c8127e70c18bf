"""Reading beside the daemon's own connections: for questions that take seconds, asked in a thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from p104d.core.errors import UnavailableError
from p104d.store.engine import DamagedError, is_damage


@contextmanager
def aside(path: Path) -> Iterator[Connection]:
    """A reading transaction beside the daemon's own, for any thread. Raises UnavailableError."""
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.isolation_level = None
            for pragma in ("query_only=ON", "temp_store=FILE", "busy_timeout=5000", "trusted_schema=OFF"):
                driver.execute(f"PRAGMA {pragma}")
            driver.execute("BEGIN")
            try:
                yield connection
            finally:
                driver.execute("ROLLBACK")
    except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
        why = error.orig if isinstance(error, sa.exc.DatabaseError) else error
        if is_damage(error):
            raise DamagedError(why) from error
        if not isinstance(why, sqlite3.OperationalError):
            raise
        raise UnavailableError(f"the queue's file cannot be read: {why}", mend=f"check the disk of {path}") from error
    finally:
        engine.dispose()
