"""Power and heat, end to end: settings kept, hands off otherwise, hot cards spared."""

from __future__ import annotations

from collections.abc import Callable

from daemon_rig import CONFIG, Rig, eventually


def limit(rig: Rig, card: int = 0) -> float | None:
    """None until it was read."""
    return rig.card(card)["power_limit_watts"]  # type: ignore[no-any-return]


def test_settings_are_kept_over_restarts_and_given_back(start: Callable[..., Rig]) -> None:
    config = CONFIG + '[power]\nlimit = 140\n[[card]]\nmatch = "1"\nlimit = 120\npersistence = true\n'
    rig = start("[[card]]\n[[card]]\n[[card]]\nunsupported = ['SetPowerManagementLimit']\n", config=config)
    eventually(lambda: (limit(rig), limit(rig, 1)) == (140, 120))
    eventually(lambda: rig.card(1)["persistence"] is True)
    # A card that cannot says so, and costs the others nothing.
    assert limit(rig, 2) == 180
    eventually(lambda: any("card 2" in text and "power limit" in text for text in rig.status()["warnings"]))
    assert rig.ctl("power", "0", "--limit", "150W").code == 0
    assert limit(rig) == 150
    rig.kill()
    rig.start()
    eventually(lambda: (limit(rig), limit(rig, 1)) == (150, 120))
    assert rig.ctl("power", "0", "--reset").code == 0
    eventually(lambda: limit(rig) == 140)
    said = rig.refused("power", "0", "1", "--limit", "500W", code=4)
    assert "217 W" in said and (limit(rig), limit(rig, 1)) == (140, 120)


def test_hands_off_by_default(start: Callable[..., Rig]) -> None:
    rig = start(2)
    assert [card["power_limit_watts"] for card in rig.cards()] == [180, 180]
    assert rig.ends(rig.sh("true")) == "succeeded"
    assert [card["persistence"] for card in rig.cards()] == [False, False]
    shown = rig.json("power")["cards"]
    assert all(value is None for card in shown for value in card["wished"].values())


def test_a_card_too_hot_stops_its_job_and_takes_it_again_when_cooler(start: Callable[..., Rig]) -> None:
    rig = start('[[card]]\n[[card]]\n[[fault]]\nat = "6s"\ncard = 0\nkind = "hot"\nfor = "4s"\n')
    hot = rig.sh("exec sleep 60", only=["0"])
    beside = rig.sh("exec sleep 60", only=["1"])
    rig.until(hot, "running")
    rig.until(beside, "running")
    eventually(lambda: rig.state(hot) == "queued")
    assert "hot" in rig.because(hot)
    attempt = rig.show(hot)["attempts"][0]
    assert attempt["reason"] == "card too hot" and attempt["ended_at"]
    eventually(lambda: rig.state(hot) == "running")
    assert len(rig.show(hot)["attempts"]) == 2 and rig.state(beside) == "running"
    assert rig.show(beside)["attempts"][0]["number"] == 1


def test_a_warm_card_finishes_what_it_has_and_takes_no_more(start: Callable[..., Rig]) -> None:
    config = CONFIG + "[heat]\nstop_jobs = 120\n"
    rig = start('[[card]]\n[[fault]]\nat = "6s"\ncard = 0\nkind = "hot"\nfor = "4s"\n', config=config)
    going = rig.sh("exec sleep 60", vram="1GiB")
    rig.until(going, "running")
    eventually(lambda: "hot" in (rig.card(0)["note"] or ""))
    more = rig.sh("true", vram="1GiB")
    assert rig.state(more) == "queued" and "hot" in rig.because(more)
    assert any("hot" in text and "card 0" in text for text in rig.status()["warnings"])
    assert rig.ends(more) == "succeeded"
    assert rig.state(going) == "running" and len(rig.show(going)["attempts"]) == 1
