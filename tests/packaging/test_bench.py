"""The benchmark's own arithmetic and eyes; what it measures is judged by people."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from bench.proc import cpu_nanoseconds, memory_bytes
from bench.setting import folder
from bench.stats import interleaved, median, p95
from bench.table import Ratios, Row, mebibytes, milliseconds, render
from bench.watch import FolderWatch


def test_medians_and_tails() -> None:
    values = [float(number) for number in range(1, 101)]
    assert median(values) == 50.5
    assert p95(values) == 95.0
    assert p95([3.0]) == 3.0


def test_measurements_are_interleaved_and_warmed_up() -> None:
    order: list[str] = []

    def act(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = interleaved({"a": lambda: act("a"), "b": lambda: act("b")}, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert taken == {"a": [3.0, 5.0], "b": [4.0, 6.0]}


def test_ratios_judge_only_what_has_a_limit() -> None:
    ratios = Ratios(2.0)
    assert ratios.met is None
    ratios.against("free", 1.0)
    assert ratios.met is None
    ratios.against("good", 2.0, limit=1.0)
    assert ratios.met is True
    ratios.against("absent", None, limit=1.0)
    ratios.against("bad", 1.0, limit=1.9)
    assert ratios.met is False
    assert ratios.text == "2.00x free, 1.00x good, 2.00x bad"


def test_table_shows_what_was_not_met() -> None:
    text = render([Row("one", "1", met=True), Row("another", "2", met=False), Row("seen", "3")])
    verdicts = [line.split()[-1] for line in text.splitlines()]
    assert verdicts[0] == "met"
    assert verdicts[2:] == ["yes", "NO", "-"]
    assert (milliseconds(0.00281), milliseconds(0.25), mebibytes(2**20)) == ("2.81 ms", "250 ms", "1.0 MiB")


def test_watch_sees_a_file_when_it_is_made(tmp_path: Path) -> None:
    with FolderWatch(str(tmp_path)) as watch:
        before = time.perf_counter()
        (tmp_path / "made").touch()
        after = time.perf_counter()
        # The reading thread may be late by what the machine is busy with, never early.
        assert before <= watch.wait_for("made") <= after + 5.0
        with pytest.raises(TimeoutError, match="never was not made"):
            watch.wait_for("never", timeout=0.01)


def test_costs_are_read_from_proc() -> None:
    import os

    before = cpu_nanoseconds([os.getpid()])
    deadline = time.process_time() + 0.02
    while time.process_time() < deadline:
        pass
    assert cpu_nanoseconds([os.getpid()]) - before >= 10_000_000
    assert memory_bytes([os.getpid()], "Rss") >= memory_bytes([os.getpid()], "Pss") > 2**20
    assert memory_bytes([2**22 + 1]) == 0


@pytest.mark.skipif(shutil.which("tsp") is None, reason="task-spooler is not installed")
def test_task_spooler_runs_jobs_and_leaves() -> None:
    from bench.peers.tsp import TaskSpooler

    with folder() as place:
        queue = TaskSpooler(place, 2)
        try:
            with FolderWatch(place) as watch:
                queue.submit(["touch", f"{place}/started"])
                watch.wait_for("started")
            queue.drain(["true"], 5)
            assert len(queue.processes()) == 1
            assert queue.bulk(["true"], 10_000) is None
        finally:
            queue.close()
