"""The forecast of jobs on models, with a real llama.cpp on the processor: loads, copies, what is learnt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
pytest.importorskip("gguf", reason="the extra `llama` is not installed")

from model_rig import LOADED_WITHIN, ModelRig


@pytest.fixture
def rig() -> Iterator[ModelRig]:
    with closing(ModelRig(1)) as made:
        made.start()
        yield made


def test_models_are_loaded_once_for_all_their_jobs(rig: ModelRig) -> None:
    for seed, name in enumerate(("a", "b")):
        rig.model(name, seed)
    blocker = rig.sh("sleep 60")
    rig.until(blocker, "running")
    jobs = [rig.batch(model, f"{model}{n}", 2) for n in range(2) for model in ("a", "b")]
    answer = rig.json("plan")
    told = {job["id"]: job for job in answer["jobs"]}
    assert answer["loads"] == 2
    assert [job["id"] for job in answer["jobs"]] == [blocker, jobs[0], jobs[2], jobs[1], jobs[3]]
    assert told[jobs[0]]["model"] == "a" and told[jobs[0]]["guessed"]
    assert told[jobs[0]]["waits_for"].startswith(f"card 0, held by job {blocker}, then model a to be loaded (")
    assert told[jobs[2]]["waits_for"] == f"card 0, which job {jobs[0]} has before it"
    imagined = rig.json("plan", "--cards", 3)
    assert imagined["loads"] >= 2 and {tuple(job["places"]) for job in imagined["jobs"]} == {(0,), (1,), (2,)}
    rig.json("cancel", blocker)
    ended = rig.wait(*jobs, seconds=LOADED_WITHIN)
    assert {job["state"] for job in ended} == {"succeeded"}
    assert rig.loads() == 2
    # What was foretold is the order in which they ran, and now their run times are known.
    began = sorted(jobs, key=lambda job: rig.show(job)["started_at"])
    assert began == [jobs[0], jobs[2], jobs[1], jobs[3]]
    rig.json("pause")
    again = rig.batch("b", "again", 2)
    [job] = rig.json("plan")["jobs"]
    assert job["id"] == again and not job["guessed"] and job["waits_for"] is None and job["starts_at"] is not None
    assert rig.json("plan")["loads"] == 0
    rig.json("cancel", again)
