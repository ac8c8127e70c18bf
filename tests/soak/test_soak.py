"""The soak itself: it runs, it measures, and it sees what grows."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torture import amount

from p104d.hardware.rig import load_rig
from soak.faults import planned, rig_file
from soak.growth import BOUNDS, growths, table
from soak.rig import Sample

ROOT = Path(__file__).resolve().parents[2]


def samples(**slopes: float) -> list[Sample]:
    """Ten minutes in which some things grow by so many units an hour."""
    names = [bound.attribute for bound in BOUNDS]
    return [
        Sample(
            seconds=float(at),
            **{name: int(1e6 + slopes.get(name, 0) * at / 3600) if name.endswith("bytes") else 9 for name in names},
        )
        for at in range(0, 600, 5)
    ]


def test_what_does_not_grow_is_good() -> None:
    assert all(row.good for row in growths(samples()))


def test_what_grows_too_fast_is_seen() -> None:
    rows = {row.name: row for row in growths(samples(memory_bytes=40.0 * 2**20))}
    bad = [name for name, row in rows.items() if not row.good]
    assert bad == ["memory, all processes (PSS)"]
    assert rows[bad[0]].per_hour == pytest.approx(40.0, abs=0.5)
    assert "TOO MUCH" in table(list(rows.values()))


def test_what_is_too_large_is_seen_at_once() -> None:
    few = samples()[:2]
    big = Sample(**{**{name: getattr(few[0], name) for name in few[0].__struct_fields__}, "wal_bytes": 10**9})
    assert [row.name for row in growths([few[0], big]) if not row.good] == ["write-ahead log of the queue"]


@pytest.mark.parametrize(("seconds", "least"), [(15, 1), (60, 5), (600, 10), (7200, 100)])
@pytest.mark.parametrize("begin", [2.0, 17.0, 90.0])
def test_faults_fall_into_a_run_whenever_it_begins(seconds: float, least: int, begin: float) -> None:
    faults = planned(seconds, seconds + 120)
    assert sum(begin <= fault.at < begin + seconds for fault in faults) >= least
    assert all(later.at >= fault.at + fault.seconds for fault, later in itertools.pairwise(faults))


def test_each_kind_of_fault_comes_twice_in_ten_minutes_after_the_warm_up() -> None:
    kinds_after = [fault.kind for fault in planned(600, 600) if fault.at > 150]
    assert min(map(kinds_after.count, {fault.kind for fault in planned(600, 600)})) >= 2


def test_the_rig_file_is_one(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(rig_file(planned(60, 180)))
    rig = load_rig(str(path))
    assert len(rig.cards) == 12 and len(rig.faults) == len(planned(60, 180))


@pytest.mark.slow
@pytest.mark.torture
def test_a_short_soak(tmp_path: Path) -> None:
    minutes = amount(0.25, 10.0)
    told = subprocess.run(
        [sys.executable, "-m", "soak", "--minutes", str(minutes), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=minutes * 60 + 180, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    found = json.loads(told.stdout)
    assert found["good"] and found["counts"]["jobs"] > 20 and not found["problems"]
    assert found["counts"]["faults"] >= 1
