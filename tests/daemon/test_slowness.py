"""Warnings of cards that have grown slow: from real rows, with the cause that the measurements name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from p104d.core.job import Measurement
from p104d.daemon.slowness import CardKind, Slowness
from p104d.store import results
from p104d.store.engine import Database
from p104d.store.migrate import upgrade_in_child
from p104d.store.results import Result

SPEED, SM, HOT = "generation_tokens_per_second", "mean_sm_clock_mhz", "throttled_seconds"
KINDS = {"GPU-1": CardKind(0, "P104-100"), "GPU-2": CardKind(3, "P104-100"), "GPU-3": CardKind(4, "GTX 1070")}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "queue.db"
    upgrade_in_child(path)
    return path


class Record:
    def __init__(self, database: Database) -> None:
        self.database, self.slowness = database, Slowness(database, lambda: KINDS)
        self.jobs = 0

    def add(
        self, speed: float, *cards: str, model: str | None = "qwen2-7b", seconds: float = 100.0, unit: str = "tokens/s",
        **more: float,
    ) -> list[str]:  # fmt: skip
        """A job's result goes on record and is compared; the new warnings."""
        self.jobs += 1
        read = [Measurement(name=SPEED, value=speed, unit=unit)]
        read += [Measurement(name=name, value=value, unit="") for name, value in more.items()]
        result = Result(
            at=1e9 + self.jobs, job_id=self.jobs, attempt=1, name="answers", model=model, user="eva", uid=1000,
            card_uuids=cards or ("GPU-1",), seconds=seconds, measurements=tuple(read),
        )  # fmt: skip
        with self.database.write() as conn:
            results.record(conn, result)
        return self.slowness.on_results([result])

    def history(self, count: int, speed: float = 20.0, *cards: str, **more: float) -> None:
        for n in range(count):
            assert self.add(speed + 0.05 * (n % 3), *cards, **more) == []


@pytest.fixture
def record(template: Path, tmp_path: Path) -> Iterator[Record]:
    shutil.copy(template, tmp_path / "queue.db")
    database = Database(tmp_path / "queue.db", synchronous="OFF")
    yield Record(database)
    database.close()


def test_slower_than_itself_until_it_is_not(record: Record) -> None:
    record.history(6, mean_sm_clock_mhz=1700.0)
    [text] = record.add(15.0, mean_sm_clock_mhz=1400.0)
    assert text.startswith("card 0: qwen2-7b made 15 tokens/s in job 7, 25 % slower than its own usual 20.")
    assert "(of 6 results): its SM clock was 1400 MHz, usually 1700" in text
    assert record.slowness.warnings() == [text]
    assert record.add(20.0) == []
    assert record.slowness.warnings() == []


def test_too_young_a_history_says_nothing(record: Record) -> None:
    record.history(4)
    assert record.add(5.0) == []


def test_heat_is_a_part_of_each_jobs_own_time(record: Record) -> None:
    """Long jobs were slowed down for longer, but for the same part of their time: no cause."""
    record.history(6, throttled_seconds=400.0, seconds=1000.0)
    [text] = record.add(15.0, throttled_seconds=40.0)
    assert "nothing of its heat" in text
    [text] = record.add(15.0, throttled_seconds=80.0)
    assert "slowed it down 80 % of the time" in text


def test_slower_than_its_siblings(record: Record) -> None:
    record.history(6, 20.0, "GPU-1", mean_sm_clock_mhz=1700.0)
    assert record.add(10.0, "GPU-3") == []  # another kind of card
    [text] = record.add(15.0, "GPU-2", mean_sm_clock_mhz=1200.0)
    assert "card 3:" in text and "the same on cards of its kind" in text and "usually 1700" in text


def test_another_model_or_unit_or_number_of_cards_is_other_work(record: Record) -> None:
    record.history(6)
    assert record.add(5.0, model="llama-13b") == []
    assert record.add(5.0, unit="requests/s") == []
    assert record.add(5.0, "GPU-1", "GPU-2") == []


def test_a_gang_is_compared_with_gangs(record: Record) -> None:
    record.history(6, 12.0, "GPU-1", "GPU-2")
    [text] = record.add(6.0, "GPU-1", "GPU-2")
    assert text.startswith("cards 0, 3: ")


def test_without_a_model_the_name_is_the_work(record: Record) -> None:
    record.history(6, model=None)  # type: ignore[arg-type]
    [text] = record.add(9.0, model=None)
    assert "answers made 9 tokens/s" in text


def test_a_clock_that_jumps_back_compares_with_nothing(record: Record) -> None:
    record.history(6)
    record.jobs = -1_000_000
    assert record.add(5.0) == []


def test_a_broken_disk_costs_the_comparison(record: Record, caplog: pytest.LogCaptureFixture) -> None:
    record.history(6)
    record.slowness._kinds = lambda: {}["gone"]
    assert record.add(5.0, "GPU-2") == []
    assert "could not be compared" in caplog.text


def test_warnings_are_bounded(record: Record) -> None:
    for n in range(120):
        for speed in (20.0, 20.0, 20.0, 20.0, 20.0, 9.0):
            record.add(speed, model=f"m{n}")
    assert len(record.slowness.warnings()) == 100
    assert "m119 made" in record.slowness.warnings()[-1]
