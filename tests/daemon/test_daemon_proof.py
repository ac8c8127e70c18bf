"""Proven memory, end to end: every verdict, first proofs and guests, restarts, faults, p104ctl verify and history."""

from __future__ import annotations

import signal
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import psutil
import pytest
from daemon_processes import command_of
from daemon_rig import CONFIG, Rig, eventually

GIB, MIB = 2**30, 2**20

#: One card for every verdict that can be reached without a fault of the driver.
VERDICTS = """
[[card]]
[[card]]
physical_memory = "4GiB"
[[card]]
bad_bits = [{ address = "0x1_4000_0000", stuck_at = 1, bit = 3 }]
[[card]]
memory = "4042MiB"
[[card]]
name = "GeForce GTX 1070"
"""

#: As long as on a real card: a quick test a second or two, a full one a minute.
REAL_TIME = "speedup = 1.0\n[[card]]\n[[card]]\n"


def history_of(rig: Rig, card: int | str) -> list[dict[str, Any]]:
    """A card's tests, newest first."""
    return list(rig.json("history", "--card", card)["tests"])


def newest(rig: Rig, card: int | str) -> dict[str, Any]:
    return history_of(rig, card)[0]


def processes_under_test(rig: Rig) -> list[psutil.Process]:
    return [process for process in rig.processes() if "p104d.memtest.child" in command_of(process)]


def under_test(rig: Rig, card: int = 0) -> bool:
    return rig.card(card)["verified_percent"] is not None


def test_every_card_is_proven_before_it_works(start: Callable[..., Rig]) -> None:
    rig = start(VERDICTS)
    cards = {card["index"]: card for card in rig.cards()}
    assert [cards[n]["verdict"] for n in range(5)] == ["proven", "aliased", "faulty", "locked", "proven"]
    eventually(lambda: [card["state"] for card in rig.cards()] == ["ready", "suspect", "suspect", "ready", "ready"])
    # What was proven, not what is reported, and at least 98 % of what CUDA has.
    assert 0.98 * 8109 * MIB <= cards[0]["memory_proven_bytes"] < 8192 * MIB == cards[0]["memory_total_bytes"]
    assert cards[0]["memory_capacity_bytes"] == cards[0]["memory_proven_bytes"]
    assert cards[1]["memory_proven_bytes"] == 4 * GIB
    found = newest(rig, 2)
    assert found["first_addresses"] == ["0x140000000"] and found["fault"] == "stuck"
    assert found["stuck"] == [{"address": "0x140000000", "bit": 3, "stuck_at": 1}]
    assert newest(rig, 1)["alias_offset_bytes"] == 4 * GIB and newest(rig, 1)["fault"] == "aliasing"
    healthy = newest(rig, 0)
    assert healthy["errors"] == 0 and healthy["coverage_percent"] >= 98 and healthy["verdict"] == "proven"
    assert healthy["host_to_device_bytes_per_second"] == pytest.approx(0.74 * GIB, rel=0.1)
    for card, word in ((1, "aliased"), (2, "faulty")):
        job = rig.sh("true", only=[str(card)], vram="1GiB") if False else None
        assert job is None
        job = rig.sh("true", only=[str(card)], vram="1GiB")
        assert rig.state(job) == "queued" and f"its memory is {word}" in rig.because(job)
        rig.ctl("cancel", job)
    assert rig.ends(rig.sh("true", only=["0"])) == "succeeded"
    assert rig.ends(rig.sh("true", only=["3"], vram="3GiB")) == "succeeded"
    rig.refused("run", "--only", "3", "--", "true", code=4)
    assert all(any(word in text for text in rig.status()["warnings"]) for word in ("aliased", "faulty", "locked"))


