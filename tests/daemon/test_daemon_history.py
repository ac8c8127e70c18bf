"""What is recorded, end to end: speeds while a job runs, what it took, results that outlive it, readings, metrics."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Callable

import pytest
from daemon_rig import CONFIG, Rig, eventually
from test_daemon_json import check

from p104d.core.units import iso

#: A bar of tqdm's, ten steps a second; it stands at 30 of 100 until the file ``bar-goes-on`` is there.
BAR = """
for i in $(seq 1 30); do printf '\\r%3d%%|###| %d/100 [00:%02d<00:07, 10.00it/s]' $i $i $((i / 10)) >&2; done
while [ ! -e bar-goes-on ]; do sleep 0.05; done
for i in $(seq 31 100); do printf '\\r%3d%%|###| %d/100 [00:%02d<00:00, 10.00it/s]' $i $i $((i / 10)) >&2; done
echo
"""


def figures(job: dict) -> dict[str, float]:
    return {each["name"]: each["value"] for each in job["measurements"]}


def test_a_running_jobs_speed_progress_and_end(rig: Rig) -> None:
    job = rig.sh(BAR, measure=["tqdm"], labels={"model": "sdxl"})
    found = eventually(lambda: (now := rig.show(job))["progress_percent"] and now)
    assert found["progress_percent"] == 30 and figures(found)["iterations_per_second"] == 10
    assert found["estimated_end_at"] is not None
    [listed] = [each for each in rig.status()["running"] if each["id"] == job]
    assert listed["progress_percent"] == 30
    (rig.work / "bar-goes-on").touch()
    assert rig.ends(job) == "succeeded"
    (rig.work / "bar-goes-on").unlink()
    ended = rig.show(job)
    assert ended["progress_percent"] is None and figures(ended)["iterations"] == 100


def test_what_a_job_took_is_on_record_and_outlives_a_restart(start: Callable[..., Rig]) -> None:
    rig = start(2, config=CONFIG + "energy_price = 0.5\n")
    job = rig.sh(
        "echo '100%|##| 30/30 [00:12<00:00, 2.50it/s]'; exec sleep 5", measure=["tqdm"], labels={"model": "sdxl"}
    )
    rig.until(job, "running")
    time.sleep(0.5)
    rig.kill()
    rig.start()
    assert rig.ends(job) == "succeeded"
    took = figures(rig.show(job))
    assert took["peak_vram_bytes"] > 7e9 and 100 < took["mean_power_watts"] <= took["peak_power_watts"] <= 180
    # Readings five times a second over more than a second: power by time, and what it costs.
    assert 0.02 < took["energy_watt_hours"] < 180 * 7 / 3600
    assert took["cost"] == pytest.approx(took["energy_watt_hours"] / 1000 * 0.5)
    answer = rig.json("history", "--model", "sdxl", "--all")
    check(rig, "history", answer)
    [speed] = [each for each in answer["summaries"] if each["measure"] == "iterations_per_second"]
    assert speed["count"] == 1 and speed["median"] == 2.5 and speed["reference"]["value"] == 2.52
    report = rig.json("report")
    check(rig, "report", report)
    [group] = report["groups"]
    assert group["model"] == "sdxl" and group["jobs"] == group["succeeded"] == 1
    assert group["energy_watt_hours"] == pytest.approx(took["energy_watt_hours"])
    uuid = rig.show(job)["cards"][0]
    now = time.time()
    series = rig.client.get(
        "/v1/series", {"card": uuid, "metric": "power_watts", "since": iso(now - 60), "until": iso(now)}
    )
    assert max(value for one in series["series"] for value in one["mean"] if value is not None) > 100


def test_metrics_on_the_socket(rig: Rig) -> None:
    assert rig.ends(rig.sh("true")) == "succeeded"
    connection = http.client.HTTPConnection("p104d")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(rig.socket))
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        page = answer.read().decode()
    finally:
        connection.close()
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    ended = [line for line in page.splitlines() if line.startswith("p104_jobs_ended_total") and "succeeded" in line]
    assert ended and float(ended[0].rsplit(" ", 1)[1]) >= 1
    assert page.count("p104_card_temperature_celsius{") == 4
    wait = next(line for line in page.splitlines() if line.startswith("p104_job_wait_seconds_count"))
    assert float(wait.rsplit(" ", 1)[1]) >= 1
