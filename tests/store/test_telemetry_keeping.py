"""What stays of history and what leaves; what a crash, a bad disk, an old and a new release do to its file."""

from __future__ import annotations

import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from telemetry_rig import CARD, DAY0, kinds, raw, record, rows, spoil, temperature

from p104d.core.errors import UnavailableError
from p104d.store import telemetry_file, telemetry_keeping
from p104d.store.migrate import MigrationError
from p104d.store.telemetry import Telemetry
from p104d.store.telemetry_file import APPLICATION_ID, UPGRADES
from p104d.store.telemetry_keeping import Keep, compact, forget, keep
from p104d.store.telemetry_kinds import Kind

DAY = 86400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "telemetry.db"


# --- age and size --------------------------------------------------------------------------------------------------


def test_seconds_go_first_then_minutes_and_hours_never(path: Path) -> None:
    store = Telemetry(path)
    for day in range(3):
        record(store, DAY0 + day * DAY, 3700)
    rule = Keep(samples_seconds=10 * DAY, minutes_seconds=20 * DAY)
    keep(store, DAY0 + 9 * DAY, rule)
    assert kinds(store) == {Kind.SAMPLES_HOUR: 6, Kind.MINUTES_DAY: 3}
    keep(store, DAY0 + 10 * DAY + 3600, rule)
    assert kinds(store)[Kind.SAMPLES_HOUR] == 5
    for _ in range(3):
        keep(store, DAY0 + 15 * DAY, rule)
    assert kinds(store) == {Kind.MINUTES_DAY: 3}
    # What was asked for by the second is answered by the minute, at the minute's places.
    fine = store.series(CARD, "temperature_celsius", DAY0, DAY0 + DAY, 1.0)
    assert fine.times == [DAY0 + minute * 60 for minute in range(62)]
    for _ in range(3):
        keep(store, DAY0 + 300 * DAY, rule)
    assert kinds(store) == {}
    hours = store.series(CARD, "temperature_celsius", DAY0, DAY0 + 3 * DAY, 60)
    assert hours.times == [DAY0 + day * DAY + hour * 3600 for day in range(3) for hour in range(2)]
    assert store.series(CARD, "temperature_celsius", DAY0, DAY0 + 3 * DAY, DAY).times == [
        DAY0,
        DAY0 + DAY,
        DAY0 + 2 * DAY,
    ]
    store.close()


def test_seconds_and_minutes_are_read_together_where_some_are_gone(path: Path) -> None:
    store = Telemetry(path)
    record(store, DAY0, 7200)
    compact(store, DAY0 + DAY)
    forget(store, DAY0 + DAY + 3600, Keep(samples_seconds=DAY))
    assert kinds(store)[Kind.SAMPLES_HOUR] == 1
    found = store.series(CARD, "temperature_celsius", DAY0, DAY0 + 7200, 1.0).times
    assert found == [*(DAY0 + 60 * minute for minute in range(60)), *(DAY0 + second for second in range(3600, 7200))]
    store.close()


def test_a_clock_years_ahead_for_an_hour_costs_two_days_at_most(path: Path) -> None:
    store = Telemetry(path)
    for day in range(10):
        record(store, DAY0 + day * DAY, 60)
    compact(store, DAY0 + 20 * DAY)
    forget(store, DAY0 + 9999 * DAY, Keep())
    assert kinds(store)[Kind.SAMPLES_HOUR] == 8
    assert kinds(store)[Kind.MINUTES_DAY] == 8
    store.close()


