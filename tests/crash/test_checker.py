"""The checker itself: a true story is passed, and each lie is found by the check that is for it."""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import checker
import evidence as evidence_of
import pytest
from evidence import Attempt, Copy, Effect, Evidence, Hold, Job
from workload import ENGINE, KINDS, ORDINARY, Ledger, document, kind_of, read_ledger

GIB = 2**30


def truth() -> Evidence:
    """Job 1 succeeded, 2 failed twice, 3 waited for 1, 4 was cancelled, 5 was lost to a dead shim, 6 shared with 7."""
    return Evidence(
        acknowledged={1: "ok-1", 2: "exhausted-2", 3: "ok-3-after", 4: "cancelled-4", 5: "slow-5", 6: "shared-6"},
        cancelled={4},
        jobs={
            1: Job(1, "ok-1", "succeeded", "exit code 0", 0, 2),
            2: Job(2, "exhausted-2", "failed", "exit code 4", 4, 2, retries=1),
            3: Job(3, "ok-3-after", "succeeded", "exit code 0", 0, 1),
            4: Job(4, "cancelled-4", "cancelled", "cancelled", None, 1),
            5: Job(5, "slow-5", "lost", "its shim died", None, 1),
            6: Job(6, "shared-6", "succeeded", "exit code 0", 0, 1),
            7: Job(7, "shared-7", "succeeded", "exit code 0", 0, 1),
        },
        attempts={
            (1, 1): Attempt(1, 1, "revoked", None, None, None, 10.0, 11.0),
            (1, 2): Attempt(1, 2, "succeeded", 0, None, "exit code 0", 11.0, 12.0),
            (2, 1): Attempt(2, 1, "failed", 4, None, "exit code 4", 12.0, 13.0),
            (2, 2): Attempt(2, 2, "failed", 4, None, "exit code 4", 14.0, 15.0),
            (3, 1): Attempt(3, 1, "succeeded", 0, None, "exit code 0", 15.0, 16.0),
            (4, 1): Attempt(4, 1, "cancelled", None, 15, "cancelled", 16.0, 17.0, "cancelled"),
            (5, 1): Attempt(5, 1, "lost", None, None, "its shim died", 17.0, 18.0),
            (6, 1): Attempt(6, 1, "succeeded", 0, None, "exit code 0", 20.0, 22.0),
            (7, 1): Attempt(7, 1, "succeeded", 0, None, "exit code 0", 21.0, 23.0),
        },
        holds=[
            Hold(1, 1, "A", 8 * GIB, True),
            Hold(1, 2, "A", 8 * GIB, True),
            Hold(2, 1, "A", 8 * GIB, True),
            Hold(2, 2, "A", 8 * GIB, True),
            Hold(3, 1, "A", 8 * GIB, True),
            Hold(6, 1, "A", 3 * GIB, False),
            Hold(7, 1, "A", 3 * GIB, False),
        ],
        capacity={"A": 8 * GIB, "B": 8 * GIB},
        needs=[(3, 1)],
        counts={"succeeded": 4, "failed": 1, "cancelled": 1, "lost": 1, "queued": 0},
        effects=[
            Effect("start", 1, 2, ("A",)),
            Effect("end:0", 1, 2, ("A",)),
            Effect("start", 2, 1, ("A",)),
            Effect("end:4", 2, 1, ("A",)),
            Effect("start", 2, 2, ("A",)),
            Effect("end:4", 2, 2, ("A",)),
            Effect("start", 3, 1, ("A",)),
            Effect("end:0", 3, 1, ("A",)),
            Effect("start", 4, 1, ()),
            Effect("start", 5, 1, ()),
            Effect("start", 6, 1, ("A",)),
            Effect("start", 7, 1, ("A",)),
            Effect("end:0", 6, 1, ("A",)),
            Effect("end:0", 7, 1, ("A",)),
        ],
        shims={(5, 1): (77, 123)},
        killed={(77, 123)},
    )


def test_a_true_story_passes() -> None:
    assert checker.check(truth()) == []


def _job(e: Evidence, number: int, **changed: object) -> None:
    e.jobs[number] = e.jobs[number]._replace(**changed)


def _attempt(e: Evidence, job: int, number: int, **changed: object) -> None:
    e.attempts[job, number] = e.attempts[job, number]._replace(**changed)


def _moved(e: Evidence, state: str, to: str) -> None:
    assert e.counts is not None
    e.counts[state] -= 1
    e.counts[to] = e.counts.get(to, 0) + 1


