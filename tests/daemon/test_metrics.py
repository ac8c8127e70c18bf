"""The page for Prometheus: what is on it, what is not, what it costs."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from metrics_rig import FULL, STARTED_AT, Page, World, give_all, report, uuid

from p104d.core.card import CardReading, XidEvent
from p104d.core.job import JobState
from p104d.core.units import GIB
from p104d.daemon.metrics_page import render
from p104d.hardware.messages import DriverProblem

with_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is missing")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


# --- cards ------------------------------------------------------------------------------------------------------------


def test_readings_are_in_base_units(world: World) -> None:
    world.cycle(report(0))
    page, card = world.page(), {"card": uuid(0), "index": "0", "name": "P104-100"}
    expected = {
        "temperature_celsius": 61,
        "power_watts": 118.5,
        "power_limit_watts": 150,
        "utilization_ratio": 0.97,
        "memory_utilization_ratio": 0.4,
        "fan_ratio": 0.55,
        "sm_clock_hertz": 1607e6,
        "memory_clock_hertz": 5005e6,
        "memory_size_bytes": 8 * GIB,
        "memory_used_bytes": 3 * GIB,
        "memory_reserved_bytes": 0,
        "link_generation": 1,
        "link_generation_max": 2,
        "link_width": 4,
        "link_width_max": 4,
        "jobs": 0,
        "last_seen_timestamp_seconds": STARTED_AT + 1,
        "memory_test_due": 1,
    }
    for name, value in expected.items():
        assert page.value(f"p104_card_{name}", **card) == pytest.approx(value), name
    assert page.value("p104_card_throttle", reason="software power cap", **card) == 1
    info = page.labels("p104_card_info")[0]
    assert info == card | {
        "bus_id": "00000000:01:00.0",
        "device_id": "10de:1b87",
        "vbios": "86.04.7A.00.20",
        "driver": "535.183.01",
        "catalog_name": "P104-100",
    }


def test_what_the_driver_does_not_tell_is_no_series(world: World) -> None:
    world.cycle(report(0, CardReading()), report(1))
    page = world.page()
    told = {
        name
        for name in page.sample_names
        if name.startswith(("p104_card_", "DCGM_"))
        and page.values(name, card=uuid(0)) + page.values(name, UUID=uuid(0))
    }
    # What the daemon knows of a card without asking the driver for a reading.
    assert told == {
        *(f"p104_card_{name}" for name in ("state", "verdict", "info", "jobs", "last_seen_timestamp_seconds")),
        *(f"p104_card_{name}" for name in ("memory_size_bytes", "memory_reserved_bytes", "memory_foreign_bytes")),
        *(f"p104_card_{name}" for name in ("memory_test_due", "link_generation_max", "link_width_max")),
        *(f"DCGM_FI_DEV_{name}" for name in ("XID_ERRORS", "PCIE_MAX_LINK_GEN", "PCIE_MAX_LINK_WIDTH")),
    }
    assert "p104_card_temperature_celsius" in page.sample_names, "the other card's are there"


def test_a_missing_card_keeps_its_state_and_loses_its_readings(world: World) -> None:
    world.cycle(report(0), report(1))
    world.cycle(report(1))
    page = world.page()
    assert page.value("p104_card_state", card=uuid(0), state="missing") == 1
    assert not page.values("p104_card_temperature_celsius", card=uuid(0))
    assert {one["UUID"] for name in page.sample_names if name.startswith("DCGM_") for one in page.labels(name)} == {
        uuid(1)
    }
    assert page.value("p104_card_last_seen_timestamp_seconds", card=uuid(0)) == STARTED_AT + 1


def test_a_missing_card_whose_index_is_anothers_has_none(world: World) -> None:
    world.cycle(report(0))
    world.cycle(report(1, index=0))
    indexes = {one["card"]: one["index"] for one in world.page().labels("p104_card_info")}
    assert indexes == {uuid(0): "", uuid(1): "0"}


@pytest.mark.parametrize(("name", "label"), [("p104_card_state", "state"), ("p104_card_verdict", "verdict")])
def test_exactly_one_word_holds(world: World, name: str, label: str) -> None:
    world.cycle(report(0), report(1))
    page = world.page()
    for card in (uuid(0), uuid(1)):
        found = {one[label]: page.value(name, **one) for one in page.labels(name) if one["card"] == card}
        assert len(found) > 4 and sum(found.values()) == 1
    assert page.value("p104_card_verdict", card=uuid(0), verdict="unverified") == 1


def test_dcgm_names_carry_dcgm_units_and_labels(world: World) -> None:
    world.cycle(report(1), xids=[XidEvent(code=31, uuid=uuid(1)), XidEvent(code=79, bus_id="00000000:02:00.0")])
    page = world.page()
    values = {
        "GPU_TEMP": 61,
        "POWER_USAGE": 118.5,
        "SM_CLOCK": 1607,
        "MEM_CLOCK": 5005,
        "GPU_UTIL": 97,
        "MEM_COPY_UTIL": 40,
        "FB_USED": 3072,
        "FB_FREE": 5120,
        "FB_TOTAL": 8192,
        "FAN_SPEED": 55,
        "PCIE_LINK_GEN": 1,
        "PCIE_LINK_WIDTH": 4,
        "XID_ERRORS": 79,
    }
    for name, value in values.items():
        assert page.value(f"DCGM_FI_DEV_{name}", UUID=uuid(1)) == value, name
    labels = page.labels("DCGM_FI_DEV_GPU_TEMP")[0]
    assert labels.pop("Hostname")
    assert labels == {
        "gpu": "1",
        "UUID": uuid(1),
        "pci_bus_id": "00000000:02:00.0",
        "device": "nvidia1",
        "modelName": "P104-100",
    }


def test_names_of_cards_are_escaped(world: World) -> None:
    world.cycle(report(0, name='P104 "x"\\\nrig'))
    assert world.page().labels("p104_card_info")[0]["name"] == 'P104 "x"\\\nrig'


def test_xids_are_counted_by_card_and_code(world: World) -> None:
    world.cycle(report(0), xids=[XidEvent(code=31, uuid=uuid(0)), XidEvent(code=31, bus_id="00000000:01:00.0")])
    world.cycle(report(0), xids=[XidEvent(code=79, uuid=uuid(0)), XidEvent(code=8, bus_id="00000000:0F:00.0")])
    page = world.page()
    assert page.value("p104_card_xid_errors_total", card=uuid(0), index="0", code="31") == 2
    assert page.value("p104_card_xid_errors_total", card=uuid(0), code="79") == 1
    assert page.value("p104_card_xid_errors_total", card="00000000:0F:00.0", code="8") == 1


# --- jobs, tests, daemon ----------------------------------------------------------------------------------------------


def test_counts_are_shown(world: World) -> None:
    counts = world.counts
    counts.job_started(0.05)
    counts.job_started(100.0)
    counts.job_ended(JobState.SUCCEEDED, "exit code 0", 30.0)
    counts.job_ended(JobState.FAILED, "signal 9 (SIGKILL)", 5.0)
    counts.job_ended(JobState.CANCELLED, "cancelled")
    counts.test_ended("aliased")
    counts.test_ended(None)
    counts.step_failed()
    page = world.page()
    assert page.value("p104_jobs_ended_total", state="succeeded", reason="exit_code") == 1
    assert page.value("p104_jobs_ended_total", state="failed", reason="signal") == 1
    assert page.value("p104_jobs_ended_total", state="failed", reason="exit_code") == 0
    assert page.value("p104_jobs_ended_total", state="cancelled", reason="asked") == 1
    assert page.value("p104_job_wait_seconds_count") == 2
    assert page.value("p104_job_wait_seconds_sum") == pytest.approx(100.05)
    assert page.value("p104_job_wait_seconds_bucket", le="0.1") == 1
    assert page.value("p104_job_wait_seconds_bucket", le="60.0") == 1
    assert page.value("p104_job_wait_seconds_bucket", le="300.0") == 2
    assert page.value("p104_job_run_seconds_count") == 2, "a job that never ran has no run time"
    assert page.value("p104_memory_tests_total", verdict="aliased") == 1
    assert page.value("p104_memory_tests_total", verdict="none") == 1
    assert page.value("p104_loop_steps_failed_total") == 1


def test_the_page_tells_of_the_daemon(world: World) -> None:
    world.cycle(report(0))
    world.loop.paused = True
    world.metrics.warnings = lambda: ["one", "two"]
    page = world.page()
    assert page.labels("p104_daemon_info")[0]["mode"] == "simulated"
    assert page.value("p104_daemon_start_time_seconds") == STARTED_AT
    assert page.value("p104_daemon_paused") == 1
    assert page.value("p104_warnings") == 2 + len(world.rig.warnings())
    assert page.value("p104_heat_limit_celsius", limit="stop_jobs") == 95
    assert page.value("p104_sensor_cycles_total") == 1
    assert page.value("p104_sensor_last_cycle_timestamp_seconds") == STARTED_AT + 1
    assert page.value("p104_process_resident_memory_bytes") > 1e6
    assert page.value("p104_scrapes_total") == 0
    assert world.page().value("p104_scrapes_total") == 1
    assert not page.values("p104_driver_problem")
    world.cycle(problem=DriverProblem(kind="hang", message="hangs", mend="wait"))
    assert world.page().value("p104_driver_problem", kind="hang") == 1


def test_every_state_of_jobs_is_there(world: World) -> None:
    assert {one["state"] for one in world.page().labels("p104_jobs")} == {state.value for state in JobState}


def test_nothing_of_other_libraries_is_shown(world: World) -> None:
    give_all(world)
    assert {name for name in world.page().sample_names if not name.startswith(("p104_", "DCGM_FI_DEV_"))} == set()


# --- how it is made ---------------------------------------------------------------------------------------------------


def test_pages_are_shared_and_given_again_while_fresh(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.cycle(report(0))
    monkeypatch.setattr("p104d.daemon.metrics._FRESH_SECONDS", 1000.0)

    async def ask() -> list[bytes]:
        together = await asyncio.gather(*(world.metrics.page() for _ in range(20)))
        return [*together, await world.metrics.page()]

    assert len(set(map(id, asyncio.run(ask())))) == 1
    monkeypatch.setattr("p104d.daemon.metrics._FRESH_SECONDS", -1.0)
    assert b"p104_scrapes_total 1.0" in asyncio.run(world.metrics.page()), "one picture was taken for all of them"


def test_one_who_goes_away_takes_nobody_along(world: World) -> None:
    async def ask() -> bytes:
        first, second = (asyncio.ensure_future(world.metrics.page()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        return await second

    assert asyncio.run(ask()).startswith(b"# HELP")


def test_a_queue_that_cannot_be_read_is_an_error_and_no_old_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from p104d.core.errors import UnavailableError

    def broken() -> None:
        raise UnavailableError("the queue cannot be read")

    async def ask() -> None:
        with pytest.raises(UnavailableError):
            await world.metrics.page()

    with monkeypatch.context() as patch:
        patch.setattr(world.metrics, "picture", broken)
        asyncio.run(ask())
    assert asyncio.run(world.metrics.page())


def test_a_scrape_of_64_cards_leaves_the_loop_free(world: World) -> None:
    """What the event loop's own thread computes for it; that is a tenth of the page, the rest is made in another."""
    world.cycle(*(report(number) for number in range(64)))
    world.metrics.text()  # imports the library

    async def spent() -> float:
        before = time.thread_time()
        page = await world.metrics.page()
        spent = time.thread_time() - before
        assert page.count(b"p104_card_temperature_celsius{") == 64
        world.metrics._made_at = float("-inf")
        return spent

    assert min(asyncio.run(spent()) for _ in range(3)) < 0.020


