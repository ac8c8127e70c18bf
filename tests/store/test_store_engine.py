"""The file itself: transactions as written, a full disk, copies while the queue goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_rig import add, check_counts, document, everything

from p104d.core.errors import UnavailableError
from p104d.store import sql
from p104d.store.engine import DamagedError, Database


def test_a_reader_sees_one_state(database: Database) -> None:
    with database.read() as reading:
        assert sql.value(reading, "SELECT count(*) FROM jobs") == 0
        with database.write() as conn:
            add(conn)
        assert sql.value(reading, "SELECT count(*) FROM jobs") == 0
    with database.read() as reading:
        assert sql.value(reading, "SELECT count(*) FROM jobs") == 1


def test_the_connections_are_as_the_promises_need_them(template: Path, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    shutil.copy(template, path)
    opened = Database(path)
    try:
        for use in (opened.write, opened.read):
            with use() as conn:
                found = {
                    name: sql.value(conn, f"PRAGMA {name}") for name in ("journal_mode", "synchronous", "foreign_keys")
                }
                assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
        with pytest.raises(sqlite3.IntegrityError), opened.write() as conn:
            sql.run(conn, "UPDATE jobs SET document_id = 99 WHERE id = ?", (add(conn)[0],))
    finally:
        opened.close()


def test_a_writer_takes_the_lock_at_once(database: Database) -> None:
    """BEGIN IMMEDIATE: another writer waits before it reads, so that what it read is still so when it writes."""
    other = sqlite3.connect(database.path, timeout=0, isolation_level=None)
    try:
        with database.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    finally:
        other.close()


def test_a_copy_is_consistent_while_jobs_are_submitted(database: Database, tmp_path: Path) -> None:
    """Each submission here has three jobs: a copy with another number of them was made in the middle of one."""
    with database.write() as conn:
        add(conn, document(matrix=300))
    done = threading.Event()
    written = threading.Event()

    def copies() -> list[Path]:
        found = []
        while len(found) < 3 or not written.is_set():
            found.append(tmp_path / f"copy{len(found)}.db")
            database.copy_to(found[-1])
        return found

    made: list[Path] = []

    def work() -> None:
        with contextlib.suppress(sqlite3.Error):
            made.extend(copies())
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(30):
            with database.write() as conn:
                add(conn, document(matrix=3))
    finally:
        written.set()
        assert done.wait(30)
        thread.join()
    assert len(made) >= 3
    for path in made:
        copy = sqlite3.connect(path)
        total, counted = copy.execute("SELECT count(*), (SELECT sum(jobs) FROM state_counts) FROM jobs").fetchone()
        sound = copy.execute("PRAGMA integrity_check").fetchone()[0]
        mode = copy.execute("PRAGMA journal_mode").fetchone()[0]
        copy.close()
        assert total == counted and total % 3 == 0 and (sound, mode) == ("ok", "delete")
    with database.read() as conn:
        assert sql.value(conn, "SELECT count(*) FROM jobs") == 390


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 2 MiB of this test's own."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small tmpfs")
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="p104-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "p104-test", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def fill(folder: Path) -> Path:
    """Use up every block that is left."""
    path = folder / "full"
    with contextlib.suppress(OSError), path.open("ab", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return path


BIG = document("big", matrix=100, env={"TEXT": "x" * 30_000})


def test_a_full_disk_refuses_changes_nothing_and_mends_itself(small_disk: Path, template: Path) -> None:
    path = small_disk / "queue.db"
    shutil.copy(template, path)
    database = Database(path)
    try:
        with database.write() as conn:
            (kept,) = add(conn)
            before = everything(conn)
        full = fill(small_disk)
        for _ in range(3):
            with pytest.raises(UnavailableError, match="disk is full") as caught, database.write() as conn:
                while True:
                    add(conn, BIG)
            assert caught.value.retry and str(path) in str(caught.value.mend)
            with database.read() as conn:
                assert everything(conn) == before
        full.unlink()
        with database.write() as conn:
            assert add(conn) == [kept + 1]
            check_counts(conn)
    finally:
        database.close()


def test_a_disk_too_full_to_open_the_file_again(
    small_disk: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes the last blocks, those of the WAL just closed too: refused until there is room, not for ever.

    A full disk alone closes nothing; a failed reading does.
    """
    path = small_disk / "queue.db"
    shutil.copy(template, path)
    database = Database(path)
    try:
        with database.write() as conn:
            (kept,) = add(conn)
        full = fill(small_disk)
        plain = Database._open

        def too_late(self: Database) -> None:
            fill(small_disk)
            plain(self)

        monkeypatch.setattr(Database, "_open", too_late)
        with pytest.raises(UnavailableError, match="disk is full"), database.write() as conn:
            while True:
                add(conn, BIG)
        with pytest.raises(UnavailableError, match="cannot be read"), database.read():
            error = sqlite3.OperationalError("disk I/O error")
            raise error
        for use in (database.write, database.read, database.write):
            with pytest.raises(UnavailableError, match="cannot be opened"), use():
                pytest.fail("there is no room")
        monkeypatch.undo()
        full.unlink()
        with database.write() as conn:
            assert add(conn) == [kept + 1]
    finally:
        database.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be opened"):
        Database(tmp_path / "nowhere" / "queue.db")


def test_a_read_that_fails_is_told_and_the_file_opened_again(database: Database) -> None:
    with database.read() as conn:
        before = conn.connection.driver_connection
    with pytest.raises(UnavailableError, match="cannot be read: disk I/O error"), database.read():
        error = sqlite3.OperationalError("disk I/O error")
        raise error
    with database.read() as conn:
        assert sql.value(conn, "SELECT 1") == 1
        assert conn.connection.driver_connection is not before


def test_damage_is_told_apart_and_told(template: Path, tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    shutil.copy(template, path)
    database = Database(path)
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    with database.write() as conn:
        sql.run(conn, f"INSERT INTO settings {many} SELECT 'key ' || i, 'value' FROM n")
    database.close()
    data = bytearray(path.read_bytes())
    data[8 * 4096 :] = b"\xa5" * (len(data) - 8 * 4096)
    path.write_bytes(data)
    told: list[str] = []
    database.on_damage = told.append
    malformed = pytest.raises(DamagedError, match="damaged: database disk image is malformed")
    with malformed as raised, database.read() as conn:
        sql.value(conn, "SELECT sum(length(value)) FROM settings")
    assert "restores it" in raised.value.line()
    assert told == ["database disk image is malformed"]
    database.close()
