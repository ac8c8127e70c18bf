"""The record: written once with the end, kept beyond the job, compared fast however long it is."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection
from store_rig import NOW, add, bring, place

from p104d.core.card import CardIdentity, Verdict
from p104d.core.job import JobState, Measurement
from p104d.store import cards, migrate, results, retention, sql
from p104d.store.cards import CardRecord
from p104d.store.engine import Database
from p104d.store.results import Place, Result

SPEED = "generation_tokens_per_second"


def rows(conn: Connection) -> list[Any]:
    return sql.rows(conn, "SELECT * FROM results ORDER BY at DESC, id")


def result(job_id: int, value: float, *, at: float = NOW, card: str = "GPU-1", **changes: object) -> Result:
    made: dict[str, object] = {
        "at": at, "job_id": job_id, "attempt": 1, "name": "posters", "model": "qwen2-7b", "user": "me", "uid": 1000,
        "card_uuids": (card,), "seconds": 60.0,
        "measurements": (Measurement(name=SPEED, value=value, unit="tokens/s"),),
    }  # fmt: skip
    return Result(**{**made, **changes})  # type: ignore[arg-type]


def test_a_result_is_a_row_a_measurement_with_what_its_card_ran_under(database: Database) -> None:
    with database.write() as conn:
        cards.save_card(
            conn,
            CardRecord(
                identity=CardIdentity(uuid="GPU-1", index=0, vbios="86.04"), driver="580.1", verdict=Verdict.PROVEN,
                proven_bytes=1, drained=False, drained_by=None, suspect=None, first_seen_at=1.0, last_seen_at=1.0,
            ),
        )  # fmt: skip
        (job,) = add(conn)
        assert place(conn, job, ["GPU-1"]) == 1
        two = (Measurement(name=SPEED, value=18.5, unit="tokens/s"), Measurement(name="x", value=2.0, unit="B"))
        assert results.record(conn, result(job, 0, measurements=two)) == 2
        assert results.record(conn, result(job, 0, measurements=two)) == 0  # the same end, heard twice
        kept = rows(conn)
    assert {(row.measure, row.value, row.unit) for row in kept} == {(SPEED, 18.5, "tokens/s"), ("x", 2.0, "B")}
    assert {(row.driver, row.vbios, row.card_uuid, row.cards, row.seconds) for row in kept} == {
        ("580.1", "86.04", "GPU-1", 1, 60.0)
    }
    assert kept[0].card_uuids == '["GPU-1"]'


def test_it_outlives_its_job(database: Database) -> None:
    with database.write() as conn:
        (job,) = add(conn)
        bring(conn, job, JobState.SUCCEEDED)
        results.record(conn, result(job, 1.0))
        assert retention.forget_jobs(conn, NOW + 1e6) == [job]
        assert [row.job_id for row in rows(conn)] == [job]


def test_a_place_is_compared_with_itself(database: Database) -> None:
    with database.write() as conn:
        for number, value in enumerate([10.0, 12.0, 11.0, 14.0, 13.0]):
            results.record(conn, result(number, value, at=NOW + number))
        results.record(conn, result(90, 5.0, card="GPU-2"))
        results.record(conn, result(91, 7.0, card_uuids=("GPU-1", "GPU-2")))
        results.record(conn, result(92, 1.0, name="other", model=None))
        found = results.recent(conn, "name", "posters", SPEED)
        assert {place: [value for _at, value, _unit in each] for place, each in found.items()} == {
            Place("GPU-1", 1): [13.0, 14.0, 11.0, 12.0, 10.0],
            Place("GPU-2", 1): [5.0],
            Place(None, 2): [7.0],
        }
        assert found[Place("GPU-2", 1)] == [(NOW, 5.0, "tokens/s")]
        assert results.recent(conn, "model", "qwen2-7b", SPEED) == found
        assert set(results.recent(conn, "name", "posters", SPEED, before=NOW + 2, limit=1)) == {Place("GPU-1", 1)}
        assert results.recent(conn, "model", "other", SPEED) == {}
        usual = results.usual(conn, "name", "posters", [SPEED, "nothing"])
        assert usual[Place("GPU-2", 1)] == {SPEED: 5.0} and usual[Place("GPU-1", 1)] == {SPEED: 12.0}
        shares = results.usual(conn, "name", "posters", [SPEED], share=True, before=NOW + 1)
        assert shares[Place("GPU-1", 1)] == {SPEED: pytest.approx(10 / 60)}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([5.0], (5.0, 0.0)), ([1.0, 9.0, 5.0], (5.0, 0.0)), ([4.0, 1.0, 3.0, 2.0], (2.5, 2.0))],
)
def test_middle_and_spread(values: list[float], expected: tuple[float, float]) -> None:
    assert results.middle_and_spread(values) == expected


def test_a_queue_of_the_release_before_keeps_its_attempts(tmp_path: Path) -> None:
    path = tmp_path / "queue.db"
    migrate.upgrade(str(path), "0002")
    made = sqlite3.connect(path)
    made.execute("PRAGMA foreign_keys=OFF")
    made.execute(
        "INSERT INTO attempt_cards (job_id, number, position, card_uuid, reserved_bytes, exclusive) "
        "VALUES (1, 1, 0, 'GPU-1', 5, 1)"
    )
    made.commit()
    made.close()
    migrate.upgrade_in_child(path)
    database = Database(path)
    with database.write() as conn:
        row = sql.row(conn, "SELECT card_uuid, reserved_bytes, driver, vbios FROM attempt_cards")
        assert results.record(conn, result(1, 1.0)) == 1
    database.close()
    assert row is not None
    assert tuple(row) == ("GPU-1", 5, None, None)


# --- a long record -----------------------------------------------------------------------------------------------

ROWS = 200_000
_FILL = """
    INSERT INTO results (at, job_id, attempt, name, model, user, uid, cards, card_uuid, card_uuids, seconds, measure,
                         value, unit)
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :rows)
    SELECT i, i / 10, 1, 'name' || (i / 10 % 20), CASE WHEN i % 3 THEN 'model' || (i / 10 % 7) END, 'me', 1000, 1,
           'GPU-' || (i / 10 % 6), '["GPU-0"]', 60, 'measure' || (i % 10), 10 + i % 13, 'it/s'
    FROM n
