"""A damaged or missing queue: what is put aside, what comes back, and a kill between any two steps of it."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from store_rig import add, check_counts, document, spec

from p104d.core.errors import P104Error, UnavailableError
from p104d.store import backup, forgotten, reads, rescue, sql
from p104d.store.engine import DamagedError, Database

pytestmark = pytest.mark.torture

NOW = 1_800_000_000.0
PAGE = 4096


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    state = tmp_path / "state"
    state.mkdir()
    shutil.copy(template, state / "queue.db")
    return state / "queue.db"


def fill(path: Path, jobs: int, name: str = "some") -> list[int]:
    """Store jobs; their ids."""
    database = Database(path)
    try:
        with database.write() as conn:
            return [add(conn, document(f"{name}-{number}"))[0] for number in range(jobs)]
    finally:
        database.close()


def ids(path: Path) -> list[int]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT id FROM jobs ORDER BY id")]
    finally:
        connection.close()


def copy_of(path: Path, now: float = NOW, keep: int = 2) -> Path:
    database = Database(path)
    try:
        return backup.back_up(database, path.parent / "backup", now, keep)
    finally:
        database.close()


def pages_of(path: Path, table: str) -> list[int]:
    """The pages of a table that hold rows."""
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(
            "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY pageno", (table,)
        ).fetchall()
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat")
    finally:
        connection.close()
    return [int(row[0]) for row in found]


def spoil(path: Path, page: int, filling: bytes = b"\xa5") -> None:
    with open(path, "r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(filling * PAGE)


def healthy(path: Path) -> None:
    """Whole, its counts right, nothing named that is not there."""
    assert backup.problem(path) is None
    database = Database(path)
    try:
        with database.read() as conn:
            check_counts(conn)
            assert sql.rows(conn, "PRAGMA foreign_key_check") == []
    finally:
        database.close()


def test_a_whole_queue_is_left_alone(path: Path) -> None:
    fill(path, 3)
    before = path.read_bytes()
    assert rescue.rescue(path, NOW, lived=True) is None
    assert path.read_bytes() == before and os.listdir(path.parent) == ["queue.db"]


def test_a_new_folder_is_no_damage(tmp_path: Path) -> None:
    assert rescue.rescue(tmp_path / "queue.db", NOW, lived=False) is None
    assert os.listdir(tmp_path) == []


def test_a_page_of_jobs_that_is_noise_costs_what_was_on_it_since_the_backup(path: Path) -> None:
    first = fill(path, 300)
    copy_of(path)
    later = fill(path, 300, "later")
    leaves = pages_of(path, "jobs")
    assert len(leaves) > 6
    spoil(path, leaves[-2])
    found = rescue.rescue(path, NOW, lived=True)
    assert found is not None and "backup of 2027-01-15" in found.text and "may be missing" in found.text
    kept = ids(path)
    assert set(first) <= set(kept)
    missing = sorted(set(later) - set(kept))
    # One page: what was on it, a run of neighbours, and nothing else.
    assert 0 < len(missing) < 120 and missing == list(range(missing[0], missing[-1] + 1))
    healthy(path)
    assert (found.quarantine / "queue.db").exists() and (found.quarantine / "cause").read_text().strip()
    assert os.listdir(path.parent / "quarantine") == [found.quarantine.name]
    # Paused, and said so; ids of what is missing are not given again.
    connection = sqlite3.connect(path)
    settings = dict(connection.execute("SELECT key, value FROM settings"))
    connection.close()
    assert settings["paused"] == "1" and settings["rescue"] == found.text
    assert min(fill(path, 1)) > max(later)


def test_without_a_backup_what_can_be_read_is_kept(path: Path) -> None:
    every = fill(path, 400)
    spoil(path, pages_of(path, "jobs")[1])
    found = rescue.rescue(path, NOW, lived=True)
    assert found is not None and "without a backup" in found.text
    assert 300 < len(ids(path)) < len(every)
    healthy(path)


def test_damage_of_an_index_loses_nothing(path: Path) -> None:
    every = fill(path, 400)
    spoil(path, pages_of(path, "jobs_state")[0])
    found = rescue.rescue(path, NOW, lived=True)
    assert found is not None and f"all {len(every)} jobs" in found.text
    assert ids(path) == every
    healthy(path)


def test_a_file_that_is_no_database_any_more(path: Path) -> None:
    first = fill(path, 10)
    copy_of(path)
    fill(path, 10)
    path.write_bytes(os.urandom(60_000))
    found = rescue.rescue(path, NOW, lived=True)
    assert found is not None and "not a database" in found.text
    assert ids(path) == first
    healthy(path)


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "empty"])
def test_a_missing_queue_comes_from_the_backup(path: Path, gone: bool) -> None:
    first = fill(path, 5)
    copy_of(path)
    path.unlink() if gone else path.write_bytes(b"")
    found = rescue.rescue(path, NOW, lived=True)
    assert found is not None and "it was missing" in found.text
    assert ids(path) == first
    healthy(path)


def test_a_damaged_backup_is_passed_over(path: Path) -> None:
    first = fill(path, 50)
    copy_of(path, NOW - 86400)
    fill(path, 50)
    spoil(copy_of(path), 1)
    path.unlink()
    rescue.rescue(path, NOW, lived=True)
    assert ids(path) == first


@pytest.mark.parametrize("seed", range(25))
def test_noise_anywhere_is_survived(path: Path, seed: int) -> None:
    """Some bytes of some pages: whatever comes back is whole."""
    rng = random.Random(seed)
    fill(path, 120)
    copy_of(path)
    fill(path, 120)
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 5)):
        at = rng.randrange(len(data) - 64)
        data[at : at + 64] = rng.randbytes(64)
    path.write_bytes(data)
    rescue.rescue(path, NOW, lived=True, doubt="noise")
    assert len(ids(path)) >= 120
    healthy(path)


def test_a_wal_that_is_cut_short_leaves_a_whole_queue(path: Path) -> None:
    first = fill(path, 10)
    database = Database(path)
    with database.write() as conn:
        add(conn, document())
    shutil.copytree(path.parent, copied := path.parent.parent / "copied")
    database.close()
    wal = copied / "queue.db-wal"
    assert wal.stat().st_size > PAGE
    os.truncate(wal, wal.stat().st_size - 1000)
    assert rescue.rescue(copied / "queue.db", NOW, lived=True) is None
    assert ids(copied / "queue.db") == first
    healthy(copied / "queue.db")


def test_too_often_is_the_disks_fault(path: Path) -> None:
    for number in range(3):
        fill(path, 1)
        spoil(path, 1)
        assert rescue.rescue(path, NOW + number, lived=True) is not None
    spoil(path, 1)
    with pytest.raises(P104Error, match="damaged 4 times within an hour") as raised:
        rescue.rescue(path, NOW + 9, lived=True)
    assert "check the disk" in raised.value.line()
    assert rescue.rescue(path, NOW + 9000, lived=True) is not None


#: A rescue in a process that kills itself at its N-th rename, unlink, fsync, execute or copy.
KILLED = """
import os, shutil, signal, sqlite3, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from p104d.store import rescue
left = int(sys.argv[3])
def counted(function):
    def call(*a, **k):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*a, **k)
    return call
