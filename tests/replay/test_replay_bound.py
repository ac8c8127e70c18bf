"""The bound: never above what the best of all schedules takes, and near it."""

from __future__ import annotations

from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from replay_traces import job, trace, traces
from torture import amount

from p104d.replay.bound import lower_bound
from p104d.replay.trace import Trace, TraceJob


def optimum(made: Trace) -> float:
    """The least makespan of any schedule: all orders of starting, all choices of cards, each job as soon as it goes.

    A load begins once its cards are free and somebody has asked for the model, maybe before the job is there.
    """
    asked: dict[str, float] = {}
    for each in made.jobs:
        if each.model is not None:
            asked[each.model] = min(each.arrival_seconds, asked.get(each.model, each.arrival_seconds))
    empty = tuple((0.0, None) for _ in range(made.cards))
    return min((_best(made, asked, list(order), empty, 0.0) for order in permutations(made.jobs)), default=0.0)


def _best(made: Trace, asked: dict[str, float], left: list[TraceJob], cards: tuple, latest: float) -> float:
    if not left:
        return latest
    head, rest = left[0], left[1:]
    found = float("inf")
    for chosen in combinations(range(made.cards), made.width(head)):
        copy = (head.model, chosen)
        free = max(cards[card][0] for card in chosen)
        if head.model is None or any(cards[card][1] != copy for card in chosen):
            free = max(free, asked.get(head.model or "", 0.0)) + made.load_seconds(head)
        end = max(free, head.arrival_seconds) + head.run_seconds
        after = list(cards)
        for card in chosen:
            gone = after[card][1]
            if gone is not None and gone != copy:
                after = [(until, None if on == gone else on) for until, on in after]
            after[card] = (end, None if head.model is None else copy)
        found = min(found, _best(made, asked, rest, tuple(after), max(latest, end)))
    return found


@pytest.mark.torture
@settings(max_examples=amount(60, 1000), deadline=None)
@given(traces(most_jobs=4, most_cards=3))
def test_no_schedule_is_better_than_the_bound(made: Trace) -> None:
    assert lower_bound(made) <= optimum(made) + 1e-6


def test_the_best_schedule_by_hand() -> None:
    """What the brute force finds where the answer is plain, so that it is not the bound's yes-man."""
    made = trace(2, {"a": (1, 10.0), "g": (2, 5.0)}, job(1, "a", 5), job(2, "g", 5), job(3, "a", 5))
    assert optimum(made) == 25
    assert optimum(trace(1, {"a": (1, 10.0)}, job(1, "a", 5), job(2, "a", 5, 30))) == 35


@pytest.mark.parametrize(
    ("made", "bound"),
    [
        (trace(1, {}, *()), 0.0),
        (trace(1, {"a": (1, 10.0)}, job(1, "a", 5), job(2, "a", 5)), 20.0),
        (trace(2, {"a": (1, 10.0)}, job(1, "a", 60), job(2, "a", 60)), 70.0),
        (trace(2, {"a": (1, 10.0)}, job(1, "a", 5, 100)), 115.0),
        (trace(2, {"a": (1, 10.0)}, job(1, "a", 5), job(2, "a", 5, 100)), 105.0),
        (trace(3, {"a": (2, 10.0), "b": (2, 10.0)}, job(1, "a", 30), job(2, "b", 30)), 80.0),
        (trace(2, {}, job(1, None, 30, 10, cards=2), job(2, None, 20, cards=1)), 40.0),
        (trace(1, {"a": (1, 5.0)}, *(job(n, "a", 10.0, 100.0 * (n > 3)) for n in range(8))), 140.0),
    ],
    ids=["nothing", "one copy", "two copies", "arrival", "loaded before", "wider than half", "no model", "the tail"],
)
def test_bounds_that_are_met(made: Trace, bound: float) -> None:
    assert lower_bound(made) == pytest.approx(bound, abs=1e-6)


def test_the_bound_of_a_batch_is_the_textbooks() -> None:
    """N T must hold the work and the loads, as many of a family as its work needs within T."""
    made = trace(6, {"hot": (1, 10.0), "g": (2, 20.0)}, *(job(n, "hot", 20.0) for n in range(60)), job(99, "g", 50.0))
    bound = lower_bound(made)

    def needs(end: float) -> float:
        return 1200 + -(-1200 // (end - 10)) * 10 + 2 * (50 + 20)

    assert needs(bound + 1e-6) <= 6 * (bound + 1e-6) and needs(bound - 1e-6) > 6 * (bound - 1e-6)
