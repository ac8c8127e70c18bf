"""What was not committed is cut off the log; what was stays. The syncs that fail are in tests/faults."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from store_rig import add, document

from p104d.core.errors import UnavailableError
from p104d.store import sql, wal
from p104d.store.engine import Database


def log_bytes(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


@pytest.mark.parametrize("page", [512, 4096, 65536])
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_the_log_ends_with_its_last_commit(tmp_path: Path, page: int, rows: int) -> None:
    path = tmp_path / "some.db"
    conn = sqlite3.connect(path, isolation_level=None)
    for statement in (
        f"PRAGMA page_size={page}",
        "PRAGMA journal_mode=WAL",
        "PRAGMA cache_size=2",
        "CREATE TABLE t (x)",
    ):
        conn.execute(statement)
    for number in range(rows):
        conn.execute("INSERT INTO t VALUES (?)", (f"{number:0500d}",))
    committed = log_bytes(path)
    conn.execute("BEGIN IMMEDIATE")
    for number in range(500):  # more than the cache takes: it goes to the log uncommitted
        conn.execute("INSERT INTO t VALUES (?)", (f"{number:01000d}",))
    conn.execute("ROLLBACK")
    assert log_bytes(path) > committed
    wal.cut(path)
    assert log_bytes(path) == committed
    wal.cut(path)
    assert log_bytes(path) == committed
    conn.execute("INSERT INTO t VALUES ('after')")
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (rows + 1,)
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    other.close()
    conn.close()


def test_a_log_that_was_begun_anew_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    conn = sqlite3.connect(path, isolation_level=None)
    conn.execute("PRAGMA journal_mode=WAL")
    conn.execute("CREATE TABLE t (x)")
    for number in range(50):
        conn.execute("INSERT INTO t VALUES (?)", (number,))
    assert conn.execute("PRAGMA wal_checkpoint").fetchone()[0] == 0
    conn.execute("INSERT INTO t VALUES (50)")  # over the first frame; those behind are of before
    long = log_bytes(path)
    wal.cut(path)
    assert 0 < log_bytes(path) < long
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    wal.cut(path)
    assert log_bytes(path) == 0
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (51,)
    conn.close()


def test_nothing_is_open(tmp_path: Path) -> None:
    """No descriptor, no index: nothing is known, nothing is done."""
    wal.cut(tmp_path / "none.db")
    for headers in (b"", bytes(96), b"\1" * 47, b"\1" * 48 + b"\2" * 48):
        assert wal._committed_bytes(headers) is None


def test_a_failed_transaction_is_gone_before_the_next_use(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk refuses even that, nobody reads or writes until it does not."""
    refusals = iter([True, True, False])

    def refuse(path: Path) -> None:
        assert path == database.path
        if next(refusals):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(wal, "cut", refuse)
    with database.read() as conn:
        before = conn
    with pytest.raises(UnavailableError), database.write() as conn:
        add(conn, document("one"))
        raise OperationalError("", {}, sqlite3.OperationalError("disk I/O error"))
    with pytest.raises(UnavailableError, match="cannot be written: Input/output error"), database.read():
        pass
    with database.read() as conn:
        assert sql.value(conn, "SELECT count(*) FROM jobs") == 0
        assert conn is not before
    assert next(refusals, None) is None
