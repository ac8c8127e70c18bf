"""telemetry.db: how the file is made, upgraded and opened, and what is done where it is damaged.

It is beside queue.db and apart from it: what is written every minute must not wait for, nor endanger, what was promised
to a submitter. Its schema is numbered in the file itself (``PRAGMA user_version``); the upgrades are the list below.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from p104d.core.errors import UnavailableError
from p104d.store.engine import Database, is_damage
from p104d.store.migrate import MigrationError
from p104d.store.telemetry_metrics import ALL_METRICS

log = logging.getLogger(__name__)

#: "P104" as SQLite's application id: what marks a file as ours.
APPLICATION_ID = 0x50313034
#: KiB. History is read seldom and by the range; a large cache would only be memory.
_CACHE_KIB = 1024

#: One entry a version, from the empty file on; a file of version n gets those from the n-th.
UPGRADES: tuple[str, ...] = (
    """
    CREATE TABLE entities (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
    CREATE TABLE metrics (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL, unit TEXT NOT NULL, scale REAL NOT NULL, bits INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE chunks (
        id INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL,
        entity_id INTEGER NOT NULL REFERENCES entities (id),
        start INTEGER NOT NULL,
        data BLOB NOT NULL
    ) STRICT;
    CREATE INDEX chunks_by_time ON chunks (kind, entity_id, start);
    CREATE TABLE rollups (
        entity_id INTEGER NOT NULL REFERENCES entities (id),
        metric_id INTEGER NOT NULL REFERENCES metrics (id),
        seconds INTEGER NOT NULL,
        start INTEGER NOT NULL,
        count INTEGER NOT NULL,
        minimum INTEGER NOT NULL,
        mean REAL NOT NULL,
        maximum INTEGER NOT NULL,
        PRIMARY KEY (entity_id, metric_id, seconds, start)
    ) STRICT, WITHOUT ROWID;
    CREATE VIEW history AS
        SELECT e.name AS entity, m.name AS metric, m.unit AS unit, r.seconds, r.start, r.count,
            r.minimum * m.scale AS minimum, r.mean * m.scale AS mean, r.maximum * m.scale AS maximum
        FROM rollups r JOIN entities e ON e.id = r.entity_id JOIN metrics m ON m.id = r.metric_id;
    """,
)


def upgrade(path: Path) -> None:
    """Make the file or bring it to this release's schema, all or nothing.

    Raises MigrationError for a file of a later release or of another program (it is left as it was), UnavailableError
    where the disk does not let it, sqlite3.DatabaseError for a damaged file.
    """
    connection = sqlite3.connect(path, isolation_level=None, timeout=5.0)
    try:
        version = _version(path, connection)
        # Has to be said before there is anything in the file: a bound on its size needs a way to shrink.
        if version == 0:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        if version < len(UPGRADES):
            _apply(connection, version)
    except sqlite3.OperationalError as error:
        raise unavailable(path, "opened", error) from error
    finally:
        connection.close()


def _version(path: Path, connection: sqlite3.Connection) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    owner = int(connection.execute("PRAGMA application_id").fetchone()[0])
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and owner != APPLICATION_ID:
        raise MigrationError(f"{path} is not p104d's telemetry", mend="move it away, or name another folder")
    if version > len(UPGRADES):
        raise MigrationError(
            f"{path} is at version {version}, which this p104d does not know",
            mend="a newer p104d wrote it: install that release again, or move the file away; it was left as it was",
        )
    return version


def _apply(connection: sqlite3.Connection, version: int) -> None:
    metrics = [(each.number, each.name, each.unit, each.scale, each.bits) for each in ALL_METRICS]
    connection.execute("BEGIN IMMEDIATE")
    try:
        for script in UPGRADES[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.executemany("INSERT OR IGNORE INTO metrics VALUES (?, ?, ?, ?, ?)", metrics)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version={len(UPGRADES)}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """``executescript`` commits what is open before it begins: statements are given one by one."""
    return [statement for statement in (part.strip() for part in script.split(";")) if statement]


def unavailable(path: Path, done: str, why: object) -> UnavailableError:
    """The error of a telemetry file that cannot be ``done`` (opened, written, read)."""
    return UnavailableError(f"telemetry cannot be {done}: {why}", mend=f"free space on or check the disk of {path}")


class TelemetryFile(Database):
    """The open file; every use of it may come from another thread, one at a time.

    ``write()`` and ``read()`` raise UnavailableError where the disk is full or fails, and for a damaged file, which is
    moved aside: history is not worth a daemon that does not start, and the next use begins a new one.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        #: Damaged files moved aside since the start.
        self.set_aside: list[Path] = []
        try:
            super().__init__(path, synchronous="NORMAL")
        except UnavailableError:
            # Moved aside, or a disk that fails: the second time tells.
            if not self.set_aside:
                raise
            super().__init__(path, synchronous="NORMAL")

    def _open(self) -> None:
        upgrade(self.path)
        super()._open()
        for connection in (self._write_connection, self._read_connection):
            driver = connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            driver.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")

    def _failed(self, done: str, error: sa.exc.DatabaseError | sqlite3.DatabaseError) -> BaseException:
        cause = error.orig if isinstance(error, sa.exc.DatabaseError) else error
        if is_damage(error):
            self._put_aside()
        elif not isinstance(cause, sqlite3.OperationalError):
            return error
        return unavailable(self.path, done, cause)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A writing transaction; see ``Database``."""
        with self._lock, super().write() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A reading transaction; see ``Database``."""
        with self._lock, super().read() as connection:
            yield connection

    def shrink(self, pages: int) -> None:
        """Give so many free pages back to the disk."""
        with self._lock, self._guarded("written"):
            self._ready()
            driver = self._write_connection.connection.driver_connection
            assert isinstance(driver, sqlite3.Connection)
            # A row without a column for each page, of which the driver's execute takes the first alone.
            driver.executescript(f"PRAGMA incremental_vacuum({pages})")

    def close(self) -> None:
        """Close all connections."""
        with self._lock, contextlib.suppress(sa.exc.SQLAlchemyError):
            super().close()

    def _put_aside(self) -> None:
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged-{int(time.time())}")
        for ending in ("", "-wal", "-shm"):
            source = self.path.with_name(self.path.name + ending)
            with contextlib.suppress(OSError):
                source.rename(aside.with_name(aside.name + ending))
        self.set_aside.append(aside)
        log.error(
            "telemetry was damaged and begins anew; what is left of it: %s",
            aside,
            extra={"action": "telemetry_damaged"},
        )
