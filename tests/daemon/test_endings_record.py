"""What an attempt's end puts on record: with the end itself, once, for those that succeeded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection

from p104d.core.job import JobSpec, JobState, Measurement, UserPattern
from p104d.core.plan import Start
from p104d.daemon.endings import Finished, finish, read_output, together
from p104d.daemon.work import Work
from p104d.processes.attempt import ExitRecord, Key, Look, LookKind
from p104d.store import moves, reads, sql
from p104d.store.engine import Database
from p104d.store.submit import NewDocument, Submitter, submit

NOW = 1_700_000_000.0
FIGURES = (Measurement(name="iterations_per_second", value=2.5, unit="it/s"),)
SAMPLES = Path(__file__).parent.parent / "data" / "output"


@pytest.fixture
def conn(database: Database) -> Iterator[Connection]:
    with database.write() as connection:
        yield connection


def job(conn: Connection, **changes: Any) -> int:
    spec = JobSpec(**{"name": "posters", "command": ("true",), "cwd": "/", **changes})
    made = submit(conn, [NewDocument(spec=spec, combinations=[{}])], Submitter(1000, "eva"), NOW).jobs
    return made[0][0]


def start(conn: Connection, job_id: int, *cards: str) -> int:
    begun = Start(job_id=job_id, cards=cards, reserved_bytes=(8,) * len(cards), exclusive=True)
    number = moves.place(conn, begun, now=NOW, boot_id="b", ends_by=None, ram=0)
    assert number is not None
    moves.run(conn, job_id, number, pid=5, at=NOW)
    return number


def exited(code: int = 0, **changes: Any) -> Look:
    made = {
        "version": 1, "exit_code": code, "signal": None, "reason": None, "started_at": NOW + 500.0, "ended_at": NOW + 9,
        "wall_seconds": 42.0, "user_seconds": 0.0, "system_seconds": 0.0, "max_rss_bytes": 0, "log_bytes": 1,
        "dropped_bytes": 0,
    }  # fmt: skip
    return Look(kind=LookKind.ENDED, exit=ExitRecord(**{**made, **changes}))


def end(conn: Connection, job_id: int, number: int, code: int = 0, **changes: Any) -> Work:
    work = Work()
    done = Finished(key=Key("job", job_id, number), look=exited(code), **{"measurements": FIGURES, **changes})
    finish(conn, done, work, NOW + 10)
    return work


def on_record(conn: Connection) -> list[tuple[Any, ...]]:
    rows = sql.rows(conn, "SELECT * FROM results")
    return [(r.job_id, r.attempt, r.name, r.model, r.user, r.cards, r.card_uuid, r.card_uuids, r.value) for r in rows]


def test_success_is_put_on_record_with_the_end(conn: Connection) -> None:
    one = job(conn)
    work = end(conn, one, start(conn, one, "GPU-1"), model="qwen2-7b")
    assert on_record(conn) == [(one, 1, "posters", "qwen2-7b", "eva", 1, "GPU-1", '["GPU-1"]', 2.5)]
    [row] = sql.rows(conn, "SELECT * FROM results")
    # The host's clock was set while it ran: the length is the shim's own.
    assert (row.at, row.seconds) == (NOW + 9, 42.0)
    assert [each.job_id for each in work.results] == [one]
    assert work.ended == {one: JobState.SUCCEEDED}


def test_the_label_goes_before_what_was_read(conn: Connection) -> None:
    one = job(conn, labels={"model": "mine"})
    end(conn, one, start(conn, one, "GPU-1"), model="theirs")
    assert on_record(conn)[0][3] == "mine"


def test_failures_and_jobs_without_figures_are_not(conn: Connection) -> None:
    failed, plain = job(conn), job(conn)
    work = end(conn, failed, start(conn, failed, "GPU-1"), code=1)
    assert work.results == []
    end(conn, plain, start(conn, plain, "GPU-1"), measurements=())
    assert on_record(conn) == []
    found = reads.facts(conn, failed)
    assert found is not None and found.state is JobState.FAILED


def test_a_retried_job_has_a_row_an_attempt_that_succeeded(conn: Connection) -> None:
    one = job(conn, retries=1)
    end(conn, one, start(conn, one, "GPU-1"), code=1)
    moves.make_due(conn, NOW + 1e6)
    end(conn, one, start(conn, one, "GPU-2"))
    assert [(row[1], row[6]) for row in on_record(conn)] == [(2, "GPU-2")]
    found = reads.facts(conn, one)
    assert found is not None
    assert moves.retry(conn, one, found.document_id)
    end(conn, one, start(conn, one, "GPU-3"))
    assert {(row[1], row[6]) for row in on_record(conn)} == {(2, "GPU-2"), (3, "GPU-3")}


def test_an_end_heard_twice_is_one(conn: Connection) -> None:
    one = job(conn)
    number = start(conn, one, "GPU-1")
    end(conn, one, number)
    assert end(conn, one, number).results == []
    assert len(on_record(conn)) == 1


def test_a_gang_is_no_cards_result(conn: Connection) -> None:
    one = job(conn, cards=2)
    end(conn, one, start(conn, one, "GPU-2", "GPU-1"))
    assert on_record(conn)[0][5:8] == (2, None, '["GPU-2","GPU-1"]')


def test_names_come_once_and_the_users_own_stays() -> None:
    read = (Measurement(name="cost", value=1.0, unit="tears"),)
    used = (
        Measurement(name="cost", value=2.0, unit="EUR"),
        Measurement(name="energy_watt_hours", value=3.0, unit="Wh"),
    )
    assert together(read, used) == (*read, used[1])


# --- reading the output ---


def output(conn: Connection, folder: Path, log: bytes, old: bytes | None = None, **changes: Any) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "log").write_bytes(log)
    if old is not None:
        (folder / "log.1").write_bytes(old)
    found = reads.facts(conn, job(conn))
    return read_output(str(folder), found, exited(log_bytes=changes.pop("log_bytes", len(log)), **changes))


def test_all_of_a_short_output_is_read(conn: Connection, tmp_path: Path) -> None:
    found = output(conn, tmp_path / "1", (SAMPLES / "llama-server.stderr.txt").read_bytes())
    assert found.whole and found.model == "tiny-128-4-f16"
    assert {each.name for each in found.measurements} >= {"generation_tokens", "items"}


@pytest.mark.parametrize("changes", [{"dropped_bytes": 1}, {"log_bytes": 10_000_000}])
def test_output_that_was_not_kept_was_not_read(conn: Connection, tmp_path: Path, changes: dict[str, Any]) -> None:
    found = output(conn, tmp_path / "1", (SAMPLES / "llama-server.stderr.txt").read_bytes(), **changes)
    assert found.measurements and not found.whole


def test_of_a_long_output_the_beginning_and_the_end_are_read(conn: Connection, tmp_path: Path) -> None:
    text = (
        (SAMPLES / "llama-server.stderr.txt").read_bytes() + b"-\n" * 500_000 + (SAMPLES / "tqdm_raw.txt").read_bytes()
    )
    found = output(conn, tmp_path / "1", text)
    assert not found.whole and found.model
    assert {each.name for each in found.measurements} >= {"generation_tokens", "iterations"}


def test_no_output_is_all_of_it(conn: Connection, tmp_path: Path) -> None:
    assert output(conn, tmp_path / "1", b"", log_bytes=0).whole
    (tmp_path / "2" / "log").mkdir(parents=True)
    found = read_output(str(tmp_path / "2"), reads.facts(conn, job(conn)), exited())
    assert not found.whole and found.measurements == ()
    assert not read_output(str(tmp_path), None, None).whole


def test_patterns_of_a_users_never_hold_the_daemon_up(conn: Connection, tmp_path: Path) -> None:
    """Neither as many of the hardest as are taken, nor those that were taken once; and what is built in is read."""
    line = b"1" * 110 + b"\n"
    text = b" 50%|x| 10/20 [00:01<00:09, 5.00it/s]\n" + line * 2000
    (tmp_path / "log").write_bytes(text)
    for pattern in (r"(?P<value>\d+(?:\.\d+)?)%", r".*.*(?P<value>[a-z])", r".*.*.*(?P<value>[a-z])"):
        measure = tuple(UserPattern(name=f"m{n}", unit="u", pattern=pattern) for n in range(15))
        found = reads.facts(conn, job(conn, measure=(*measure, "tqdm")))
        began = time.thread_time()
        output = read_output(str(tmp_path), found, exited(log_bytes=len(text)))
        assert time.thread_time() - began < 0.3
        assert {each.name for each in output.measurements} >= {"iterations_per_second"}