def test_nobodys_card_takes_work_before_its_first_proof(start: Callable[..., Rig]) -> None:
    rig = Rig("speedup = 0.1\n[[card]]\n")
    try:
        rig.start(cards=False)
        eventually(rig.cards)
        job = rig.sh("true")
        card = rig.card(0)
        assert (card["verdict"], card["state"], card["memory_proven_bytes"]) == ("unverified", "verifying", None)
        assert rig.state(job) == "queued" and "test" in rig.because(job)
        eventually(lambda: under_test(rig))
        # The first test is neither pushed aside by the job nor to be stopped.
        assert "first test is not stopped" in rig.refused("verify", "--stop", "0", code=4)
        assert rig.state(job) == "queued"
        assert rig.ends(job) == "succeeded"
        [test] = history_of(rig, 0)
        assert test["state"] == "finished" and test["verdict"] == "proven"
    finally:
        rig.close()


def test_verdicts_are_kept_and_asked_again_when_the_card_changed(start: Callable[..., Rig]) -> None:
    rig = start("[[card]]\n[[card]]\n")
    before = rig.cards()
    rig.kill()
    rig.start()
    assert [card["memory_proven_bytes"] for card in rig.cards()] == [c["memory_proven_bytes"] for c in before]
    assert len(history_of(rig, 0)) == len(history_of(rig, 1)) == 1
    rig.kill()
    # Flashed with another ROM, and found to have half the memory.
    (rig.folder / "rig.toml").write_text('[[card]]\nvbios = "86.04.7A.00.99"\nphysical_memory = "4GiB"\n[[card]]\n')
    rig.start()
    eventually(lambda: rig.card(0)["verdict"] == "aliased")
    assert "VBIOS changed" in newest(rig, 0)["cause"] and len(history_of(rig, 1)) == 1
    assert rig.card(1)["verdict"] == "proven"


def test_a_later_test_is_a_guest(start: Callable[..., Rig]) -> None:
    rig = start(REAL_TIME)
    assert rig.ctl("verify", "0", "--depth", "full", "--no-wait").code == 0
    eventually(lambda: under_test(rig))
    assert rig.card(0)["state"] == "verifying" and rig.card(0)["memory_proven_bytes"] is not None
    job = rig.sh("exec sleep 60", only=["0"])
    rig.until(job, "running")
    assert newest(rig, 0)["state"] == "preempted"
    assert rig.card(0)["verdict"] == "proven" and rig.card(0)["test_due"] == "asked for"
    assert not processes_under_test(rig)
    waiting = rig.json("verify", "0", "--depth", "full", "--no-wait")["tests"]
    assert waiting[0]["state"] == "waiting" and f"job {job}" in waiting[0]["waiting_because"]
    rig.ctl("cancel", job)
    rig.wait(job)
    eventually(lambda: under_test(rig))
    assert rig.ctl("verify", "--stop", "0").code == 0
    eventually(lambda: rig.card(0)["state"] == "ready")
    assert newest(rig, 0)["state"] == "stopped" and rig.card(0)["test_due"] is None
    # A drained card is nobody's: its test is left alone.
    rig.ctl("drain", "1")
    rig.ctl("verify", "1", "--depth", "full", "--no-wait")
    eventually(lambda: under_test(rig, 1))
    queued = rig.sh("true", only=["1"])
    assert under_test(rig, 1) and rig.state(queued) == "queued"
    rig.ctl("cancel", queued)
    rig.ctl("verify", "--stop")
    eventually(lambda: not processes_under_test(rig))


def test_verify_waits_and_tells(start: Callable[..., Rig]) -> None:
    rig = start('[[card]]\n[[card]]\nbad_bits = [{ address = "0x1000", stuck_at = 0, bit = 7 }]\n')
    result = rig.ctl("verify", "0", "--json")
    assert result.code == 0, result
    [test] = result.json["tests"]
    assert test["verdict"] == "proven" and test["asked_by"] and test["cause"] == "asked for" and test["id"] == 3
    result = rig.ctl("verify", "--depth", "full")
    assert result.code == 1 and "faulty" in result.out and "proven" in result.out, result
    assert newest(rig, 1)["depth"] == "full" and newest(rig, 1)["errors"] > 10
    assert {"moving", "modulo"} <= {each["name"].split()[0].split("-")[0] for each in newest(rig, 0)["passes"]}
    assert rig.ctl("verify", "7").code == 5


