"""Cards and their driver fail: only the card concerned leaves service, and nobody waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from daemon_rig import PATIENCE, Rig, eventually
from fault_rig import FaultRig
from torture import LONG

pytestmark = pytest.mark.torture

#: While a card hangs, the slowest of a hundred answers may take this long.
MOST_SECONDS = 0.1
REQUESTS = 400

#: The daemon has proven its cards by then.
HANG = """
[[card]]
[[card]]
[[card]]
[[card]]
[[fault]]
at = "8s"
card = 1
kind = "hang"
for = "60s"
"""
HANG_SECONDS = 60.0


def of(rig: Rig, uuid: str) -> dict[str, Any]:
    return next((card for card in rig.cards() if card["uuid"] == uuid), {"state": "absent"})


def p99(rig: Rig) -> float:
    """Seconds that 99 of 100 requests stay below: what people and scripts ask all day, and submissions."""
    client, took = rig.client, []
    for number in range(REQUESTS):
        begun = time.perf_counter()
        if number % 10 == 9:
            assert rig.ctl("submit", "-", stdin="command: 'true'\ncards: 0\n").code == 0
        else:
            client.get(("/v1/status", "/v1/cards", "/v1/jobs")[number % 3])
        took.append(time.perf_counter() - begun)
    return sorted(took)[int(REQUESTS * 0.99) - 1]


def measured_until(rig: Rig, over: Callable[[], bool], what: str) -> list[float]:
    """The same of one hundred after the other until ``over``."""
    found, deadline = [p99(rig)], time.monotonic() + HANG_SECONDS + PATIENCE
    while not over():
        assert time.monotonic() < deadline, what
        found.append(p99(rig))
    return found


def test_while_a_card_hangs_everything_else_goes_on(make: Callable[..., FaultRig], tell: Callable[[str], None]) -> None:
    """In torture the answers of the whole minute are measured, from before the hang on, and the worst of them count."""
    rig = make(HANG)
    rig.start()
    uuids = [card["uuid"] for card in rig.cards()]
    assert all(card["state"] == "ready" for card in rig.cards()), "the rig took longer to start than the card to hang"
    sensor = next(child.pid for child in psutil.Process(rig.daemon.pid).children() if "sensor" in _name(child))  # type: ignore[union-attr]
    running = {uuid: rig.sh("echo up; exec sleep 600", only=[uuid]) for uuid in (uuids[0], uuids[2])}
    for job in running.values():
        rig.reads(job, "up")
    measured = measured_until(rig, lambda: out_of_service(rig, uuids[1]), "the card leaves service") if LONG else []
    eventually(lambda: out_of_service(rig, uuids[1]), what="the card left service")
    hung = of(rig, uuids[1])
    assert "did not return" in hung["note"], hung
    # The process that asked it is stuck in the call: it was killed, and another reads the others.
    eventually(lambda: not _alive(sensor), what="the sensor that hung is gone")
    if not LONG:
        # A machine that is busy with other things may have three tries.
        measured = [p99(rig)]
        while measured[-1] >= MOST_SECONDS and len(measured) < 3:
            measured.append(p99(rig))
        assert min(measured) < MOST_SECONDS, measured
    assert does_not_return(rig, uuids[1]), "the card came back before all was measured"
    # The others are looked at, run on, and take new jobs.
    for uuid in (uuids[0], uuids[2], uuids[3]):
        card = of(rig, uuid)
        assert card["state"] in ("ready", "busy") and card["temperature_celsius"] is not None, card
    assert [rig.state(job) for job in running.values()] == ["running", "running"]
    fresh = rig.sh("echo $CUDA_VISIBLE_DEVICES")
    assert rig.ends(fresh) == "succeeded" and rig.output(fresh).strip() == uuids[3]
    waits = rig.sh("true", only=[uuids[1]])
    assert rig.state(waits) == "queued" and "did not return" in rig.because(waits)
    if LONG:
        measured += measured_until(rig, lambda: not does_not_return(rig, uuids[1]), "the card answers again")
        tell(f"{len(measured)} times {REQUESTS} answers: 99 % within {min(measured):.3f} to {max(measured):.3f} s")
        assert max(measured) < MOST_SECONDS, measured
        rig.ctl("undrain", uuids[1])
        assert rig.wait(waits, seconds=60)[0]["state"] == "succeeded"


def out_of_service(rig: Rig, uuid: str) -> bool:
    return of(rig, uuid)["state"] not in ("ready", "busy")


def does_not_return(rig: Rig, uuid: str) -> bool:
    return "did not return" in (of(rig, uuid)["note"] or "")


def _name(process: psutil.Process) -> str:
    return " ".join(process.cmdline())


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


#: Card 0 is unplugged and comes back in another slot, behind all others; card 1 answers nothing for a while; then the
#: driver is loaded anew beneath everything.
MOVES = """
[[card]]
[[card]]
[[card]]
[[fault]]
at = "8s"
card = 0
kind = "gone"
for = "4s"
[[fault]]
at = "8s"
card = 0
kind = "moved"
bus_id = "0000:0a:00.0"
[[fault]]
at = "8s"
card = 1
kind = "unknown"
for = "4s"
[[fault]]
at = "13s"
kind = "driver_reload"
"""


def test_cards_that_leave_and_come_back(make: Callable[..., FaultRig]) -> None:
    rig = make(MOVES)
    rig.start()
    first, second, third = (card["uuid"] for card in rig.cards())
    before = {uuid: of(rig, uuid) for uuid in (first, second, third)}
    assert all(card["verdict"] == "proven" for card in before.values()), before
    steady = rig.sh("echo up; exec sleep 600", only=[third])
    rig.reads(steady, "up")
    # Named by its index of today, and not started before it has another.
    rig.json("pause")
    named = rig.sh("echo $CUDA_VISIBLE_DEVICES", only=["0"])
    eventually(lambda: of(rig, first)["state"] in ("missing", "absent"), what="the first is gone")
    eventually(lambda: of(rig, second)["state"] not in ("ready", "busy"), what="the second answers nothing")
    assert rig.state(steady) == "running"
    eventually(lambda: of(rig, first)["state"] == "ready", what="the first is back")
    back = of(rig, first)
    assert back["bus_id"].upper().endswith("0A:00.0") and back["index"] == 2, back
    assert of(rig, third)["index"] == 1
    assert (back["verdict"], back["memory_proven_bytes"]) == ("proven", before[first]["memory_proven_bytes"])
    eventually(lambda: of(rig, second)["state"] == "ready", what="the second answers again")
    rig.json("resume")
    assert rig.ends(named) == "succeeded" and rig.output(named).strip() == first
    # The driver goes and comes; whoever runs runs on, and all is in service again.
    eventually(lambda: _is_past(rig, 14.5))
    eventually(lambda: all(of(rig, uuid)["state"] in ("ready", "busy") for uuid in (first, second, third)))
    assert rig.state(steady) == "running"
    assert {of(rig, uuid)["verdict"] for uuid in (first, second, third)} == {"proven"}
    fresh = rig.sh("true", only=[second])
    assert rig.ends(fresh) == "succeeded"


def _is_past(rig: Rig, seconds: float) -> bool:
    """Whether the daemon has run for so long."""
    assert rig.daemon is not None
    return time.time() - psutil.Process(rig.daemon.pid).create_time() > seconds
