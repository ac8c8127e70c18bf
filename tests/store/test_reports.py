"""What a report adds up, and what results come to: right figures, by indexes, whatever has piled up."""

from __future__ import annotations

import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Connection
from store_rig import NOW, add, bring, column, document, end, place

from p104d.core.errors import UnavailableError
from p104d.core.job import JobState, Measurement
from p104d.core.lifecycle import Move
from p104d.store import moves, records, reports, results, sql
from p104d.store.aside import aside
from p104d.store.engine import Database
from p104d.store.records import Records
from p104d.store.tables import metadata
from p104d.store.telemetry import Telemetry

WEEK = 7 * 86400.0


@pytest.fixture
def conn(database: Database) -> Iterator[Connection]:
    with database.write() as connection:
        yield connection


def ran(
    conn: Connection,
    name: str = "job",
    *,
    start: float,
    seconds: float = 60.0,
    cards: tuple[str, ...] = ("GPU-A",),
    model: str | None = None,
    move: Move = Move.SUCCEED,
    reason: str | None = None,
    share: bool = False,
    **measured: float,
) -> int:
    """A job that began ``start`` seconds after NOW, as the daemon would have written it."""
    (job_id,) = add(conn, document(name))
    number = place(conn, job_id, cards, share=8 if share else None)
    assert number == 1
    moves.run(conn, job_id, number, pid=1, at=NOW + start)
    units = {"speed": "it/s", "step": "s/it", "cost": "EUR"}
    found = tuple(Measurement(name=name, value=value, unit=units.get(name, "x")) for name, value in measured.items())
    at = NOW + start + seconds
    # The reason of the attempt is the job's too, as the policy has it.
    assert end(conn, job_id, move, at=at, reason=reason, attempt_reason=reason, started_at=NOW + start,
               measurements=found)  # fmt: skip
    if move is Move.SUCCEED:
        results.record(
            conn,
            results.Result(at=at, job_id=job_id, attempt=1, name=name, model=model, user="me", uid=1, card_uuids=cards,
                           seconds=seconds, measurements=found),
        )  # fmt: skip
    return job_id


# --- results -----------------------------------------------------------------------------------------------------


def test_summaries_are_by_model_else_name_and_by_card(conn: Connection) -> None:
    for number, value in enumerate([2.0, 4.0, 1.0, 3.0, 10.0]):
        ran(conn, f"job{number}", start=number * 100.0, model="m", speed=value)
    ran(conn, "pictures", start=1000.0, speed=7.0, cards=("GPU-B",))
    ran(conn, "pictures", start=2000.0, speed=8.0, cards=("GPU-A", "GPU-B"))
    ran(conn, "pictures", start=3000.0, speed=9.0, cards=("GPU-B", "GPU-A"))
    found = records.summaries(conn, Records())
    assert [(one.name, one.model, one.card_uuid, one.cards, list(one.values)) for one in found] == [
        (None, "m", "GPU-A", 1, [1.0, 2.0, 3.0, 4.0, 10.0]),
        ("pictures", None, "GPU-B", 1, [7.0]),
        ("pictures", None, None, 2, [8.0, 9.0]),
    ]
    first = found[0]
    assert (first.last, first.first_at, first.last_at) == (10.0, NOW + 60.0, NOW + 460.0)