"""


@pytest.fixture(scope="module")
def record(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path = tmp_path_factory.mktemp("record") / "queue.db"
    shutil.copy(template, path)
    opened = Database(path, synchronous="OFF")
    with opened.write() as conn:
        sql.run(conn, _FILL, {"rows": ROWS})
    yield opened
    opened.close()


ASKED: list[tuple[Callable[[Connection], object], str]] = [
    (lambda conn: results.recent(conn, "name", "name3", "measure3"), "results_name"),
    (lambda conn: results.recent(conn, "model", "model3", "measure2", before=1e5), "results_model"),
    (lambda conn: results.usual(conn, "name", "name3", ["measure1"]), "results_name"),
    (lambda conn: results.usual(conn, "model", "model3", ["measure1"], share=True), "results_model"),
    (lambda conn: results.record(conn, result(77, 1.0)), "results_job"),
]


@pytest.mark.parametrize(("ask", "index"), ASKED)
def test_its_index_serves(record: Database, ask: Callable[[Connection], object], index: str) -> None:
    with record.write() as conn:
        driver = conn.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        seen: list[str] = []
        driver.set_trace_callback(seen.append)
        ask(conn)
        driver.set_trace_callback(None)
        plans = [row[3] for text in dict.fromkeys(seen) for row in driver.execute(f"EXPLAIN QUERY PLAN {text}")]
        spent = []
        for _ in range(3):
            began = time.thread_time()
            assert ask(conn) is not None
            spent.append(time.thread_time() - began)
    assert any(index in step for step in plans), plans
    assert not [step for step in plans if "SCAN" in step or "TEMP B-TREE" in step], plans
    # A walk over all would take a hundred times as long.
    assert min(spent) < 0.02, spent


def test_a_comparison_reads_its_index_alone(record: Database) -> None:
    with record.write() as conn:
        driver = conn.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        seen: list[str] = []
        driver.set_trace_callback(seen.append)
        assert results.usual(conn, "name", "name3", ["measure3"])
        driver.set_trace_callback(None)
        plans = [row[3] for text in seen for row in driver.execute(f"EXPLAIN QUERY PLAN {text}") if "results" in row[3]]
    assert plans
    assert all("COVERING INDEX results_name" in step for step in plans), plans


def test_a_failed_dispatch_records_nothing(database: Database) -> None:
    with database.write() as conn:
        assert results.record(conn, result(1, 1.0, measurements=())) == 0
        assert rows(conn) == []
