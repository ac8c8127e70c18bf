"""The soak itself: it runs, it measures, it sees what grows, and what does not end as it has to."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torture import amount

from p104d.hardware.rig import load_rig
from soak import __main__ as program
from soak import rig as rig_module
from soak.ends import Kind, Ledger
from soak.faults import planned, rig_file
from soak.growth import BOUNDS, LEAST_MINUTES, MIB, growths, smallest_leak, table
from soak.load import kinds
from soak.processes import living_in
from soak.rest import Rest, middle
from soak.rig import Sample

ROOT = Path(__file__).resolve().parents[2]
JOBS = 6000
NAMES = [name for name in Sample.__struct_fields__ if name not in ("seconds", "jobs")]


def sample(seconds: float, jobs: int, **more: float) -> Sample:
    """Some MiB and some pieces of everything, and so much ``more``."""
    usual = {name: 8 * MIB if name.endswith("bytes") else 9 for name in NAMES}
    return Sample(seconds=seconds, jobs=jobs, **{name: int(usual[name] + more.get(name, 0)) for name in NAMES})


def rests(noise: float = 0.0, **by_the_end: float) -> list[Sample]:
    """Four rests in ten minutes; meanwhile some things have grown by so much, and all memory is a little uncertain."""
    dice = random.Random(3)
    found = []
    for part in (0.0, 1 / 3, 2 / 3, 1.0):
        more = {name: dice.uniform(0, noise) if name.endswith("_bytes") else 0 for name in NAMES}
        more |= {name: more[name] + whole * part for name, whole in by_the_end.items()}
        found.append(sample(150 + 450 * part, round(JOBS * (0.25 + 0.75 * part)), **more))
    return found


def too_much(quiet: list[Sample], loud: list[Sample] | None = None, *, judged: bool = True) -> list[str]:
    """The attributes of the bounds that were broken."""
    rows = growths(loud or quiet, quiet, judged=judged)
    return [bound.attribute for bound, row in zip(BOUNDS, rows, strict=True) if not row.good]


def test_what_does_not_grow_is_good() -> None:
    assert too_much(rests()) == []


def test_noise_of_the_allocator_is_no_leak() -> None:
    assert too_much(rests(noise=0.4 * MIB)) == []


def test_a_leak_of_a_kilobyte_a_job_is_seen_in_ten_minutes() -> None:
    jobs = JOBS * 3 // 4
    assert too_much(rests(daemon_bytes=1024 * jobs)) == ["daemon_bytes"]
    rows = growths(rests(), rests(daemon_bytes=1024 * jobs), judged=True)
    assert rows[0].per_job == pytest.approx(1024, rel=0.01)
    assert "TOO MUCH" in table(rows)


def test_the_smallest_leak_that_is_told_is_the_smallest_that_is_seen() -> None:
    least, jobs = smallest_leak(rests()), JOBS * 3 // 4
    assert least is not None and least < 1024
    assert too_much(rests(daemon_bytes=(least + 1) * jobs)) == ["daemon_bytes"]
    assert too_much(rests(daemon_bytes=(least - 1) * jobs)) == []
    assert smallest_leak(rests()[:1]) is None


@pytest.mark.parametrize(
    ("attribute", "grows"),
    [
        ("descriptors", 2),
        ("helper_descriptors", 2),
        ("shim_descriptors", 2),
        ("threads", 7),
        ("processes", 2),
        ("sensor_bytes", 2 * MIB),
        ("zygote_bytes", MIB),
        ("shim_bytes", 3 * MIB),
        ("database_bytes", 16 * MIB),
        ("telemetry_bytes", 3 * MIB),
        ("jobs_bytes", 64 * MIB),
        ("log_bytes", 2 * MIB),
    ],
)
def test_each_thing_that_grows_at_rest_is_seen(attribute: str, grows: int) -> None:
    assert too_much(rests(**{attribute: grows})) == [attribute]


def test_what_grows_by_the_job_may_be_more_with_more_jobs() -> None:
    few, many = sample(150, 1000), sample(600, 6000, database_bytes=5 * MIB)
    assert too_much([few, many]) == []
    assert too_much([few, sample(600, 2000, database_bytes=5 * MIB)]) == ["database_bytes"]


@pytest.mark.parametrize("attribute", ["wal_bytes", "telemetry_wal_bytes", "total_bytes"])
def test_what_is_too_large_under_load_is_seen_at_once(attribute: str) -> None:
    loud = [sample(10, 5), sample(12, 6, **{attribute: 10**9})]
    assert too_much(rests(), loud) == [attribute]
    assert too_much(rests()[:1], loud, judged=False) == [attribute]


def test_busy_shims_are_no_growth() -> None:
    loud = [sample(at, at, total_bytes=200 * MIB * (at > 300), processes=40, shim_bytes=4 * MIB) for at in range(600)]
    assert too_much(rests(), loud) == []


def test_growth_that_is_not_judged_is_told() -> None:
    leaky = rests(daemon_bytes=64 * MIB)
    assert too_much(leaky, judged=False) == []
    assert growths(leaky, leaky, judged=False)[0].grew == pytest.approx(64)


def test_a_quiet_sample_is_the_middle_of_several() -> None:
    assert middle([sample(1, 5), sample(2, 5, descriptors=4), sample(3, 5)]).descriptors == 9


# --- faults ------------------------------------------------------------------------------------------------------


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


# --- ends --------------------------------------------------------------------------------------------------------

FINE = Kind(name="fine", document={"command": "true", "cards": 0})
LIMIT = Kind(name="limit", document={"command": "sleep 9", "vram": "1GiB"}, state="failed", reason="time limit")
RETRIES = Kind(name="retries", document={"cards": 0}, state="failed", reason="exit code 3", attempts=2)
ODD = Kind(name="odd", document={"cards": 0}, odd_fails=True)


def ended(number: int, state: str = "succeeded", reason: str = "exit code 0", **more: Any) -> dict[str, Any]:
    """A job as the daemon lists it."""
    return {"id": number, "state": state, "reason": reason, "attempt_count": 1, "matrix": None, **more}


@pytest.mark.parametrize(
    ("kind", "job", "good"),
    [
        (FINE, ended(1), True),
        (FINE, ended(1, "failed", "exit code 1"), False),
        (FINE, ended(1, "cancelled", "cancelled"), False),
        (FINE, ended(1, "lost", "its shim died"), False),
        (FINE, ended(1, "failed", "card lost"), False),
        (LIMIT, ended(1, "failed", "time limit"), True),
        (LIMIT, ended(1), False),
        (LIMIT, ended(1, "failed", "card lost"), True),
        (RETRIES, ended(1, "failed", "exit code 3", attempt_count=2), True),
        (RETRIES, ended(1, "failed", "exit code 3"), False),
        (ODD, ended(1, matrix={"i": "2"}), True),
        (ODD, ended(1, matrix={"i": "3"}), False),
        (ODD, ended(1, "failed", "exit code 1", matrix={"i": "3"}), True),
    ],
)
def test_a_job_ends_as_its_kind_has_to(kind: Kind, job: dict[str, Any], good: bool) -> None:
    ledger = Ledger()
    ledger.submit(kind, [1])
    assert (ledger.judge([job], at_rest=True) == []) is good


def test_what_was_cancelled_or_lost_its_shim_is_excused() -> None:
    ledger = Ledger()
    ledger.submit(FINE, [1, 2, 3])
    ledger.cancel(1)
    ledger.kill()
    lost = ended(2, "lost", "its shim died; not idempotent, so not run again")
    assert ledger.judge([ended(1, "cancelled", "cancelled"), lost], at_rest=False) == []
    assert ledger.judge([{**lost, "id": 3}], at_rest=False) == ["2 jobs were lost or killed, and 1 shims"]


def test_a_kill_may_hit_what_has_just_become_a_job() -> None:
    ledger = Ledger()
    ledger.submit(FINE, [1, 2])
    ledger.kill()
    assert ledger.judge([ended(1, "failed", "signal 9 (SIGKILL)")], at_rest=False) == []
    assert len(ledger.judge([ended(2, "failed", "signal 9 (SIGKILL)")], at_rest=False)) == 1


def test_an_idempotent_job_is_never_lost() -> None:
    ledger = Ledger()
    ledger.submit(Kind(name="again", document={"idempotent": True}), [1])
    ledger.kill()
    assert len(ledger.judge([ended(1, "lost", "its shim died")], at_rest=True)) == 1


def test_a_job_follows_from_what_it_needed() -> None:
    ledger = Ledger()
    ledger.submit(RETRIES, [1])
    ledger.submit(FINE, [2, 3], [1])
    done = [ended(1, "failed", "exit code 3", attempt_count=2), ended(2, "cancelled", "job 1, which it needed, failed")]
    found = ledger.judge([ended(3), *done], at_rest=True)
    assert len(found) == 1 and found[0].startswith("job 3 (fine) succeeded")


def test_a_job_without_an_end_is_told_at_rest_alone() -> None:
    ledger = Ledger()
    ledger.submit(FINE, [1])
    assert ledger.judge([], at_rest=False) == []
    assert ledger.judge([], at_rest=True) == ["job 1 (fine) has no end"]


def test_each_kind_has_a_name_of_its_own() -> None:
    found = [kind.name for kind in kinds(random.Random(1))]
    assert len(found) == len(set(found))


# --- processes ---------------------------------------------------------------------------------------------------


@pytest.fixture
def lodger(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives in the test's folder."""
    process = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    yield process
    process.kill()
    process.wait()