def test_the_oldest_leave_where_the_file_is_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry_keeping, "_BATCH", 2)
    monkeypatch.setattr(telemetry_keeping, "_MUCH_FREE", 4)
    store, dice = Telemetry(path), random.Random(7)
    for hour in range(8):
        # Noise that no compression helps with.
        record(store, DAY0 + hour * 3600, 3600, value=lambda _: dice.getrandbits(32))
    compact(store, DAY0 + DAY)
    before = store.size_bytes()
    keep(store, DAY0 + DAY, Keep(size_bytes=before * 2))
    assert kinds(store)[Kind.SAMPLES_HOUR] == 8
    keep(store, DAY0 + DAY, Keep(size_bytes=before * 6 // 10))
    assert store.size_bytes() <= before * 6 // 10
    assert 0 < kinds(store)[Kind.SAMPLES_HOUR] <= 5
    starts = [row[0] for row in rows(store, "SELECT start FROM chunks WHERE kind = 1 ORDER BY start")]
    assert starts[-1] == DAY0 + 7 * 3600
    keep(store, DAY0 + DAY, Keep(size_bytes=1))
    assert kinds(store) == {}
    hours = store.series(CARD, "temperature_celsius", DAY0, DAY0 + DAY, 3600)
    assert len(hours.times) == 8
    store.close()
    assert path.stat().st_size < before / 2


# --- crashes -------------------------------------------------------------------------------------------------------

_RECORDER = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from telemetry_rig import DAY0, record
from p104d.store.telemetry import Telemetry
from p104d.store.telemetry_keeping import compact
store = Telemetry(Path(sys.argv[1]))
minute = 0
while True:
    record(store, DAY0 + minute * 60, 60)
    print(minute, flush=True)
    if minute % 60 == 30:
        compact(store, DAY0 + minute * 60)
    minute += 1
"""


@pytest.mark.parametrize("after", [1, 29, 95, 152])
def test_kill_9_loses_nothing_that_was_written(path: Path, after: int) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).resolve().parents[2])]
    command = [sys.executable, "-c", _RECORDER.format(paths=paths), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as recorder:
        assert recorder.stdout is not None
        for line in recorder.stdout:
            if int(line) >= after:
                break
        os.kill(recorder.pid, signal.SIGKILL)
        last = max([after, *(int(line) for line in recorder.stdout if line.endswith("\n"))])
    store = Telemetry(path)
    found = raw(store, DAY0, DAY0 + 10 * DAY)
    # One minute more may have been written than was told.
    assert len(found) in {(last + 1) * 60, (last + 2) * 60}
    assert all(value == temperature(at) for at, value in found.items())
    compact(store, DAY0 + 10 * DAY)
    assert raw(store, DAY0, DAY0 + 10 * DAY) == found
    store.close()


def test_a_compaction_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Telemetry(path)
    record(store, DAY0, 3600)
    before = rows(store, "SELECT * FROM chunks")

    def fail(*_: object) -> bytes:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(telemetry_keeping, "minutes_chunk", fail)
        with pytest.raises(UnavailableError, match="telemetry cannot be written: database or disk is full"):
            compact(store, DAY0 + DAY)
    assert rows(store, "SELECT * FROM chunks") == before
    assert compact(store, DAY0 + DAY) == 2
    assert len(raw(store, DAY0, DAY0 + DAY)) == 3600
    store.close()


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_a_damaged_chunk_costs_itself_and_a_warning(
    path: Path, compacted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store = Telemetry(path)
    record(store, DAY0, 3 * 3600)
    if compacted:
        compact(store, DAY0 + DAY)
    store.close()
    spoil(
        path,
        "UPDATE chunks SET data = zeroblob(40) WHERE id = (SELECT id FROM chunks WHERE start = 1760058000 LIMIT 1)",
    )
    store = Telemetry(path)
    with caplog.at_level(logging.WARNING):
        found = raw(store, DAY0, DAY0 + DAY)
        raw(store, DAY0, DAY0 + DAY)
    lost = 3600 if compacted else 60
    assert len([at for at in found if at % 1 == 0]) >= 3 * 3600 - lost
    assert {DAY0 + second for second in range(3 * 3600) if not 3600 <= second < 3600 + lost} <= set(found)
    assert len([record for record in caplog.records if "damaged" in record.getMessage()]) == 1
    compact(store, DAY0 + 2 * DAY)
    assert Kind.SAMPLES_MINUTE not in kinds(store)
    store.close()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at" * 99, b"SQLite format 3\0" * 99]
)
def test_a_damaged_file_is_moved_aside_and_begun_anew(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    store = Telemetry(path)
    record(store, DAY0, 60)
    assert len(raw(store, DAY0, DAY0 + DAY)) == 60
    (aside,) = store.file.set_aside
    assert aside.read_bytes() == content
    store.close()


def test_a_file_that_is_damaged_later_is_moved_aside_too(path: Path) -> None:
    store = Telemetry(path)
    record(store, DAY0, 3600)
    store.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    store = Telemetry(path)
    with pytest.raises(UnavailableError):
        record(store, DAY0 + 3600, 60)
    record(store, DAY0 + 3600, 60)
    assert len(raw(store, DAY0, DAY0 + DAY)) == 60
    assert len(store.file.set_aside) == 1
    store.close()


# --- releases ------------------------------------------------------------------------------------------------------


def test_a_new_file_is_ours_and_strict(path: Path) -> None:
    Telemetry(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(UPGRADES),)
    assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    tables = connection.execute(
        "SELECT name, strict FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    )
    assert dict(tables) == dict.fromkeys(("entities", "metrics", "chunks", "rollups"), 1)
    connection.close()


def test_an_older_file_is_upgraded_with_all_it_holds(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Telemetry(path)
    record(store, DAY0, 3700)
    compact(store, DAY0 + DAY)
    before = raw(store, DAY0, DAY0 + DAY)
    store.close()
    more = (*UPGRADES, "CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT; ALTER TABLE entities ADD COLUMN note TEXT;")
    monkeypatch.setattr(telemetry_file, "UPGRADES", more)
    store = Telemetry(path)
    assert raw(store, DAY0, DAY0 + DAY) == before
    assert rows(store, "SELECT name, note FROM entities") == [(CARD, None)]
    store.close()


def test_an_upgrade_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Telemetry(path)
    record(store, DAY0, 60)
    store.close()
    with monkeypatch.context() as patch:
        patch.setattr(
            telemetry_file, "UPGRADES", (*UPGRADES, "CREATE TABLE later (id INTEGER) STRICT; CREATE NONSENSE")
        )
        with pytest.raises(UnavailableError, match="telemetry cannot be opened"):
            Telemetry(path)
    store = Telemetry(path)
    assert len(raw(store, DAY0, DAY0 + DAY)) == 60
    assert rows(store, "SELECT count(*) FROM sqlite_master WHERE name = 'later'") == [(0,)]
    store.close()


def test_files_of_a_later_release_and_of_others_are_left_alone(path: Path, tmp_path: Path) -> None:
    Telemetry(path).close()
    spoil(path, f"PRAGMA user_version={len(UPGRADES) + 1}")
    before = path.read_bytes()
    with pytest.raises(MigrationError, match="which this p104d does not know"):
        Telemetry(path)
    assert path.read_bytes() == before
    other = tmp_path / "other.db"
    spoil(other, "CREATE TABLE theirs (x)")
    with pytest.raises(MigrationError, match="is not p104d's telemetry"):
        Telemetry(other)
