"""Each property of plans with models is shown able to fail: a sabotaged policy is caught by the check for it."""

from __future__ import annotations

from collections.abc import Callable

import policy_model_order as order
import policy_model_properties as properties
import pytest
from policy_model_starvation import starves
from policy_model_worlds import worlds
from test_model_plans import same_as_decided

from p104d.core.plan import Plan
from p104d.core.snapshot import Snapshot
from p104d.policy import explain, explain_models, fit, models, models_view, residency, residency_rig, schedule
from p104d.policy.fit import Obstacle
from p104d.policy.models import Models
from p104d.policy.models_view import Queues
from p104d.policy.residency_rig import Rig
from p104d.policy.schedule import Round

#: Enough to find every sabotage below.
WORLDS = 6000
Patch = pytest.MonkeyPatch


def caught(fails: Callable[[Snapshot], bool], commands: bool = True) -> bool:
    return any(fails(snap) for snap in worlds(WORLDS, commands))


def breaks(check: Callable[[Snapshot, Plan], None]) -> Callable[[Snapshot], bool]:
    def fails(snap: Snapshot) -> bool:
        try:
            check(snap, schedule.plan(snap))
        except AssertionError:
            return True
        return False

    return fails


def nothing(*args: object, **kwargs: object) -> None:
    return None


def every_copy_is_idle(patch: Patch) -> None:
    true = models.occupants

    def blind(snap: Snapshot):
        for each in true(snap):
            each.blocks = None
            yield each

    patch.setattr(models, "occupants", blind)


def pinned_is_no_matter(patch: Patch) -> None:
    true = models_view._resident
    patch.setattr(models_view, "_resident", lambda each, now: models.replace(true(each, now), pinned=False))


def models_not_told_of_commands(patch: Patch) -> None:
    patch.setattr(Models, "take", nothing)


def commands_not_told_of_loads(patch: Patch) -> None:
    true = Models._load

    def load(self, act):
        true(self, act)
        for uuid in act.cards:
            self.seats[uuid].model = None

    patch.setattr(Models, "_load", load)


def commands_not_told_of_models_at_work(patch: Patch) -> None:
    patch.setattr(fit.Seat, "add", nothing)


def it_fits_everywhere(patch: Patch) -> None:
    patch.setattr(residency_rig, "takes", lambda family, card: True)


def other_processes_are_no_matter(patch: Patch) -> None:
    true = models_view._card
    patch.setattr(models_view, "_card", lambda *given: models.replace(true(*given), full=False))


def held_cards_seem_free(patch: Patch) -> None:
    true = models_view._card
    patch.setattr(
        models_view, "_card", lambda *given: models.replace(true(*given), closed=given[0].view.closed is not None)
    )


def loads_need_no_memory(patch: Patch) -> None:
    patch.setattr(Rig, "_with_memory", lambda self, family, chosen, units: chosen)


def memory_of_loads_forgotten(patch: Patch) -> None:
    true = Models.decide

    def decide(self, ram_free_bytes, behind=None):
        true(self, ram_free_bytes, behind)
        return ram_free_bytes

    patch.setattr(Models, "decide", decide)


def any_copy_will_do(patch: Patch) -> None:
    true = Rig.warm
    patch.setattr(
        Rig, "warm", lambda self, family: next(filter(None, (true(self, each) for each in self.copies)), None)
    )


def kept_cards_not_told(patch: Patch) -> None:
    patch.setattr(Models, "shut", nothing)


def commands_on_kept_cards(patch: Patch) -> None:
    patch.setattr(Models, "kept_job", nothing)


def commands_first(patch: Patch) -> None:
    true = Round.settle
    patch.setattr(Round, "settle", lambda self, behind=None: true(self) if behind is None else None)


def models_first(patch: Patch) -> None:
    true = schedule.in_order
    patch.setattr(schedule, "in_order", lambda waiting: sorted(true(waiting), key=lambda job: job.family is None))


def copies_never_leave_for_commands(patch: Patch) -> None:
    true = models.occupants

    def fixed(snap: Snapshot):
        for each in true(snap):
            each.blocks = each.blocks or Obstacle.MODEL_STRANDED
            yield each

    patch.setattr(models, "occupants", fixed)


def copies_never_serve(patch: Patch) -> None:
    patch.setattr(Rig, "warm", nothing)


