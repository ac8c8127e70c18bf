"""The database file: how it is opened, how a transaction begins, what a failed one means.

SQLAlchemy's pysqlite defaults begin transactions late and as deferred, so that two reads of one ``begin()`` can
differ and an upgrade to a write fails at once with BUSY. Here the driver's own transaction handling is off
(``isolation_level=None``) and BEGIN is emitted as written: IMMEDIATE for the writer, plain for readers.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.pool import NullPool, StaticPool

from p104d.core.errors import UnavailableError
from p104d.store import wal

#: What SQLite answers where the file is not what it wrote: no space and no second try will mend that.
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
#: Pages of 4 KiB; together with mmap off this bounds the daemon's memory however large the queue grows.
_CACHE_PAGES = 2000
#: The WAL is checkpointed at this many pages: SQLite's own default, written down because budgets lean on it.
_CHECKPOINT_PAGES = 1000


class DamagedError(UnavailableError):
    """The file itself is damaged: ``why``, in one line; the daemon has to be started anew to restore it."""

    def __init__(self, why: object) -> None:
        self.why = str(why)
        super().__init__(f"the queue is damaged: {why}", mend="p104d restores it and goes on in a moment")


def is_damage(error: BaseException) -> bool:
    """Whether this is SQLite's word that the file's content is not what it wrote."""
    driver = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    code = getattr(driver, "sqlite_errorcode", None)
    return isinstance(driver, sqlite3.DatabaseError) and code is not None and code & 0xFF in _DAMAGE


def _is_full(error: sa.exc.DatabaseError | sqlite3.DatabaseError) -> bool:
    driver = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    return getattr(driver, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def _prepare(engine: Engine, *, synchronous: str, begin: str) -> None:
    @sa.event.listens_for(engine, "connect")
    def _connect(dbapi: sqlite3.Connection, _record: Any) -> None:
        dbapi.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
            f"cache_size={_CACHE_PAGES}",
            f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
            "temp_store=MEMORY",
            "busy_timeout=5000",
            "trusted_schema=OFF",
        ):
            dbapi.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.execute(begin)


class Database:
    """One SQLite file with one writing connection and reading ones beside it, all of this process alone.

    ``write()`` and ``read()`` give a connection inside a transaction. When one raises
    UnavailableError nothing of the transaction has happened, nor will: the disk was full (rolled back; the file stays
    open) or it failed (what was written of it is cut off, the file closed, and opened again by the next use). Where
    that cannot be done (no room, or the disk still fails) each use raises UnavailableError until it can.
    A DamagedError is for good: ``on_damage`` is called with its text too.
    """

    def __init__(self, path: Path, *, synchronous: str = "FULL") -> None:
        self.path = path
        self._synchronous = synchronous
        self._is_open = self._to_be_cut = False
        self.on_damage: Callable[[str], None] = lambda _: None
        self._ready()

    def _ready(self) -> None:
        if self._to_be_cut:
            self._cut()
        if self._is_open:
            return
        try:
            self._open()
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            raise self._failed("opened", error) from error
        self._is_open = True

    def _failed(self, done: str, error: sa.exc.DatabaseError | sqlite3.DatabaseError) -> BaseException:
        """What to raise instead of ``error``; errors of ours (a constraint, a wrong statement) stay what they are."""
        why = error.orig if isinstance(error, sa.exc.DatabaseError) else error
        if is_damage(error):
            self.on_damage(str(why))
            return DamagedError(why)
        if not isinstance(why, sqlite3.OperationalError):
            return error
        return UnavailableError(f"the queue cannot be {done}: {why}", mend=self._mend)

    @property
    def _mend(self) -> str:
        return f"free space on or check the disk of {self.path}"

    def _open(self) -> None:
        url = sa.URL.create("sqlite", database=str(self.path))
        self._writer = sa.create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
        _prepare(self._writer, synchronous=self._synchronous, begin="BEGIN IMMEDIATE")
        self._reader = sa.create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False})
        _prepare(self._reader, synchronous=self._synchronous, begin="BEGIN")
        with contextlib.ExitStack() as undo:
            self._write_connection = undo.enter_context(self._writer.connect())
            self._read_connection = self._reader.connect()
            undo.pop_all()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A writing transaction; commits at the end, rolls back when the block raises."""
        self._ready()
        with self._guarded("written"), self._write_connection.begin():
            yield self._write_connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A reading transaction: everything in it sees one state of the database."""
        self._ready()
        with self._guarded("read"), self._read_connection.begin():
            yield self._read_connection

    @contextmanager
    def _guarded(self, done: str) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DatabaseError, sqlite3.DatabaseError) as error:
            instead = self._failed(done, error)
            if instead is error:
                raise
            if not _is_full(error):  # then it was rolled back, and a file that is closed may find no room to open again
                self._to_be_cut = True
                with contextlib.suppress(UnavailableError):  # then the next use tries again
                    self._cut()
            raise instead from error

    def _cut(self) -> None:
        """Leave nothing behind of a transaction that failed, and close. Raises UnavailableError."""
        try:
            wal.cut(self.path)
        except OSError as error:
            raise UnavailableError(
                f"the queue cannot be written: {error.strerror or error}", mend=self._mend
            ) from error
        self._to_be_cut = False
        self.close()

    def reopen(self) -> None:
        """Drop every connection and open the file again."""
        self.close()
        self._ready()

    def close(self) -> None:
        """Close all connections; the last one checkpoints the WAL."""
        if not self._is_open:
            return
        self._is_open = False
        for close in (
            self._read_connection.close,
            self._reader.dispose,
            self._write_connection.close,
            self._writer.dispose,
        ):
            # A connection whose disk fails complains once more about the rollback.
            with contextlib.suppress(sa.exc.DatabaseError, sqlite3.DatabaseError):
                close()

    def copy_to(self, target: Path) -> None:
        """Write a consistent copy to ``target`` (which must not exist) while the queue goes on. Safe in a thread."""
        engine = sa.create_engine(sa.URL.create("sqlite", database=str(self.path)), poolclass=NullPool)
        try:
            with engine.connect() as connection:
                source = connection.connection.driver_connection
                assert isinstance(source, sqlite3.Connection)
                copy = sqlite3.connect(target)
                try:
                    source.backup(copy)
                    copy.execute("PRAGMA journal_mode=DELETE")
                finally:
                    copy.close()
        finally:
            engine.dispose()
