"""Every property is shown able to fail: a sabotaged policy is caught by the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import policy_properties as properties
import pytest
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis.errors import NoSuchExample
from policy_starvation import starves
from policy_worlds import snapshots

from p104d.core.plan import Plan
from p104d.core.snapshot import Snapshot
from p104d.policy import explain, fit, schedule
from p104d.policy.fit import Obstacle
from p104d.policy.schedule import Round

#: Enough to find every sabotage below; no shrinking, for only whether there is an example is asked.
search = settings(
    max_examples=1500,
    phases=(Phase.generate,),
    database=None,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
Patch = pytest.MonkeyPatch


def caught(fails: Callable[[Snapshot], bool]) -> bool:
    try:
        find(snapshots(), fails, settings=search)
    except NoSuchExample:
        return False
    return True


def breaks(check: Callable[[Snapshot, Plan], None]) -> Callable[[Snapshot], bool]:
    def fails(snap: Snapshot) -> bool:
        try:
            check(snap, schedule.plan(snap))
        except AssertionError:
            return True
        return False

    return fails


def blind_to(patch: Patch, *blind: Obstacle) -> None:
    """A schedule that does not see these obstacles."""
    true = fit.obstacle
    patch.setattr(schedule, "obstacle", lambda seat, req: None if (found := true(seat, req)) in blind else found)


def no_room_check(patch: Patch) -> None:
    blind_to(patch, Obstacle.NO_ROOM)


def no_foreign_check(patch: Patch) -> None:
    blind_to(patch, Obstacle.FOREIGN)


def no_promise_check(patch: Patch) -> None:
    blind_to(patch, Obstacle.BELOW_PROMISE)


def no_host_check(patch: Patch) -> None:
    patch.setattr(schedule, "host_refusal", lambda *args, **kwargs: None)


def closed_ignored(patch: Patch) -> None:
    blind_to(patch, Obstacle.CLOSED)


def only_ignored(patch: Patch) -> None:
    blind_to(patch, Obstacle.NOT_AMONG)


def alone_ignored(patch: Patch) -> None:
    blind_to(patch, Obstacle.HELD_ALONE)


def shared_ignored(patch: Patch) -> None:
    blind_to(patch, Obstacle.SHARED)


def part_of_a_gang(patch: Patch) -> None:
    true = Round._choose

    def some(self, job):
        fewer = msgspec.structs.replace(job.requirement, cards=min(1, job.requirement.cards))
        return true(self, msgspec.structs.replace(job, requirement=fewer))

    patch.setattr(Round, "_choose", some)


def nothing_kept(patch: Patch) -> None:
    patch.setattr(Round, "_keep_for", lambda self, job: None)


def kept_though_no_end_helps(patch: Patch) -> None:
    patch.setattr(fit.Seat, "emptied", lambda self: open_seat(self))


def open_seat(seat: fit.Seat) -> fit.Seat:
    view = seat.view
    return fit.Seat(msgspec.structs.replace(view, closed=None, foreign_bytes=0, holds=()))


def backfill_without_an_end(patch: Patch) -> None:
    patch.setattr(Round, "_ends_before", lambda self, job, starts_by: True)


def no_kill_grace(patch: Patch) -> None:
    patch.setattr(schedule, "KILL_GRACE_SECONDS", 0.0)


def head_of_line_blocks(patch: Patch) -> None:
    true = Round.consider

    def strict(self, job):
        return None if self.keeps or self._refused else true(self, job)

    patch.setattr(Round, "consider", strict)


def served_as_given(patch: Patch) -> None:
    patch.setattr(schedule, "in_order", list)


def youngest_first(patch: Patch) -> None:
    patch.setattr(schedule, "in_order", lambda waiting: sorted(waiting, key=lambda job: -job.id))


def host_memory_not_kept(patch: Patch) -> None:
    true = schedule.Keep
    patch.setattr(schedule, "Keep", lambda **given: true(**{**given, "ram_bytes": 0, "slots": 0}))


def refusals_remembered_too_long(patch: Patch) -> None:
    """One requirement refused refuses them all."""

    class Once(dict):
        def get(self, key, default=None):
            return next(iter(self.values()), default)

    true = Round.__init__

    def init(self, snap):
        true(self, snap)
        self._refused = Once()

    patch.setattr(Round, "__init__", init)


@pytest.mark.parametrize(
    ("sabotage", "check"),
    [
        (no_room_check, properties.never_over_capacity),
        (no_foreign_check, properties.never_over_capacity),
        (no_promise_check, properties.never_over_capacity),
        (no_host_check, properties.never_over_capacity),
        (closed_ignored, properties.never_a_closed_card),
        (only_ignored, properties.never_a_closed_card),
        (alone_ignored, properties.exclusive_never_shared),
        (shared_ignored, properties.exclusive_never_shared),
        (part_of_a_gang, properties.gangs_whole_or_not_at_all),
        (nothing_kept, properties.keeps_for_the_first),
        (kept_though_no_end_helps, properties.keeps_for_the_first),
        (youngest_first, properties.keeps_for_the_first),
        (backfill_without_an_end, properties.kept_cards_stay_kept),
        (no_kill_grace, properties.kept_cards_stay_kept),
        (head_of_line_blocks, properties.work_conserving),
        (refusals_remembered_too_long, properties.work_conserving),
    ],
    ids=lambda each: each.__name__,
)
def test_a_sabotaged_plan_is_caught(sabotage, check, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)
    assert caught(breaks(check))


def least_free_cards_kept(patch: Patch) -> None:
    from heapq import nlargest

    true = schedule.nsmallest
    patch.setattr(
        schedule, "nsmallest", lambda count, of, key=None: true(count, of, key=key) if key else nlargest(count, of)
    )


@pytest.mark.parametrize(
    "sabotage",
    [nothing_kept, backfill_without_an_end, youngest_first, host_memory_not_kept, least_free_cards_kept],
    ids=lambda each: each.__name__,
)
def test_a_starving_policy_is_caught(sabotage, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)
    assert any(starves(seed) is not None for seed in range(60))


def unsorted_cards(patch: Patch) -> None:
    patch.setattr(schedule, "rank", lambda seat, req: 0)
    patch.setattr(schedule, "sorted", lambda each, key=None: list(each), raising=False)


@pytest.mark.parametrize("sabotage", [served_as_given, unsorted_cards], ids=lambda each: each.__name__)
def test_a_plan_that_depends_on_the_order_given_is_caught(sabotage, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)

    def differs(snap: Snapshot) -> bool:
        turned = msgspec.structs.replace(snap, cards=snap.cards[::-1], waiting=snap.waiting[::-1])
        return schedule.plan(turned) != schedule.plan(snap)

    assert caught(differs)


def another_predicate(patch: Patch) -> None:
    """Explain looks at the bare rig: what the plan has just filled seems free."""
    true = explain._answers
    patch.setattr(explain, "_answers", lambda turn, job: true(Round(explain_from(turn)), job))


def explain_from(turn: Round) -> Snapshot:
    cards = tuple(seat.view for seat in turn.seats)
    return Snapshot(now=turn.now, paused=False, cards=cards, host=turn.host, waiting=())


def own_turn_forgotten(patch: Patch) -> None:
    patch.setattr(explain, "in_order", lambda waiting: list(waiting)[-1:])


@pytest.mark.parametrize("sabotage", [another_predicate, own_turn_forgotten], ids=lambda each: each.__name__)
def test_an_explanation_of_its_own_is_caught(sabotage, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)

    def differs(snap: Snapshot) -> bool:
        try:
            properties.explained_as_planned(snap, schedule.plan(snap), explain.explain)
        except AssertionError:
            return True
        return False

    assert caught(differs)