def test_an_interrupted_verify_does_no_harm(start: Callable[..., Rig]) -> None:
    rig = start(REAL_TIME)
    asking = rig.process("verify", "0", "--depth", "full")
    eventually(lambda: under_test(rig))
    asking.send_signal(signal.SIGINT)
    out, err = asking.communicate(timeout=20)
    assert asking.returncode == 130, (out, err)
    eventually(lambda: rig.card(0)["state"] == "ready")
    assert rig.card(0)["verdict"] == "proven" and newest(rig, 0)["state"] == "stopped"
    # One who is killed asks no more either.
    asking = rig.process("verify", "0", "--depth", "full")
    eventually(lambda: under_test(rig))
    asking.kill()
    asking.communicate()
    eventually(lambda: rig.card(0)["state"] == "ready")
    assert rig.ends(rig.sh("true", only=["0"])) == "succeeded"


def test_a_daemon_that_dies_takes_its_tests_along_and_asks_again(start: Callable[..., Rig]) -> None:
    rig = start(REAL_TIME)
    rig.ctl("verify", "0", "--depth", "full", "--no-wait")
    eventually(lambda: under_test(rig))
    rig.kill()
    eventually(lambda: not processes_under_test(rig))
    rig.start(cards=False)
    eventually(lambda: rig.cards() and under_test(rig))
    assert [test["state"] for test in history_of(rig, 0)] == ["running", "interrupted", "finished"]
    assert rig.card(0)["verdict"] == "proven"


def test_a_card_that_hangs_under_its_test_costs_only_itself(start: Callable[..., Rig]) -> None:
    rig = start(REAL_TIME + '[[fault]]\nat = "6s"\ncard = 0\nkind = "lost"\n')
    rig.ctl("verify", "0", "--depth", "full", "--no-wait")
    beside = rig.sh("exec sleep 60", only=["1"])
    rig.until(beside, "running")
    eventually(lambda: newest(rig, 0)["state"] == "finished")
    uuid = newest(rig, 0)["card"]
    assert newest(rig, 0)["verdict"] == "failed" and newest(rig, 0)["text"]
    assert rig.card(uuid)["verdict"] == "failed"
    assert rig.state(beside) == "running"


def test_few_at_a_time(start: Callable[..., Rig]) -> None:
    rig = start(3, config=CONFIG + "max_parallel_loads = 1\n")
    spans = sorted((test["started_at"], test["ended_at"]) for card in range(3) for test in history_of(rig, card))
    assert len(spans) == 3
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


def test_an_xid_and_a_failed_job_ask_for_a_test(start: Callable[..., Rig]) -> None:
    rig = start('[[card]]\n[[card]]\n[[fault]]\nat = "4s"\ncard = 0\nkind = "xid"\ncode = 62\n')
    eventually(lambda: len(history_of(rig, 0)) == 2)
    assert "XID 62" in newest(rig, 0)["cause"]
    eventually(lambda: newest(rig, 0)["state"] == "finished")
    # Good memory does not clear the card: who looked into the cause says so.
    eventually(lambda: rig.card(0)["state"] == "suspect")
    assert rig.ctl("verify", "0").code == 0
    eventually(lambda: rig.card(0)["state"] == "ready")
    # Lately proven: a program's own errors are no reason for another test.
    job = rig.sh("echo CUDA error: an illegal memory access was encountered; exit 1", only=["1"])
    assert rig.ends(job) == "failed"
    assert len(history_of(rig, 1)) == 1


def test_a_test_that_the_host_killed_says_nothing_of_the_card(start: Callable[..., Rig]) -> None:
    rig = start(REAL_TIME)
    rig.ctl("verify", "0", "--depth", "full", "--no-wait")
    eventually(lambda: under_test(rig))
    for process in processes_under_test(rig):
        process.kill()
    eventually(lambda: newest(rig, 0)["state"] == "interrupted")
    card = rig.card(0)
    assert (card["verdict"], card["state"], card["test_due"]) == ("proven", "ready", "asked for")
    assert rig.ends(rig.sh("true", only=["0"])) == "succeeded"
    waiting = rig.json("verify", "0", "--no-wait")["tests"][0]
    assert waiting["state"] == "waiting" and "cut short" in waiting["waiting_because"]