def test_filters_of_results(conn: Connection) -> None:
    a = ran(conn, "a", start=0.0, model="m", speed=1.0, cost=2.0)
    b = ran(conn, "b", start=100.0, speed=2.0, cards=("GPU-A", "GPU-B"))
    c = ran(conn, "b", start=200.0, step=3.0, cards=("GPU-B",))
    d = ran(conn, "d", start=300.0, speed=4.0, cards=())

    def jobs(limit: int = 10, **wanted: object) -> list[int]:
        return [row.job_id for row in records.results(conn, Records(**wanted), limit)]  # type: ignore[arg-type]

    assert jobs() == [d, c, b, a, a] and jobs(limit=2) == [d, c]
    assert jobs(speeds=True) == [d, c, b, a]
    assert jobs(card="GPU-A", speeds=True) == [b, a] and jobs(card="GPU-B") == [c, b] and jobs(card="GPU-") == []
    assert jobs(name="b") == [c, b] and jobs(model="m", measure="cost") == [a] and jobs(job=c) == [c]
    assert jobs(since=NOW + 160.0, until=NOW + 260.0) == [b]
    assert jobs(name="'; DROP TABLE results") == []


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.sampled_from([0.25, 0.5, 0.75]))
def test_quantiles_are_everybodys(values: list[float], part: float) -> None:
    found = records.quantile(sorted(values), part)
    if part == 0.5:
        assert found == pytest.approx(median(values), abs=1e-6)
    elif len(values) > 1:
        expected = quantiles(values, n=4, method="inclusive")[0 if part == 0.25 else 2]
        assert found == pytest.approx(expected, abs=1e-6)


def test_a_summary_begins_where_the_question_does(conn: Connection) -> None:
    for number in range(4):
        ran(conn, "a", start=number * 100.0, speed=float(number))
    [found] = records.summaries(conn, Records(since=NOW + 150.0))
    assert (found.first_at, list(found.values)) == (NOW + 160.0, [1.0, 2.0, 3.0])


def test_attempts_under_readings(conn: Connection) -> None:
    before = ran(conn, start=0.0, seconds=50.0)
    over = ran(conn, start=50.0, seconds=100.0)
    inside = ran(conn, start=120.0, seconds=10.0, cards=("GPU-B", "GPU-A"))
    ran(conn, start=120.0, seconds=10.0, cards=("GPU-B",))
    after = ran(conn, start=500.0)
    (open_one,) = add(conn)
    place(conn, open_one, ("GPU-A",), share=1)
    moves.run(conn, open_one, 1, pid=1, at=NOW + 130.0)
    found = records.spans(conn, "GPU-A", NOW + 100.0, NOW + 200.0)
    assert [row.job_id for row in found] == [open_one, inside, over]
    assert found[0].ended_at is None and found[0].outcome is None
    assert {before, after} & {row.job_id for row in found} == set()


# --- the report ----------------------------------------------------------------------------------------------------


def test_jobs_and_attempts_count_where_they_ended(conn: Connection) -> None:
    ran(conn, "a", start=0.0, seconds=100.0, model="m")
    ran(conn, "a", start=0.0, seconds=300.0, model="m", speed=2.0)
    ran(conn, "b", start=0.0, seconds=100.0, move=Move.FAIL, reason="exit code 3")
    ran(conn, "b", start=50.0, seconds=100.0, move=Move.FAIL, reason="exit code 3")
    ran(conn, "c", start=400.0, seconds=100.0)
    since, until = NOW + 100.0, NOW + 500.0
    ended = {(row.name, row.model, row.state, row.reason): row.count for row in reports.jobs_ended(conn, since, until)}
    assert ended == {("a", None, "succeeded", None): 1, ("a", "m", "succeeded", None): 1,
                     ("b", None, "failed", "exit code 3"): 2}  # fmt: skip
    spent = {(row.name, row.model): (row.attempts, row.seconds) for row in reports.time_spent(conn, since, until)}
    assert spent == {("a", None): (1, 100.0), ("a", "m"): (1, 300.0), ("b", None): (2, 200.0)}


def test_attempts_that_never_ran_are_no_attempts(conn: Connection) -> None:
    (job_id,) = add(conn)
    place(conn, job_id)
    assert end(conn, job_id, Move.REVOKE, at=NOW + 1)
    place(conn, job_id)
    assert end(conn, job_id, Move.FAIL, number=2, at=NOW + 2)
    spent = reports.time_spent(conn, NOW, NOW + WEEK)
    assert [(row.attempts, row.seconds) for row in spent] == [(1, 0.0)]
    assert [(row.card_uuid, row.outcome, row.count) for row in reports.on_cards(conn, NOW, NOW + WEEK)] == [
        ("GPU-0000", "failed", 1)
    ]


