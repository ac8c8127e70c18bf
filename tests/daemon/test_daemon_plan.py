"""p104ctl plan against a daemon: what it foretells is what comes, on this rig and on one that is imagined."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import jsonschema
import pytest
from daemon_rig import Rig

from p104d.core.units import GIB
from p104d.daemon.forecast_imagined import imagined

SLEEP = "sleep 30"


def plan(rig: Rig, *options: object) -> dict[str, Any]:
    """The answer, which keeps to its schema."""
    answer: dict[str, Any] = rig.json("plan", *options)
    jsonschema.validate(answer, json.loads(rig.ctl("schema", "plan").out))
    return answer


def by_id(answer: dict[str, Any]) -> dict[int, dict[str, Any]]:
    return {job["id"]: job for job in answer["jobs"]}


def never(answer: dict[str, Any]) -> dict[int, str]:
    return {one["id"]: one["reason"] for one in answer["never"]}


def seconds(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def test_an_empty_queue(rig: Rig) -> None:
    answer = plan(rig)
    assert (answer["cards"], answer["hypothetical"], answer["loads"]) == (4, False, 0)
    assert answer["done_at"] is None and answer["makespan_seconds"] is None
    assert (answer["jobs"], answer["never"], answer["left_out"], answer["notes"]) == ([], [], 0, [])
    assert rig.ctl("plan").out == "nothing runs, nothing waits\n"


def test_run_times_are_learnt_by_name(rig: Rig) -> None:
    rig.wait(rig.sh("sleep 0.5", name="half"))
    running = [rig.sh(SLEEP, name="long") for _ in range(4)]
    for job in running:
        rig.until(job, "running")
    known, unknown = rig.sh("sleep 0.5", name="half"), rig.sh("true", name="never seen")
    answer = plan(rig)
    jobs = by_id(answer)
    assert list(jobs)[:4] == running and {jobs[job]["state"] for job in running} == {"running"}
    assert all(jobs[job]["waits_for"] is None and jobs[job]["guessed"] for job in running)
    assert not jobs[known]["guessed"] and 0.5 <= seconds(jobs[known]["starts_at"], jobs[known]["ends_at"]) < 5
    assert jobs[unknown]["guessed"]
    card = rig.show(running[0])["cards"]
    assert jobs[running[0]]["cards"] == card
    before = next(job for job in running if jobs[job]["cards"] == jobs[known]["cards"])
    assert jobs[known]["waits_for"].endswith(f", held by job {before}")
    assert jobs[known]["starts_at"] >= jobs[before]["ends_at"]
    assert answer["done_at"] == max(job["ends_at"] for job in answer["jobs"])
    assert answer["makespan_seconds"] == pytest.approx(seconds(answer["at"], answer["done_at"]), abs=0.01)


def test_needs_times_and_what_never_starts(rig: Rig) -> None:
    [first] = rig.submit({"name": "first", "command": SLEEP, "cards": 4, "time_limit": "20s"})
    rig.until(first, "running")
    [second, third] = rig.submit(
        {"name": "second", "command": "true", "after": [first]},
        {"name": "third", "command": "true", "after": ["second"]},
    )
    [late] = rig.submit({"name": "late", "command": "true", "not_before": "2035-01-01T00:00:00+00:00"})
    held = rig.sh("true")
    rig.json("hold", held)
    [hopeless] = rig.submit({"name": "hopeless", "command": "true", "after": [held]})
    answer = plan(rig)
    jobs = by_id(answer)
    assert seconds(answer["at"], jobs[first]["ends_at"]) <= 22
    assert jobs[second]["waits_for"] == f"job {first}, which it needs"
    assert jobs[third]["waits_for"] == f"job {second}, which it needs"
    assert jobs[second]["starts_at"] == jobs[first]["ends_at"]
    assert jobs[third]["starts_at"] == jobs[second]["ends_at"]
    assert jobs[late]["starts_at"] == "2035-01-01T00:00:00.000+00:00"
    assert jobs[late]["waits_for"].startswith("not before 2035-01-01")
    assert never(answer) == {
        held: f"held; p104ctl release {held} lets it go on",
        hopeless: f"needs job {held}, which does not start either",
    }


def test_a_drained_card_and_a_paused_queue(rig: Rig) -> None:
    rig.json("drain", 3)
    rig.json("pause")
    try:
        [gang, one] = rig.submit({"name": "gang", "command": "true", "cards": 4}, {"name": "one", "command": "true"})
        answer = plan(rig)
    finally:
        rig.json("undrain", 3)
    assert by_id(answer)[one]["waits_for"] is None and by_id(answer)[one]["starts_at"] == answer["at"]
    assert "undrain 3" in never(answer)[gang]
    assert [note.split(" ")[0:4] for note in answer["notes"]] == [
        ["the", "queue", "is", "paused:"],
        ["card", "3", "(drained)", "is"],
    ]
    answer = plan(rig)
    assert list(by_id(answer)) == [gang, one] and not answer["never"]


def test_more_jobs_than_are_told_or_looked_at(rig: Rig) -> None:
    rig.json("pause")
    jobs = rig.submit({"name": "many", "command": "true", "matrix": {"n": list(range(2100))}})
    answer = plan(rig, "--limit", 7)
    assert len(answer["jobs"]) == 7 and answer["left_out"] == 2093
    assert answer["done_at"] is None
    assert "100 more jobs wait than the 2000 that a forecast looks at" in answer["notes"]
    rig.json("cancel", *jobs)


def test_cards_that_are_imagined(rig: Rig) -> None:
    uuid = rig.cards()[0]["uuid"]
    running = rig.sh(SLEEP, name="runs", only=[uuid])
    rig.until(running, "running")
    waiting = [rig.sh(SLEEP, name="runs", only=[uuid]) for _ in range(2)]
    [wide] = rig.submit({"name": "wide", "command": "true", "cards": 4})
    jobs = by_id(plan(rig))
    assert [jobs[job]["cards"] for job in waiting] == [[uuid], [uuid]]
    answer = plan(rig, "--cards", 3)
    jobs = by_id(answer)
    assert (answer["cards"], answer["hypothetical"]) == (3, True)
    assert sorted(jobs[job]["places"] for job in (running, *waiting)) == [[0], [1], [2]]
    assert {jobs[job]["starts_at"] for job in (running, *waiting)} == {answer["at"]}
    assert all(job["cards"] == [] for job in jobs.values())
    assert never(answer) == {wide: "can never run here: asks 4 cards; this rig has 3"}
    assert len(answer["notes"]) == 2 and answer["notes"][0].startswith("the cards are imagined: P104-100")
    out = rig.ctl("plan", "--cards", 3).out
    assert "as if there were 3 cards" in out


def test_without_any_card_a_p104_is_imagined() -> None:
    first, second = imagined((), 2)
    assert (first.name, first.index, second.index) == ("P104-100", 0, 1)
    assert 7.5 * GIB < first.capacity_bytes < 8 * GIB and first.capacity_bytes >= first.promised_bytes