def test_a_picture_does_not_change_while_it_is_drawn(world: World) -> None:
    picture = world.metrics.picture()
    world.counts.job_started(1.0)
    world.counts.xid(uuid(0), 79)
    page = Page(render(picture))
    assert page.value("p104_job_wait_seconds_count") == 0
    assert not page.values("p104_card_xid_errors_total")


# --- by Prometheus' own judgement -------------------------------------------------------------------------------------


@with_promtool
def test_promtool_finds_nothing_to_say_about_our_names(world: World) -> None:
    give_all(world)
    ours = [line for line in world.metrics.text().decode().splitlines(keepends=True) if "DCGM_" not in line]
    done = subprocess.run(
        ["promtool", "check", "metrics"], input="".join(ours), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@with_promtool
def test_promtool_reads_the_whole_page(world: World) -> None:
    """DCGM's names are NVIDIA's, in capitals: promtool dislikes that (exit code 3), and nothing else."""
    give_all(world)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=world.metrics.text(), capture_output=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    complaints = done.stderr.decode().splitlines()
    assert all(line.startswith("DCGM_FI_DEV_") for line in complaints), complaints


def test_all_kinds_of_series_are_in_give_all(world: World) -> None:
    """What the documents are compared with has every series that exists."""
    give_all(world)
    page = world.page()
    empty = [name for name, family in page.families.items() if not family.samples]
    assert empty == []
    assert FULL.throttle