def test_what_was_measured_is_added_up(conn: Connection) -> None:
    ran(conn, "a", start=0.0, energy=3.0, cost=0.5)
    ran(conn, "a", start=100.0, energy=4.0, move=Move.FAIL, cards=("GPU-A", "GPU-B"))
    ran(conn, "a", start=9e5, energy=100.0)
    span = (NOW, NOW + WEEK)
    found = {(row.measure, row.unit): row.value for row in reports.amounts(conn, *span, ("energy", "cost"))}
    assert found == {("energy", "x"): 7.0, ("cost", "EUR"): 0.5}
    # What several cards took is parted among them.
    by_card = {row.card_uuid: row.value for row in reports.card_amounts(conn, *span, ("energy",))}
    assert by_card == {"GPU-A": 5.0, "GPU-B": 2.0}


def test_a_card_is_busy_once_whoever_shares_it(conn: Connection) -> None:
    def busy(since: float, until: float) -> dict[str, float]:
        return {row.card_uuid: row.seconds for row in reports.busy(conn, NOW + since, NOW + until)}

    ran(conn, start=0.0, seconds=100.0, share=True)
    ran(conn, start=10.0, seconds=20.0, share=True)
    ran(conn, start=50.0, seconds=100.0, share=True, cards=("GPU-A", "GPU-B"))
    ran(conn, start=300.0, seconds=50.0)
    assert busy(0, 1000) == {"GPU-A": 200.0, "GPU-B": 100.0}
    assert busy(60, 310) == {"GPU-A": 100.0, "GPU-B": 90.0}
    (running,) = add(conn)
    place(conn, running, ("GPU-C",))
    moves.run(conn, running, 1, pid=1, at=NOW + 900.0)
    assert busy(0, 1000)["GPU-C"] == 100.0


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 40)), min_size=1, max_size=12), st.integers(0, 60))
def test_busy_is_the_union_of_what_ran(spans: list[tuple[int, int]], since: int) -> None:
    """Against counting seconds one by one, on tables of nothing but what this question reads."""
    driver = sqlite3.connect(":memory:")
    driver.executescript(
        "CREATE TABLE attempts (job_id INTEGER, number INTEGER, outcome TEXT, started_at REAL, ended_at REAL);"
        "CREATE INDEX attempts_open ON attempts (job_id) WHERE outcome IS NULL;"
        "CREATE TABLE attempt_cards (job_id INTEGER, number INTEGER, card_uuid TEXT);"
    )
    for number, (start, length) in enumerate(spans):
        driver.execute("INSERT INTO attempts VALUES (?, 1, 'succeeded', ?, ?)", (number, start, start + length))
        driver.execute("INSERT INTO attempt_cards VALUES (?, 1, 'A')", (number,))
    rows = reports.busy(_Plain(driver), float(since), 80.0)  # type: ignore[arg-type]
    driver.close()
    expected = {second for start, length in spans for second in range(start, start + length) if since <= second < 80}
    assert sum(row.seconds for row in rows) == len(expected)


class _Plain:
    """A connection for ``store.sql`` that is SQLite's alone."""

    def __init__(self, driver: sqlite3.Connection) -> None:
        self.connection = self
        self.driver_connection = driver


def test_failures_and_tests_of_cards(conn: Connection) -> None:
    ran(conn, start=0.0)
    ran(conn, start=0.0, move=Move.FAIL, reason="card lost", cards=("GPU-B",))
    insert = "INSERT INTO memory_tests (card_uuid, depth, cause, state, verdict, started_at, ended_at) "
    for verdict, state, at in (("proven", "finished", 10), ("faulty", "finished", 20), (None, "stopped", 30)):
        sql.run(conn, insert + "VALUES ('GPU-A', 'full', 'x', ?, ?, ?, ?)", (state, verdict, NOW, NOW + at))
    found = {(row.card_uuid, row.outcome, row.reason): row.count for row in reports.on_cards(conn, NOW, NOW + WEEK)}
    assert found == {("GPU-A", "succeeded", None): 1, ("GPU-B", "failed", "card lost"): 1}
    assert [tuple(row) for row in reports.card_tests(conn, NOW, NOW + WEEK)] == [("GPU-A", 2, 1.0)]
    assert reports.card_tests(conn, NOW + 100, NOW + WEEK) == []


