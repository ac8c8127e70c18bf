"""Every plan for every rig with models on it: the properties, and that it is ``decide`` where there are only models."""

from __future__ import annotations

import msgspec
import policy_model_properties as properties
import policy_properties
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_model_worlds import model_snapshots
from torture import amount

from p104d.core.plan import KeptCards, LoadModel, Plan
from p104d.core.snapshot import Snapshot
from p104d.policy import schedule
from p104d.policy.residency import decide
from p104d.policy.residency_view import Ask, Begin, Family, Line, Load, Resident, RigCard, View

few = settings(max_examples=amount(150, 5000), deadline=None)


@pytest.mark.torture
@pytest.mark.parametrize("check", properties.ALL, ids=lambda check: check.__name__)
def test_property(check) -> None:
    @few
    @given(model_snapshots())
    def holds(snap: Snapshot) -> None:
        check(snap, schedule.plan(snap))

    holds()


@pytest.mark.torture
@pytest.mark.parametrize(
    "check",
    [policy_properties.never_a_closed_card, policy_properties.exclusive_never_shared],
    ids=lambda check: check.__name__,
)
def test_what_holds_without_models_holds_for_commands_with_them(check) -> None:
    @few
    @given(model_snapshots())
    def holds(snap: Snapshot) -> None:
        made = schedule.plan(snap)
        commands = tuple(start for start in made.starts if start.resident is None)
        check(snap, msgspec.structs.replace(made, starts=commands))

    holds()


@pytest.mark.torture
@few
@given(model_snapshots(), st.randoms(use_true_random=False))
def test_same_snapshot_same_plan_whatever_the_order(snap: Snapshot, random) -> None:
    def mixed(things: tuple) -> tuple:
        return tuple(random.sample(things, len(things)))

    other = msgspec.structs.replace(
        snap,
        cards=mixed(snap.cards),
        waiting=mixed(snap.waiting),
        residents=mixed(snap.residents),
        families=mixed(snap.families),
    )
    assert schedule.plan(other) == schedule.plan(snap)


@pytest.mark.torture
@few
@given(model_snapshots(commands=False))
def test_with_models_alone_the_plan_is_what_residency_decides(snap: Snapshot) -> None:
    found = decide(view_of(snap))
    made = schedule.plan(snap)
    begun = [(act.job, act.resident) for act in found.acts if isinstance(act, Begin)]
    assert [(start.job_id, start.resident) for start in made.starts] == begun
    assert made.loads == tuple(
        LoadModel(family=act.family, cards=act.cards, job_id=act.job, evicts=act.evicts)
        for act in found.acts
        if isinstance(act, Load)
    )
    assert made.kept == tuple(KeptCards(job_id=k.job, cards=k.cards, expected=k.expected) for k in found.kept)
    assert made.reservation is None


@few
@given(model_snapshots())
def test_paused_is_an_empty_plan(snap: Snapshot) -> None:
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
