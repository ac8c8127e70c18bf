"""Cards as they really are: locked, mute in places, lost, gone and back, hanging. Rigs are described by files."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from daemon_rig import Rig, eventually

GIB = 2**30

#: Card 0 is locked, card 1 will not tell much, card 2 is what people buy instead; the flicker of somebody's small
#: process on card 3 makes its processes worth a look again and again.
ODD = """
[[card]]
memory = "4042MiB"
[[card]]
unsupported = ["GetFanSpeed", "GetPowerUsage", "GetTemperature", "GetUtilizationRates"]
link_width = 1
[[card]]
name = "GeForce GTX 1070"
[[card]]
""" + "".join(
    f'[[process]]\ncard = 3\nmemory = "64MiB"\nat = "{number * 0.6:.1f}s"\nfor = "0.3s"\n' for number in range(1, 60)
)


@pytest.fixture(scope="module")
def odd_rig(request: pytest.FixtureRequest) -> Rig:
    rig = Rig(ODD)
    request.addfinalizer(rig.close)
    return rig.start()


@pytest.fixture
def odd(odd_rig: Rig, request: pytest.FixtureRequest) -> Rig:
    request.addfinalizer(odd_rig.quiet)
    return odd_rig


def test_a_locked_card_takes_what_fits_it(odd: Rig) -> None:
    card = odd.card(0)
    assert (card["verdict"], card["state"], card["memory_total_bytes"]) == ("locked", "ready", 4042 * 2**20)
    assert any("locked" in text and "card 0" in text for text in odd.status()["warnings"])
    fits = odd.sh("true", only=["0"], vram="3GiB")
    assert odd.ends(fits) == "succeeded" and odd.show(fits)["cards"] == [card["uuid"]]
    # A job that wants a whole P104-100 wants what one should have.
    assert "locked" in (said := odd.refused("run", "--only", "0", "--", "true", code=4)) or "GiB" in said
    odd.refused("run", "--only", "0", "--vram", "5GiB", "--", "true", code=4)
    jobs = [odd.sh("exec sleep 60") for _ in range(3)]
    for job in jobs:
        odd.until(job, "running")
    fourth = odd.sh("true")
    assert odd.state(fourth) == "queued"
    refusals = {one["uuid"]: one["refusal"] for one in odd.json("explain", fourth)["cards"]}
    assert "GiB" in refusals[card["uuid"]]
    check = next(check for check in odd.ctl("doctor", "--json").json["checks"] if check["name"] == "locked cards")
    assert check["ok"] is False and check["mend"]


def test_a_stock_card_without_an_unlock_is_whole(odd: Rig) -> None:
    card = odd.card(2)
    assert (card["verdict"], card["name"]) == ("unverified", "GeForce GTX 1070") or "1070" in card["name"]
    job = odd.sh("true", only=["GeForce GTX 1070"])
    assert odd.ends(job) == "succeeded" and odd.show(job)["cards"] == [card["uuid"]]


def test_missing_readings_are_null_and_cost_nothing_else(odd: Rig) -> None:
    card, whole = odd.card(1), odd.card(3)
    for key in ("fan_percent", "power_watts", "temperature_celsius", "utilization_percent"):
        assert card[key] is None and whole[key] is not None, key
    assert card["memory_used_bytes"] is not None and card["link_width"] == 1 and card["state"] == "ready"
    assert odd.ends(odd.sh("true", only=["1"])) == "succeeded"
    assert any("x1 of x4" in text for text in odd.status()["warnings"])
    assert odd.ctl("cards").code == 0


def test_a_job_that_never_uses_its_card(odd: Rig) -> None:
    """The silent fall-back to the processor: in the simulator, a process that hides the card from itself."""
    fallback = "exec env CUDA_VISIBLE_DEVICES= sleep 60"
    common = {"only": ["3"], "vram": "1GiB"}
    required = odd.sh(fallback, gpu_required=True, **common)
    warned = odd.sh(fallback, **common)
    honest = odd.sh("exec sleep 60", gpu_required=True, **common)
    [ended] = odd.wait(required)
    assert (ended["state"], ended["reason"]) == ("failed", "never used its card")
    eventually(lambda: any(f"job {warned} " in text for text in odd.status()["warnings"]))
    assert odd.state(warned) == odd.state(honest) == "running"
    assert not any(f"job {honest} " in text for text in odd.status()["warnings"])


#: All at once, so that the test waits once. Card 0 stays healthy.
FAULTS = """
[[card]]
[[card]]
[[card]]
[[card]]
[[card]]
[[fault]]
at = "6s"
card = 1
kind = "lost"
[[fault]]
at = "6s"
card = 2
kind = "gone"
for = "3s"
[[fault]]
at = "6s"
card = 3
kind = "xid"
code = 79
[[fault]]
at = "6s"
card = 4
kind = "xid"
code = 31
"""


def test_faults_cost_only_their_card(start: Callable[..., Rig]) -> None:
    rig = start(FAULTS)
    uuids = [card["uuid"] for card in rig.cards()]
    script = "echo $P104_CARDS; [ $P104_ATTEMPT = 2 ] || exec sleep 60"
    elsewhere = rig.sh(script, only=[uuids[1], uuids[0]], retries=1, priority=1)
    if rig.show(elsewhere)["cards"] != [uuids[1]]:
        # Which of two equal cards is taken is placement's business: let it find only the one that will be lost.
        rig.json("cancel", elsewhere)
        rig.wait(elsewhere)
        filler = rig.sh("exec sleep 60", only=[uuids[0]])
        rig.until(filler, "running")
        elsewhere = rig.sh(script, only=[uuids[1], uuids[0]], retries=1)
        rig.until(elsewhere, "running")
        rig.json("cancel", filler)
    others = {number: rig.sh("exec sleep 60", only=[uuids[number]]) for number in (2, 3, 4)}
    for job in (elsewhere, *others.values()):
        rig.until(job, "running")

    eventually(lambda: rig.card(uuids[1])["state"] == "missing", what="lost")
    assert "fell off the bus" in rig.card(uuids[1])["note"]
    eventually(lambda: rig.card(uuids[2])["state"] == "missing", what="gone")
    [ended] = rig.wait(others[2])
    assert (ended["state"], ended["reason"]) == ("failed", "card lost")
    # Retried where there is a card.
    assert rig.ends(elsewhere) == "succeeded"
    first, second = rig.show(elsewhere)["attempts"]
    assert (first["outcome"], first["reason"], first["cards"]) == ("failed", "card lost", [uuids[1]])
    assert second["cards"] == [uuids[0]] and rig.output(elsewhere) == uuids[0] + "\n"

    # XID 79 condemns a card; 31 is some application's own fault.
    eventually(lambda: rig.card(uuids[3])["state"] == "suspect", what="suspect")
    assert "XID 79" in rig.card(uuids[3])["note"]
    assert rig.state(others[3]) == rig.state(others[4]) == "running"
    assert rig.card(uuids[4])["state"] == "busy"
    rig.json("cancel", others[3], others[4])
    rig.wait(others[3], others[4])
    assert rig.card(uuids[4])["state"] == "ready"

    # A missing card counts as one that exists; jobs wait for it and for the suspect one.
    waits = {number: rig.sh("true", only=[uuids[number]]) for number in (1, 3)}
    assert "missing" in rig.because(waits[1]) and "suspect" in rig.because(waits[3])
    all_five = rig.sh("true", cards=5)
    assert rig.state(all_five) == "queued"
    rig.json("cancel", all_five)

    eventually(lambda: rig.card(uuids[2])["state"] == "ready", what="back")
    assert rig.ends(rig.sh("true", only=[uuids[2]])) == "succeeded"
    assert rig.state(waits[1]) == rig.state(waits[3]) == "queued"
    # A person who has looked lets the suspect one work again; a suspicion outlives the daemon until then.
    rig.kill()
    rig.start()
    eventually(lambda: rig.card(uuids[3])["state"] == "suspect", what="still suspect")
    rig.json("undrain", uuids[3])
    assert rig.ends(waits[3]) == "succeeded"


HANG = """
[[card]]
[[card]]
[[fault]]
at = "5s"
card = 1
kind = "hang"
for = "4s"
"""


def test_a_hanging_card_leaves_alone_and_comes_back(start: Callable[..., Rig]) -> None:
    rig = start(HANG)
    uuid = rig.card(1)["uuid"]
    stays = rig.sh("while [ ! -e go ]; do sleep 0.05; done", only=["1"])
    rig.until(stays, "running")
    client, took = rig.client, []
    # From before the call hangs until the sensor was killed for it, and on.
    eventually(lambda: time.monotonic() and _uptime(rig) > 4.8)
    found_at = 0.0
    while len(took) < 200 or not found_at or time.monotonic() < found_at + 0.5:
        began = time.monotonic()
        card = next(card for card in client.get("/v1/status")["cards"] if card["uuid"] == uuid)
        took.append(time.monotonic() - began)
        if card["state"] == "suspect" and not found_at:
            found_at = time.monotonic()
        assert _uptime(rig) < 30, "the hang was never found"
        time.sleep(0.005)
    took.sort()
    p99 = took[int(len(took) * 0.99)]
    print(f"{len(took)} calls while a card hung: median {took[len(took) // 2] * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms")
    assert p99 < 0.1
    hung = rig.card(1)
    assert hung["state"] == "suspect" and "did not return" in hung["note"]
    # Only that card is out, and its job goes on: who hangs is the driver's caller, not necessarily the job.
    assert rig.card(0)["state"] == "ready"
    assert rig.ends(rig.sh("true")) == "succeeded"
    behind = rig.sh("true", only=["1"])
    assert "suspect" in rig.because(behind)
    assert rig.state(stays) == "running"
    eventually(lambda: rig.card(1)["state"] == "busy", what="back")
    (rig.work / "go").touch()
    assert rig.ends(stays) == rig.ends(behind) == "succeeded"


def _uptime(rig: Rig) -> float:
    """Seconds since the daemon's process began: what a rig file counts from, but for its imports."""
    import psutil

    assert rig.daemon is not None
    return time.time() - psutil.Process(rig.daemon.pid).create_time()


RELOAD = """
[[card]]
[[card]]
[[fault]]
at = "0s"
kind = "driver_reload"
for = "5s"
"""


def test_submitting_never_waits_for_the_cards(start: Callable[..., Rig]) -> None:
    rig = Rig(RELOAD)
    try:
        rig.start(cards=False)
        eventually(lambda: rig.status()["warnings"])
        assert rig.cards() == []
        fits, never = rig.sh("true"), rig.sh("true", cards=3)
        assert rig.state(fits) == "queued" and rig.because(fits)
        assert rig.ends(rig.sh("true", cards=0)) == "succeeded"
        assert rig.ends(fits) == "succeeded"
        assert "never" in rig.because(never)
        assert "3" in rig.refused("run", "--cards", "3", "--", "true", code=4)
    finally:
        rig.close()
