"""The machine and its policies: the plain ones on traces whose schedule is known, all of them on random ones."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_traces import job, trace, traces
from torture import amount

from p104d.policy.residency import PATIENCE_ROUNDS
from p104d.replay.bound import lower_bound
from p104d.replay.figures import POLICIES, figures, flows, makespan, play
from p104d.replay.generate import Recipe, make
from p104d.replay.machine import Copy, Job, Machine
from p104d.replay.ours import P104d
from p104d.replay.trace import Trace

ONE = {"a": (1, 10.0), "b": (1, 10.0)}


def ends(made: Trace, policy: str) -> tuple[list[float | None], int]:
    machine = play(made, policy)
    return [each.ended for each in machine.jobs], machine.loads


# --- schedules known by hand ---


def test_fifo_loads_at_every_change() -> None:
    made = trace(1, ONE, job(1, "a", 5), job(2, "b", 5), job(3, "a", 5))
    assert ends(made, "fifo") == ([15, 30, 45], 3)
    assert ends(made, "lru") == ends(made, "collate") == ends(made, "p104d") == ([15, 35, 20], 2)


def test_fifo_has_as_many_copies_as_it_takes_and_routers_one() -> None:
    made = trace(2, ONE, job(1, "a", 5), job(2, "a", 50), job(3, "a", 5))
    assert ends(made, "fifo") == ([15, 60, 20], 2)
    assert ends(made, "lru") == ends(made, "collate") == ([15, 65, 70], 1)


def test_the_head_of_fifo_blocks_those_behind() -> None:
    made = trace(2, {"a": (1, 10.0), "g": (2, 10.0)}, job(1, "a", 5), job(2, "g", 5), job(3, "a", 5))
    assert ends(made, "fifo") == ([15, 30, 45], 3)


def test_fifo_takes_a_free_card_first_and_then_the_least_recently_used() -> None:
    models = dict.fromkeys("abc", (1, 10.0))
    made = trace(
        2, models, job(1, "a", 5), job(2, "b", 9), job(3, "a", 1, 40), job(4, "c", 1, 50), job(5, "a", 1, 70)
    )  # fmt: skip
    assert ends(made, "fifo") == ([15, 19, 41, 61, 71], 3)


def test_collate_keeps_what_is_asked_for_and_lru_drains_it() -> None:
    made = trace(1, ONE, job(1, "a", 20), job(2, "a", 20, 1), job(3, "b", 5, 2), job(4, "a", 20, 3))
    assert ends(made, "collate") == ([30, 50, 85, 70], 2)
    assert ends(made, "lru") == ([30, 50, 65, 95], 3)


def test_what_lru_drains_goes_on_when_the_head_got_cards_elsewhere() -> None:
    models = dict.fromkeys("abc", (1, 10.0))
    made = trace(
        2, models, job(1, "a", 100), job(2, "c", 10), job(3, "b", 5, 5), job(4, "a", 1, 6), job(5, "a", 1, 21)
    )  # fmt: skip
    assert ends(made, "lru") == ([110, 20, 35, 111, 112], 3)


def test_the_head_of_a_router_waits_for_enough_cards_and_the_loaded_go_on() -> None:
    models = {"a": (1, 10.0), "b": (1, 10.0), "g": (2, 20.0)}
    made = trace(2, models, job(1, "a", 10), job(2, "b", 30), job(3, "g", 5, 1), job(4, "a", 10, 15))
    assert ends(made, "collate") == ([20, 40, 65, 30], 3)


def test_jobs_without_a_model_load_nothing_and_leave_nothing() -> None:
    made = trace(2, ONE, job(1, None, 5, cards=2), job(2, "a", 5), job(3, None, 7, 20, cards=1), job(4, "a", 5, 21))
    for policy in POLICIES:
        assert ends(made, policy) == ([5, 20, 27, 26], 1), policy


def test_p104d_makes_a_second_copy_where_it_pays() -> None:
    made = trace(2, ONE, *(job(number, "a", 20) for number in range(8)))
    assert ends(made, "p104d")[1] == 2
    assert makespan(play(made, "p104d")) == 90
    assert makespan(play(made, "lru")) == 170


def test_the_policy_learns_the_mean_of_the_runs_that_ended() -> None:
    made = trace(1, ONE, job(1, "a", 5), job(2, "a", 13), job(3, "b", 7))
    policy = P104d()
    Machine(made).run(policy)
    assert policy.runs == {("model", "a"): (2, 18.0), ("model", "b"): (1, 7.0)}


def test_priority_in_a_replay() -> None:
    made = trace(1, ONE, job(1, "a", 5), job(2, "a", 5), job(3, "b", 5, 1, priority=9))
    assert ends(made, "p104d") == ([40, 45, 25], 3), "a load that has begun goes on, but then its jobs wait"


# --- what no policy may do, and none does ---


class Watched(Machine):
    """Keeps a record of its own of what stood on which card, from when to when."""

    def __init__(self, made: Trace) -> None:
        super().__init__(made)
        self.spans: dict[int, list[tuple[float, float]]] = {card: [] for card in range(made.cards)}
        self.runs: list[tuple[Job, Copy, float]] = []

    def load(self, job: Job, cards: object, *, start: bool) -> Copy:
        copy = super().load(job, cards, start=start)
        for card in copy.cards:
            self.spans[card].append((self.now, float("inf")))
        return copy

    def _begin(self, copy: Copy, job: Job, at: float) -> None:
        super()._begin(copy, job, at)
        self.runs.append((job, copy, at))

    def _drop(self, copy: Copy) -> None:
        super()._drop(copy)
        for card in copy.cards:
            self.spans[card][-1] = (self.spans[card][-1][0], self.now)


@pytest.mark.torture
@settings(max_examples=amount(60, 2000), deadline=None)
@given(traces(), st.sampled_from(sorted(POLICIES)))
def test_every_job_runs_once_on_cards_nobody_else_has(made: Trace, policy: str) -> None:
    machine = Watched(made)
    machine.run(POLICIES[policy]())
    assert sorted(each.number for each, _, _ in machine.runs) == list(range(len(made.jobs)))
    for ran, copy, at in machine.runs:
        assert copy.family == ran.family and len(copy.cards) == ran.cards
        assert at >= ran.arrival and ran.ended == at + ran.run_seconds
    for first, second in pairwise(sorted((copy.id, at, at + ran.run_seconds) for ran, copy, at in machine.runs)):
        assert first[0] != second[0] or first[2] <= second[1], "two jobs on one copy"
    for spans in machine.spans.values():
        assert all(first[1] <= second[0] for first, second in pairwise(spans)), "two copies on one card"
    assert makespan(machine) >= lower_bound(made) - 1e-6


@pytest.mark.torture
@settings(max_examples=amount(40, 1000), deadline=None)
@given(traces(plain=False), st.integers(2, 5))
def test_p104d_does_not_see_run_times(made: Trace, factor: int) -> None:
    """Until the first job has ended, what starts where is the same whatever the run times are."""

    def beginning(known: Trace) -> list[tuple[int, tuple[int, ...], float]]:
        machine = Watched(known)
        machine.run(POLICIES["p104d"]())
        first = min((each.ended for each in machine.jobs if each.ended is not None), default=0.0)
        return [(ran.number, copy.cards, at) for ran, copy, at in machine.runs if at < first]

    longer = msgspec.structs.replace(
        made, jobs=[msgspec.structs.replace(each, run_seconds=each.run_seconds * factor) for each in made.jobs]
    )
    early = beginning(made)
    assert beginning(longer)[: len(early)] == early


def test_a_policy_that_cheats_is_caught() -> None:
    made = trace(1, ONE, job(1, "a", 5), job(2, "b", 5, 50))
    machine = Machine(made)
    with pytest.raises(AssertionError, match="no such load"):
        machine.load(machine.jobs[0], [0], start=True)

    class Lazy:
        def arrived(self, machine: Machine, job: Job) -> None:
            self.last = machine.load(job, [0], start=True)

        def ended(self, machine: Machine, copy: Copy, job: Job) -> None:
            """Nothing."""

        def act(self, machine: Machine) -> None:
            if machine.now < 50:
                with pytest.raises(AssertionError, match="in use"):
                    machine.unload(self.last) if not self.last.idle else machine.start(machine.jobs[0], self.last)

    with pytest.raises(AssertionError, match="taken: \\[0\\]"):
        Machine(trace(1, ONE, job(1, "a", 5), job(2, "b", 5))).run(Lazy())


def test_a_policy_that_forgets_a_job_is_caught() -> None:
    class Forgets:
        def arrived(self, machine: Machine, job: Job) -> None:
            """Nothing."""

        ended = act = lambda self, *_: None

    with pytest.raises(AssertionError, match="1 jobs never ran"):
        Machine(trace(1, ONE, job(7, "a", 5))).run(Forgets())


# --- nobody starves ---


@pytest.mark.parametrize("wide", [1, 2])
def test_under_an_endless_stream_a_rare_model_has_its_turn(wide: int) -> None:
    """Two hot models, each with a little more work than its card can do, never let go of it by themselves."""
    models = {"a": (1, 10.0), "b": (1, 10.0), "rare": (wide, 10.0)}
    stream = [job(2 * number + k, "ab"[k], 10.0, 9.0 * number) for number in range(300) for k in (0, 1)]
    made = trace(2, models, *stream, job(9999, "rare", 10.0, 100.0))
    patience = PATIENCE_ROUNDS * (10 + 10 + 10 * wide) / 2
    late = play(made, "p104d").jobs[-1]
    assert late.ended is not None
    before = (100 + patience) / 9 * 10 + 10
    assert late.ended <= before + 2 * 10 + 10 + 10, "those that came before, an end, its load, its run"
    assert (play(made, "collate").jobs[-1].ended or 0) > 2700, "what it is without patience"


def test_in_a_batch_nobody_is_late() -> None:
    """Loading is not wasted on turns: each model is loaded once and done with."""
    models = {f"m{number}": (1, 10.0) for number in range(12)}
    made = trace(1, models, *(job(number, f"m{number % 12}", 10.0) for number in range(240)))
    assert play(made, "p104d").loads == 12


# --- the same each time, and soon ---


def test_the_same_trace_has_the_same_outcome_in_any_order_of_its_models() -> None:
    made = make(Recipe(jobs=200, load=0.7), 5)
    other = msgspec.structs.replace(made, models=dict(reversed(made.models.items())))
    for policy in POLICIES:
        assert figures(made, policy) == figures(other, policy) == figures(made, policy)


def test_flows_are_from_arrival_to_end() -> None:
    made = trace(1, ONE, job(1, "a", 5), job(2, "a", 5, 100))
    found = figures(made, "p104d")
    assert flows(play(made, "p104d")) == [5, 15]
    assert (found.mean_flow_seconds, found.p95_flow_seconds, found.max_flow_seconds) == (10, 15, 15)
    assert (found.makespan_seconds, found.lower_bound_seconds, found.loads) == (105, 105, 1)