def nothing_is_loaded(patch: Patch) -> None:
    patch.setattr(Rig, "choose", nothing)


def nothing_kept(patch: Patch) -> None:
    patch.setattr(Round, "_keep_for", nothing)


def nothing_kept_where_models_load(patch: Patch) -> None:
    patch.setattr(fit.Occupant, "left", lambda self: self)


@pytest.mark.parametrize(
    ("sabotage", "check"),
    [
        (every_copy_is_idle, properties.only_idle_copies_leave),
        (pinned_is_no_matter, properties.only_idle_copies_leave),
        (models_not_told_of_commands, properties.cards_are_given_once),
        (commands_not_told_of_loads, properties.cards_are_given_once),
        (commands_not_told_of_models_at_work, properties.cards_are_given_once),
        (held_cards_seem_free, properties.cards_are_given_once),
        (it_fits_everywhere, properties.loads_are_possible),
        (other_processes_are_no_matter, properties.loads_are_possible),
        (any_copy_will_do, properties.begun_on_a_copy_of_its_own),
        (loads_need_no_memory, properties.memory_is_there),
        (memory_of_loads_forgotten, properties.memory_is_there),
        (kept_cards_not_told, order.kept_cards_are_kept),
        (commands_on_kept_cards, order.kept_cards_are_kept),
        (commands_first, order.no_copy_is_taken_from_an_older_job),
        (copies_never_serve, order.an_idle_copy_serves),
        (copies_never_leave_for_commands, order.commands_take_what_is_idle),
        (models_first, order.later_jobs_take_nothing_from_a_command),
        (nothing_is_loaded, order.a_cold_model_is_loaded_where_there_is_room),
        (nothing_kept, order.a_command_waits_with_cards_kept),
        (nothing_kept_where_models_load, order.a_command_waits_with_cards_kept),
    ],
    ids=lambda each: each.__name__,
)
def test_a_sabotaged_plan_is_caught(sabotage, check, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)
    assert caught(breaks(check))


def held_cards_are_not_kept(patch: Patch) -> None:
    true = models_view._card
    patch.setattr(models_view, "_card", lambda *given: models.replace(true(*given), held=None))
    patch.setattr(Models, "take", lambda self, seats: self.turn.rig.closed.update(seat.view.uuid for seat in seats))


def memory_of_copies_not_kept(patch: Patch) -> None:
    patch.setattr(Models, "shut_for_memory", nothing)


def memory_not_kept_for_models(patch: Patch) -> None:
    patch.setattr(Models, "_short", lambda self: 0)


def commands_never_come_too_late(patch: Patch) -> None:
    patch.setattr(Models, "_behind", nothing)


def no_patience_ends(patch: Patch) -> None:
    patch.setattr(residency.Turn, "_late", lambda self, queue, newest: False)


@pytest.mark.parametrize(
    "sabotage",
    [
        nothing_kept,
        kept_cards_not_told,
        commands_on_kept_cards,
        held_cards_are_not_kept,
        memory_of_copies_not_kept,
        memory_not_kept_for_models,
        commands_never_come_too_late,
        no_patience_ends,
    ],
    ids=lambda each: each.__name__,
)
def test_a_starving_policy_is_caught(sabotage, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)
    assert any(starves(seed) is not None for seed in range(600))


def jobs_left_out_do_not_count(patch: Patch) -> None:
    patch.setattr(Queues, "lines", lambda self: models_view._lines(self._lines, {}))


def test_a_plan_that_is_not_what_residency_decides_is_caught(monkeypatch: Patch) -> None:
    jobs_left_out_do_not_count(monkeypatch)
    assert caught(breaks(same_as_decided), commands=False)


def told_before_it_is_decided(patch: Patch) -> None:
    patch.setattr(explain_models, "in_order", lambda waiting: [])


def models_left_out(patch: Patch) -> None:
    true = schedule.in_order
    patch.setattr(explain, "in_order", lambda waiting: [job for job in true(waiting) if job.family is None])


@pytest.mark.parametrize("sabotage", [told_before_it_is_decided, models_left_out], ids=lambda each: each.__name__)
def test_an_explanation_of_its_own_is_caught(sabotage, monkeypatch: Patch) -> None:
    sabotage(monkeypatch)
    assert caught(breaks(lambda snap, made: order.explained_as_planned(snap, made, explain.explain)))
