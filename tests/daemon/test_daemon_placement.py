"""Where jobs go: gangs, sharing, others' memory, and nobody kept waiting for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from daemon_rig import Rig, eventually

GIB = 2**30


def blocker(rig: Rig, gate: str, **keys: object) -> int:
    """A job that runs until the file ``gate`` is there."""
    (rig.work / gate).unlink(missing_ok=True)
    job = rig.sh(f"while [ ! -e {gate} ]; do sleep 0.02; done", **keys)
    rig.until(job, "running")
    return job


def opened(rig: Rig, gate: str) -> Path:
    path = rig.work / gate
    path.touch()
    return path


def test_a_gang_starts_on_all_its_cards_at_once(rig: Rig) -> None:
    alone = blocker(rig, "gate")
    gang = rig.sh("echo $P104_CARDS", cards=4)
    assert rig.state(gang) == "queued" and rig.show(gang)["cards"] == []
    assert sum(card["memory_reserved_bytes"] > 0 for card in rig.cards()) == 1
    opened(rig, "gate")
    assert rig.ends(alone) == rig.ends(gang) == "succeeded"
    assert sorted(rig.output(gang).strip().split(",")) == sorted(card["uuid"] for card in rig.cards())


def test_a_gang_does_not_starve_and_sure_enders_pass_it(rig: Rig) -> None:
    first = [blocker(rig, f"gate{number}", time_limit="60s") for number in range(4)]
    gang = rig.sh("echo gang >> order", cards=4)
    behind = rig.submit(
        {"name": "small", "matrix": {"n": [*range(20)]}, "command": "echo small >> order", "vram": "7800MiB"}
    )
    opened(rig, "gate0")
    assert rig.ends(first[0]) == "succeeded"
    # A card is free now, twenty want it, and it is kept; but for one that has to end before the gang can start.
    sure = rig.sh("echo sure >> order", time_limit="5s")
    assert rig.ends(sure) == "succeeded"
    assert rig.state(gang) == "queued" and {rig.state(job) for job in behind} == {"queued"}
    assert f"job {gang}" in rig.because(behind[0])
    assert "first in line" in rig.because(gang)
    for number in range(1, 4):
        opened(rig, f"gate{number}")
    rig.wait(gang, *behind)
    order = rig.work / "order"
    assert order.read_text().split() == ["sure", "gang", *["small"] * 20]
    order.unlink()


def test_a_whole_card_is_not_shared(rig: Rig) -> None:
    uuid = rig.card(0)["uuid"]
    shared = rig.sh("exec sleep 60", only=["0"], vram="1GiB")
    rig.until(shared, "running")
    whole = rig.sh("exec sleep 60")
    rig.until(whole, "running")
    assert rig.show(whole)["cards"] != [uuid]
    beside = rig.sh("true", vram="1GiB", only=[rig.show(whole)["cards"][0]])
    assert rig.state(beside) == "queued" and f"job {whole}" in rig.because(beside)


def test_every_card_is_used_before_any_waits(rig: Rig) -> None:
    jobs = [rig.sh("exec sleep 60") for _ in range(4)]
    for job in jobs:
        rig.until(job, "running")
    assert {rig.show(job)["cards"][0] for job in jobs} == {card["uuid"] for card in rig.cards()}


def test_what_can_never_run_here_is_refused_at_once(rig: Rig) -> None:
    assert "cards" in rig.refused("run", "--cards", "5", "--", "true", code=4)
    assert "vram" in rig.refused("run", "--vram", "9GiB", "--", "true", code=4)


OTHERS = """
[[card]]
[[card]]
[[process]]
card = 0
memory = "3GiB"
[[process]]
card = 1
memory = "6GiB"
at = "4s"
for = "3s"
"""


def test_memory_of_others_is_respected(start: Callable[..., Rig]) -> None:
    rig = start(OTHERS)
    eventually(lambda: rig.card(0)["memory_foreign_bytes"] == 3 * GIB)
    on_first = {"only": ["0"]}
    whole = rig.sh("true", **on_first)
    assert rig.state(whole) == "queued" and "other" in rig.because(whole)
    rig.json("cancel", whole)
    assert rig.ends(rig.sh("true", vram="4GiB", **on_first)) == "succeeded"
    assert "GiB" in rig.because(rig.sh("true", vram="6GiB", **on_first))
    # Somebody comes to the second card and goes again: who asked for it meanwhile starts then.
    eventually(lambda: rig.card(1)["memory_foreign_bytes"] == 6 * GIB)
    late = rig.sh("true", only=["1"])
    assert rig.state(late) == "queued"
    assert rig.ends(late) == "succeeded"
    assert rig.card(1)["memory_foreign_bytes"] == 0