def test_who_is_left_in_a_folder_is_found(tmp_path: Path, lodger: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 5
    while not (found := living_in(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [process.pid for process in found] == [lodger.pid]
    assert living_in(tmp_path / "nobody") == []


def test_who_outlives_daemon_and_jobs_is_told_and_ended(
    tmp_path: Path, lodger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig_module, "_LEAVE_SECONDS", 0.1)
    rig = rig_module.SoakRig.__new__(rig_module.SoakRig)
    rig.folder = tmp_path
    told = rig._left()
    assert len(told) == 1 and told[0].startswith(f"left behind: {lodger.pid} (")
    assert lodger.wait(5) == -signal.SIGKILL
    assert rig._left() == []


class Pages:
    """A daemon's listing of ended jobs, newest first, ``asked`` for a page at a time."""

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        self.client, self._jobs, self.asked = self, jobs, 0

    def get(self, path: str, query: dict[str, Any]) -> dict[str, Any]:
        assert path == "/v1/jobs" and query["state"] == "ended"
        self.asked += 1
        before = query["before"] or len(self._jobs) + 1
        older = [job for job in reversed(self._jobs) if job["id"] < before]
        return {"jobs": older[: query["limit"]]}


def test_all_jobs_are_looked_at_and_none_twice() -> None:
    pages = Pages([ended(number) for number in range(1, 1300)])
    load = program.Load(pages, 1)  # type: ignore[arg-type] - it is never begun
    rest = Rest(pages, load, quiet=False)  # type: ignore[arg-type]
    load.ledger.submit(FINE, range(1, 1200))
    rest.judge(at_rest=True)
    load.ledger.submit(FINE, range(1200, 1301))
    rest.judge(at_rest=True)
    assert pages.asked == 4 and rest.problems == ["job 1300 (fine) has no end"]


# --- the program -------------------------------------------------------------------------------------------------


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *problems: str) -> tuple[int, str, str]:
    """What the program says of a short run with these problems."""
    monkeypatch.setenv("P104_SEED", "41")
    soak = program.Soak.__new__(program.Soak)
    soak.samples, soak.rests, soak.problems = [sample(1, 1)], [sample(15, 9)], list(problems)
    soak.load = program.Load(None, 1)  # type: ignore[arg-type] - it is never begun
    code = program._tell(soak, program._seed(None), as_json=False)
    return code, *capsys.readouterr()


def test_a_short_run_says_that_it_is_not_judged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = told(capsys, monkeypatch)
    assert code == 0 and err == ""
    assert "memory of the daemon at rest: 8.0 (9 jobs) MiB" in out
    assert f"NOT JUDGED: growth was seen, not judged; that takes at least {LEAST_MINUTES:g} minutes" in out


def test_a_failure_prints_the_seed_that_repeats_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = told(capsys, monkeypatch, "job 1 has no end")
    assert code == 1
    assert "job 1 has no end" in err and "P104_SEED=41" in err


@pytest.mark.slow
@pytest.mark.torture
def test_a_short_soak() -> None:
    minutes = amount(0.25, 10.0)
    told = subprocess.run(
        [sys.executable, "-m", "soak", "--minutes", str(minutes), "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=minutes * 60 + 600, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    found = json.loads(told.stdout)
    assert found["good"] and found["counts"]["jobs"] > 20 and not found["problems"]
    assert found["counts"]["faults"] >= 1
    assert found["judged"] is (minutes >= LEAST_MINUTES)
