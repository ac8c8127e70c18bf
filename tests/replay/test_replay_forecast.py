"""The forecast of a queue of model jobs comes to what the replay of the same trace does: every end, every load."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given, settings
from replay_traces import job, trace, traces
from torture import amount

from p104d.core.job import ModelNeed, Requirement
from p104d.core.snapshot import CardView, HostView, ModelFamily, Snapshot, WaitingJob
from p104d.core.units import GIB
from p104d.policy.forecast import Play, foretell
from p104d.policy.forecast_view import Ahead, Question
from p104d.replay.figures import play
from p104d.replay.generate import Recipe, make
from p104d.replay.trace import Trace


def as_question(given: Trace) -> Question:
    """A trace of model jobs, nothing known of run times but what ends: as the replay has it."""
    rig = tuple(
        CardView(uuid=f"GPU-{n:04d}", index=n, name="P104-100", capacity_bytes=GIB, promised_bytes=GIB)
        for n in range(given.cards)
    )
    fits = tuple(each.uuid for each in rig)
    models = {job.model for job in given.jobs if job.model is not None}
    families = tuple(
        ModelFamily(
            key=f"model/{name}",
            label=name,
            cards=given.models[name].cards,
            fits=fits,
            load_seconds=given.models[name].load_seconds,
        )
        for name in sorted(models)
    )
    jobs = tuple(
        Ahead(
            job=WaitingJob(
                id=number,
                priority=job.priority,
                requirement=Requirement(model=ModelNeed(path=job.model or "", uid=0)),
                family=f"model/{job.model}",
                arrival=job.arrival_seconds,
            ),
            run_seconds=job.run_seconds,
            due=job.arrival_seconds,
        )
        for number, job in enumerate(given.jobs)
    )
    host = HostView(ram_free_bytes=0, ram_total_bytes=0, cpu_slots_free=0, cpu_slots_total=0)
    snapshot = Snapshot(now=0.0, paused=False, cards=rig, host=host, waiting=(), families=families)
    return Question(snapshot=snapshot, ahead=jobs, max_parallel_loads=given.cards, plans=100_000)


def check_against_replay(given: Trace) -> None:
    # A queue is served by number, which is the order in which its jobs came.
    sorted_trace = msgspec.structs.replace(given, jobs=sorted(given.jobs, key=lambda each: each.arrival_seconds))
    machine = play(sorted_trace, "p104d")
    told = foretell(as_question(sorted_trace))
    assert {each.id: each.ends for each in told.planned} == {each.number: each.ended for each in machine.jobs}
    assert told.loads == machine.loads
    assert (told.never, told.left) == ((), ())


@settings(max_examples=amount(80, 3000), deadline=None)
@given(traces(plain=False))
def test_it_is_the_replay(made: Trace) -> None:
    check_against_replay(made)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_replay_of_a_batch_and_of_a_stream(seed: int) -> None:
    check_against_replay(make(Recipe(jobs=150, lengths="fixed", run_seconds=(20.0, 20.0)), seed))
    check_against_replay(make(Recipe(jobs=150), seed))
    check_against_replay(make(Recipe(jobs=100, load=0.65), seed))


@settings(max_examples=amount(80, 3000), deadline=None)
@given(traces(plain=False))
def test_shortcuts_change_nothing_and_nor_does_the_order_of_the_question(made: Trace) -> None:
    asked = as_question(made)
    full = Play(asked, shortcuts=False)
    full.run()
    told = foretell(asked)
    assert told == full.told()
    snapshot = asked.snapshot
    turned = msgspec.structs.replace(snapshot, families=snapshot.families[::-1])
    assert foretell(msgspec.structs.replace(asked, snapshot=turned, ahead=asked.ahead[::-1])) == told


def test_a_thousand_jobs_of_a_batch_take_a_moment() -> None:
    asked = as_question(make(Recipe(jobs=1000), 1))
    began = time.process_time()
    assert len(foretell(asked).planned) == 1000
    assert time.process_time() - began < 2.0  # a tenth of it where nobody else computes


def test_a_late_job_goes_before_the_next_of_an_idle_copy() -> None:
    models = {"a": (1, 4.0), "b": (1, 4.0)}
    late = trace(1, models, job(0, "a", 200.0), job(1, "b", 10.0, 1.0), job(2, "a", 10.0, 100.0))
    check_against_replay(late)
    told = foretell(as_question(late))
    assert [each.id for each in told.planned] == [0, 1, 2] and told.loads == 3