def test_the_oldest_job(conn: Connection) -> None:
    assert reports.oldest_job(conn) is None
    (number,) = add(conn)
    bring(conn, number, JobState.SUCCEEDED, ended_at=NOW + 5)
    assert reports.oldest_job(conn) == NOW + 5


# --- a connection of its own ---------------------------------------------------------------------------------------


def test_aside_reads_what_is_committed_and_writes_nothing(database: Database) -> None:
    with database.write() as conn:
        add(conn)
    with database.write() as conn, aside(database.path) as beside:
        add(conn)
        assert sql.value(beside, "SELECT count(*) FROM jobs") == 1
    with pytest.raises(UnavailableError, match="readonly"), aside(database.path) as beside:
        sql.run(beside, "DELETE FROM jobs")
    with pytest.raises(UnavailableError, match="file cannot be read"), aside(database.path / "no"):
        pass


def test_the_sql_of_the_documents_runs(conn: Connection, tmp_path: Path) -> None:
    for number, value in enumerate((3.0, 1.0, 2.0)):
        ran(conn, "a", start=number * 100.0, model="Qwen2-7B x", generation_tokens_per_second=value)
    ran(conn, "a", start=900.0, move=Move.FAIL, reason="card lost")
    text = (Path(__file__).resolve().parents[2] / "docs" / "history.md").read_text()
    blocks = re.findall(r"^```sql\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    # The view ``history`` is telemetry.db's, the rest is in queue.db.
    answers = [sql.rows(conn, block) for block in blocks if not re.search(r"FROM history\b", block)]
    readings = [block for block in blocks if re.search(r"FROM history\b", block)]
    assert len(answers) == 4 and len(readings) == 1
    store = Telemetry(tmp_path / "telemetry.db")
    with store.file.read() as of_readings:
        assert sql.rows(of_readings, readings[0]) == []
    store.close()
    assert [(row.median, row.runs) for row in answers[0]] == [(2.0, 3)]
    assert [tuple(row) for row in answers[3]] == [("GPU-A", "card lost", 1)]


# --- many rows -----------------------------------------------------------------------------------------------------

MANY = 100_000
_STATEMENTS = (
    """INSERT INTO jobs (id, document_id, name, uid, user, state, reason, priority, requirement_id, blocked, attempts,
                         failures, submitted_at, started_at, ended_at)
       WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)
       SELECT i + 10, :document, 'job' || (i % 20), 1000, 'me', 'succeeded', NULL, 0, :requirement, 0, 1, 0, 1e9,
              1e9 + i * 10, 1e9 + i * 10 + 9 FROM n""",
    """INSERT INTO attempts (job_id, number, boot_id, outcome, placed_at, started_at, ended_at, ram_bytes, cards)
       SELECT id, 1, 'b', 'succeeded', started_at, started_at, ended_at, 0, 1 FROM jobs WHERE id > 10""",
    """INSERT INTO attempt_cards (job_id, number, position, card_uuid, reserved_bytes, exclusive)
       SELECT id, 1, 0, 'GPU-' || (id % 12), 1, 1 FROM jobs WHERE id > 10""",
    "INSERT INTO measurements SELECT id, 1, 'energy', 2.0, 'Wh' FROM jobs WHERE id > 10",
    """INSERT INTO results (at, job_id, attempt, name, model, user, uid, cards, card_uuid, card_uuids, seconds, measure,
                            value, unit)
       SELECT ended_at, id, 1, name, CASE WHEN id % 2 THEN 'm' || (id % 5) END, 'me', 1, 1, 'GPU-' || (id % 12),
              '["GPU-' || (id % 12) || '"]', 9.0, 'speed', 2.0 + (id % 97) / 100.0, 'it/s' FROM jobs WHERE id > 10""",
)
#: The last hour of the many.
SINCE, UNTIL = 1e9 + MANY * 10 - 3600, 1e9 + MANY * 10 + 10


@pytest.fixture(scope="module")
def many(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    path = tmp_path_factory.mktemp("many") / "queue.db"
    shutil.copy(template, path)
    database = Database(path, synchronous="OFF")
    with database.write() as conn:
        (job_id,) = add(conn, document("x"))
        values = {
            "document": column(conn, "document_id", job_id),
            "requirement": column(conn, "requirement_id", job_id),
        }
        for number, statement in enumerate(_STATEMENTS):
            sql.run(conn, statement, {"rows": MANY, **values} if number == 0 else ())
    yield database
    database.close()


QUESTIONS: dict[str, Callable[[Connection], object]] = {
    "jobs_ended": lambda conn: reports.jobs_ended(conn, SINCE, UNTIL),
    "time_spent": lambda conn: reports.time_spent(conn, SINCE, UNTIL),
    "amounts": lambda conn: reports.amounts(conn, SINCE, UNTIL, ("energy", "cost")),
    "busy": lambda conn: reports.busy(conn, SINCE, UNTIL),
    "on_cards": lambda conn: reports.on_cards(conn, SINCE, UNTIL),
    "card_amounts": lambda conn: reports.card_amounts(conn, SINCE, UNTIL, ("energy",)),
    "oldest_job": reports.oldest_job,
    "figures": lambda conn: list(records.figures(conn, Records(since=SINCE, until=UNTIL), by_name=True)),
    "summaries": lambda conn: records.summaries(conn, Records(since=SINCE, until=UNTIL)),
    "results": lambda conn: records.results(conn, Records(), 50),
    "results of a job": lambda conn: records.results(conn, Records(job=99), 50),
    "results of a name": lambda conn: records.results(conn, Records(name="job3", measure="speed"), 50),
    "results of a model": lambda conn: records.results(conn, Records(model="m3", measure="speed"), 50),
    "results of a card": lambda conn: records.results(conn, Records(card="GPU-3", measure="speed"), 50),
    "summaries of a name": lambda conn: records.summaries(conn, Records(name="job3")),
}
INDEXES = {
    "jobs_ended": "jobs_ended",
    "time_spent": "attempts_ended",
    "busy": "attempts_ended",
    "results of a job": "results_job",
    "results of a name": "results_name",
    "results of a model": "results_model",
    "results": "results_at",
}
_BIG = ("jobs", "j", "attempts", "a", "attempt_cards", "c", "measurements", "x", "results")


def plans(conn: Connection, ask: Callable[[Connection], object]) -> list[str]:
    driver = conn.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    seen: dict[str, None] = {}
    driver.set_trace_callback(lambda text: seen.setdefault(text))
    ask(conn)
    driver.set_trace_callback(None)
    return [row[3] for text in seen for row in driver.execute(f"EXPLAIN QUERY PLAN {text}")]


def test_the_index_of_ended_attempts_is_in_the_schema() -> None:
    assert "attempts_ended" in {index.name for index in metadata.tables["attempts"].indexes}


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_question_of_an_hour_walks_years(many: Database, name: str) -> None:
    with many.read() as conn:
        steps = plans(conn, QUESTIONS[name])
    walking = [step for step in steps if step.split()[0] == "SCAN" and step.split()[1] in _BIG]
    # In the order of an index up to a LIMIT, or (MIN) to its first row; what is open is few.
    assert [step for step in walking if not any(index in step for index in
            ("results_at", "jobs_ended", "attempts_open"))] == []  # fmt: skip
    if name in INDEXES:
        assert any(INDEXES[name] in step for step in steps), steps


def test_an_hour_of_many_is_fast(many: Database) -> None:
    with aside(many.path) as conn:
        spent = {}
        for name, ask in QUESTIONS.items():
            start = time.perf_counter()
            ask(conn)
            spent[name] = time.perf_counter() - start
    # Walking 100,000 rows takes 100 ms and more for each; an hour holds 360. A busy machine may take a while longer.
    del spent["summaries of a name"]  # 5,000 results are that
    assert sum(spent.values()) < 0.5, spent
