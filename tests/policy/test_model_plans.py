"""Every plan for every rig with models on it: the properties, and that it is ``decide`` where there are only models."""

from __future__ import annotations

import msgspec
import policy_model_order as order
import policy_model_properties as properties
import policy_properties
import pytest
from policy_model_worlds import carried_out, worlds
from torture import amount

from p104d.core.plan import KeptCards, LoadModel, Plan
from p104d.core.snapshot import Snapshot
from p104d.policy import explain, schedule
from p104d.policy.residency import decide
from p104d.policy.residency_view import Ask, Begin, Family, Line, Load, Resident, RigCard, View


@pytest.mark.torture
def test_every_plan_keeps_the_properties() -> None:
    for snap in worlds(amount(4000, 400_000)):
        made = schedule.plan(snap)
        order.check_all(snap, made)
        commands = msgspec.structs.replace(made, starts=tuple(start for start in made.starts if start.resident is None))
        policy_properties.never_a_closed_card(snap, commands)
        policy_properties.exclusive_never_shared(snap, commands)


@pytest.mark.torture
def test_same_snapshot_same_plan_whatever_the_order() -> None:
    for snap in worlds(amount(2000, 200_000)):
        other = msgspec.structs.replace(
            snap,
            cards=snap.cards[::-1],
            waiting=snap.waiting[::-1],
            residents=snap.residents[::-1],
            families=snap.families[::-1],
        )
        assert schedule.plan(other) == schedule.plan(snap)


@pytest.mark.torture
def test_with_models_alone_the_plan_is_what_residency_decides() -> None:
    for snap in worlds(amount(3000, 300_000), commands=False):
        same_as_decided(snap, schedule.plan(snap))


def same_as_decided(snap: Snapshot, made: Plan) -> None:
    found = decide(view_of(snap))
    begun = [(act.job, act.resident) for act in found.acts if isinstance(act, Begin)]
    assert [(start.job_id, start.resident) for start in made.starts] == begun
    assert made.loads == tuple(
        LoadModel(family=act.family, cards=act.cards, job_id=act.job, evicts=act.evicts)
        for act in found.acts
        if isinstance(act, Load)
    )
    assert made.kept == tuple(KeptCards(job_id=k.job, cards=k.cards, expected=k.expected) for k in found.kept)
    assert made.reservation is None


@pytest.mark.torture
def test_explain_says_of_each_job_what_the_plan_does() -> None:
    for snap in worlds(amount(1000, 100_000)):
        order.explained_as_planned(snap, schedule.plan(snap), explain.explain)


@pytest.mark.torture
def test_carried_out_nothing_is_left_to_do() -> None:
    """The plan for the rig as it is after the plan starts and loads nothing more: nobody was forgotten. Where something
    is kept, that may be something else the second time, for fewer wait then."""
    for snap in worlds(amount(3000, 200_000)):
        made = schedule.plan(snap)
        if made.reservation is None and not made.kept:
            again = schedule.plan(carried_out(snap, made))
            assert (again.starts, again.loads) == ((), ())


def test_paused_is_an_empty_plan() -> None:
    for snap in worlds(100):
        assert schedule.plan(msgspec.structs.replace(snap, paused=True)) == Plan()


def view_of(snap: Snapshot) -> View:
    """The snapshot of a rig without commands, written down as residency wants it."""
    stuck = {uuid for each in snap.residents if not properties.usable(snap, each) for uuid in each.cards}
    fastest = max(view.link_bytes_per_second for view in snap.cards)
    return View(
        now=snap.now,
        cards=tuple(
            RigCard(
                id=view.uuid,
                closed=view.closed is not None or view.uuid in stuck,
                slowness=fastest / view.link_bytes_per_second if view.link_bytes_per_second else 1.0,
            )
            for view in snap.cards
        ),
        residents=tuple(
            Resident(
                id=each.id,
                family=each.family,
                cards=each.cards,
                last_used=each.last_used,
                busy_since=each.busy_since if each.job_id is not None else each.ready_at,
                loading=each.ready_at is not None,
                pinned=each.pinned,
                ram_bytes=each.ram_bytes,
            )
            for each in snap.residents
            if properties.usable(snap, each)
        ),
        families=tuple(
            Family(
                name=each.key,
                cards=each.cards,
                load_seconds=each.load_seconds,
                mean_seconds=each.mean_seconds,
                seen=each.seen,
                fits=frozenset(each.fits),
                ram_bytes=each.ram_bytes,
            )
            for each in snap.families
        ),
        lines=tuple(_lines(snap)),
        ram_free_bytes=snap.host.ram_free_bytes,
    )


def _lines(snap: Snapshot) -> list[Line]:
    made: dict[tuple[str, int], list[Ask]] = {}
    for job in sorted(snap.waiting, key=lambda job: job.id):
        made.setdefault((job.family or "", job.priority), []).append(Ask(job.id, job.arrival))
    lowest = {key: min(priority for name, priority in made if name == key) for key, _ in made}
    seen = {key: sum(job.family == key for job in snap.waiting) for key in lowest}
    waiting = {each.key: each.waiting for each in snap.families}
    return [
        Line(
            family=key,
            priority=priority,
            count=len(asks) + (waiting[key] - seen[key] if lowest[key] == priority else 0),
            first=tuple(asks),
        )
        for (key, priority), asks in made.items()
    ]