for module, name in ((os, "replace"), (os, "fsync"), (os, "utime"), (shutil, "copyfile")):
    setattr(module, name, counted(getattr(module, name)))
for name in ("unlink", "rename", "mkdir", "write_text"):
    setattr(Path, name, counted(getattr(Path, name)))
rescue.upgrade_in_child = counted(rescue.upgrade_in_child)
rescue.salvage = counted(rescue.salvage)
rescue.tidy = counted(rescue.tidy)
rescue.problem = counted(rescue.problem)
rescue.rescue(Path(sys.argv[2]), 1.8e9, lived=True)
print("done", left)
"""


def test_a_kill_between_any_two_steps(path: Path) -> None:
    first = fill(path, 60)
    copy_of(path)
    every = first + fill(path, 60)
    spoil(path, pages_of(path, "jobs_state")[0])
    root = str(Path(__file__).resolve().parents[2])
    number, done = 0, False
    while not done:
        number += 1
        state = path.parent.with_name(f"state-{number}")
        shutil.copytree(path.parent, state)
        told = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(KILLED), root, str(state / "queue.db"), str(number)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        done = told.stdout.startswith("done")
        assert done or told.returncode == -9, told.stderr
        rescue.rescue(state / "queue.db", NOW, lived=True)
        assert ids(state / "queue.db") == every, number
        healthy(state / "queue.db")
        quarantine = os.listdir(state / "quarantine")
        assert len(quarantine) == 1 and quarantine[0] != "pending"
        assert (state / "quarantine" / quarantine[0] / "queue.db").exists()
        assert not list(state.glob("*.new*"))
        shutil.rmtree(state)
    assert number > 15


# --- backups ---------------------------------------------------------------------------------------------------------


def test_backups_are_daily_and_few(path: Path) -> None:
    folder = path.parent / "backup"
    assert backup.is_due(folder, NOW, 86400.0)
    for day in range(4):
        copy_of(path, NOW + day * 86400)
    assert [made for made, _ in backup.backups(folder)] == [NOW + 3 * 86400, NOW + 2 * 86400]
    assert len(os.listdir(folder)) == 2
    assert not backup.is_due(folder, NOW + 3 * 86400 + 3600, 86400.0)
    assert backup.is_due(folder, NOW + 4 * 86400, 86400.0)
    # A clock that was set back: the backup of a future day is no reason to make none.
    assert backup.is_due(folder, NOW, 86400.0)


def test_a_backup_of_a_damaged_queue_is_none(path: Path) -> None:
    fill(path, 300)
    spoil(path, pages_of(path, "jobs")[0])
    database = Database(path)
    with pytest.raises(DamagedError):
        backup.back_up(database, path.parent / "backup", NOW, 2)
    database.close()
    assert os.listdir(path.parent / "backup") == []


def test_a_backup_without_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    database = Database(path)
    monkeypatch.setattr(database, "copy_to", full)
    with pytest.raises(UnavailableError, match="could not be backed up: database or disk is full"):
        backup.back_up(database, path.parent / "backup", NOW, 2)
    database.close()
    assert os.listdir(path.parent / "backup") == []


def test_what_a_check_found_is_one_line() -> None:
    """An older SQLite puts a heading over it; both are told in the words that a failed reading has."""
    raw = "*** in database main ***\nPage 44: btreeInitPage() returns error code 11"
    assert backup.one_line([raw]) == "Page 44: btreeInitPage() returns error code 11"
    assert backup.one_line(["*** in database main ***\nPage 4: never used\n", "a\nb"]) == "Page 4: never used; a; b"


def test_a_forgotten_job_keeps_its_submitters_limits(database: Database) -> None:
    """It may have retries left; they are not to run without."""
    limits = {"nofile": (200, 300), "core": (0, -1)}
    origin = forgotten.Origin(name="j", uid=1000, user="me", submitted_at=1.0, spec=spec(), limits=limits)
    found = forgotten.Found(number=1, boot_id="boot", placed_at=2.0)
    with database.write() as conn:
        forgotten.take_in(conn, 7, origin, {}, 0o022, [found])
        document_id = sql.value(conn, "SELECT document_id FROM jobs WHERE id = 7")
        assert reads.document(conn, document_id).env.limits == limits