LIES: dict[str, tuple[str, Callable[[Evidence], object]]] = {
    "forgotten": ("kept", lambda e: e.acknowledged.update({9: "ok-9"})),
    "another's": ("kept", lambda e: _job(e, 1, name="ok-2")),
    "never ends": ("final", lambda e: (_job(e, 1, state="queued"), _moved(e, "succeeded", "queued"))),
    "open attempt": ("final", lambda e: _attempt(e, 4, 1, outcome=None)),
    "a missing attempt": ("final", lambda e: e.attempts.pop((1, 1))),
    "not its attempt": ("final", lambda e: _attempt(e, 5, 1, outcome="revoked")),
    "twice": ("once", lambda e: e.effects.append(Effect("start", 1, 2, ("A",)))),
    "revoked and run": ("once", lambda e: e.effects.append(Effect("start", 1, 1, ("A",)))),
    "unknown": ("once", lambda e: e.effects.append(Effect("start", 9, 1, ("A",)))),
    "again after its end": ("again", lambda e: _job(e, 2, retries=0)),
    "again after a loss": ("again", lambda e: _attempt(e, 2, 1, outcome="lost")),
    "at once": ("again", lambda e: _attempt(e, 2, 2, placed_at=12.5)),
    "too often": ("runs", lambda e: _job(e, 2, retries=0)),
    "two alone": ("cards", lambda e: e.holds.append(Hold(5, 1, "A", GIB, True)) or _attempt(e, 5, 1, placed_at=15.5)),
    "one alone": ("cards", lambda e: e.holds.__setitem__(5, Hold(6, 1, "A", 3 * GIB, True))),
    "too much": ("cards", lambda e: e.capacity.update(A=5 * GIB)),
    "met": ("alone", lambda e: e.effects.append(Effect("conflict", 6, 1, ("A",)))),
    "another card": ("alone", lambda e: e.effects.__setitem__(0, Effect("start", 1, 2, ("B",)))),
    "lost for nothing": ("codes", lambda e: e.killed.clear()),
    "another code": ("codes", lambda e: _attempt(e, 2, 2, exit_code=5)),
    "another end": ("codes", lambda e: _job(e, 1, state="failed", exit_code=1)),
    "never said": ("codes", lambda e: e.effects.pop(1)),
    "nobody asked": ("codes", lambda e: (_job(e, 6, state="cancelled"), _moved(e, "succeeded", "cancelled"))),
    "cancel forgotten": ("promised", lambda e: _job(e, 4, state="failed")),
    "refused": ("promised", lambda e: e.refused_wrongly.append("0: refused")),
    "too early": ("dependents", lambda e: e.effects.insert(0, e.effects.pop(6))),
    "in spite": ("dependents", lambda e: _job(e, 1, state="failed")),
    "unanswered": ("answered", lambda e: e.jobs.update({8: Job(8, f"{ENGINE[0]}-8", "succeeded", None, 0, 1)})),
    "answered twice": (
        "answered",
        lambda e: (
            e.jobs.update({8: Job(8, f"{ENGINE[0]}-8", "cancelled", None, None, 1)}),
            e.answers.update({f"{ENGINE[0]}-8": Counter({"a": 2})}),
        ),
    ),
    "a copy for ever": ("copies", lambda e: e.copies.append(Copy(1, "red", "loading", None))),
    "a copy met another": ("copies", lambda e: e.conflicts.append("1 2")),
    "counts": ("whole", lambda e: _moved(e, "failed", "lost")),
    "integrity": ("whole", lambda e: setattr(e, "integrity", "row 1 missing from index")),
    "left": ("gone", lambda e: e.left.append("process 9")),
    "traceback": ("quiet", lambda e: setattr(e, "log", "Traceback (most recent call last)")),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found(lie: str) -> None:
    by, tell = LIES[lie]
    evidence = copy.deepcopy(truth())
    tell(evidence)
    found = checker.check(evidence)
    assert by in {each.check for each in found}, found


def test_every_check_has_its_lie() -> None:
    assert {by for by, _ in LIES.values()} == {each.__name__ for each in checker.CHECKS}


def test_the_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.note(what="submitted", jobs={"1": "ok-1"})
    ledger.note(what="killed", pid=3, start=4)
    ledger.close()
    assert read_ledger(tmp_path / "ledger") == [
        {"what": "submitted", "jobs": {"1": "ok-1"}},
        {"what": "killed", "pid": 3, "start": 4},
    ]


def test_effects_are_read_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "effects"
    path.write_text("start 1 2 A,B\nend:0 1 2 A,B\nstart 3 1 \n")
    assert evidence_of.read_effects(path) == [
        Effect("start", 1, 2, ("A", "B")),
        Effect("end:0", 1, 2, ("A", "B")),
        Effect("start", 3, 1, ()),
    ]
    assert evidence_of.read_effects(tmp_path / "none") == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_document_of_its_name(kind: str, tmp_path: Path) -> None:
    made = document(kind, f"{kind}-1", tmp_path)
    assert kind_of(made["name"]) == kind
    assert made["engine" if kind in ENGINE else "command"] and os.path.isabs(made["cwd"])
    assert (kind in ORDINARY) == (kind not in ("gate", "fill", "all", *ENGINE))
