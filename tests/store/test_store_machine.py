"""Random lives of a small rig (queue_machine.py tells what happens in them), and mutants that must not survive them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import queue_machine
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from queue_machine import Queue
from sqlalchemy.engine import Connection
from torture import amount

from p104d.core.job import Outcome
from p104d.core.lifecycle import Move
from p104d.core.units import GIB
from p104d.policy import retry
from p104d.policy.retry import After
from p104d.store import dependents, moves, schedules, sql


@pytest.mark.torture
def test_random_lives(template: Path) -> None:
    chosen = settings(
        max_examples=amount(50, 1000), stateful_step_count=amount(30, 50), deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    run_state_machine_as_test(type("TestedQueue", (Queue,), {"template": template}), settings=chosen)


_place, _end = moves.place, moves.end


def _place_anywhere(conn: Connection, start: Any, **rest: Any) -> int | None:
    """Whatever state the job is in, on one card alone."""
    sql.run(conn, "UPDATE jobs SET state = 'queued' WHERE id = ?", (start.job_id,))
    made = moves.Start(job_id=start.job_id, cards=("GPU-2",), reserved_bytes=(3 * GIB,), exclusive=False)
    return _place(conn, made, **rest)


def _end_the_last(conn: Connection, ended: moves.Ended) -> bool:
    """The job's last attempt, whichever was meant."""
    last = sql.value(conn, "SELECT attempts FROM jobs WHERE id = ?", (ended.job_id,))
    return _end(conn, msgspec.structs.replace(ended, number=last))


def _run_again(*_: Any, **__: Any) -> After:
    """Whatever was lost, idempotent or not."""
    return After(move=Move.REQUEUE, outcome=Outcome.LOST, uses_retry=False, wait_seconds=0.0, reason="lost")


async def _adopt_nothing(*_: Any) -> None:
    """A daemon that starts and looks into no folder."""


class Mutant(NamedTuple):
    """What is replaced, and which rules make lives in which it matters: the fewer, the sooner."""

    where: Any
    name: str
    by: Any
    rules: str


MUTANTS = {
    "unguarded-place": Mutant(moves, "place", _place_anywhere, "starts ends"),
    "dependents-forgotten": Mutant(dependents, "of", lambda *_a: [], "verb ends"),
    "any-attempt-ends": Mutant(moves, "end", _end_the_last, "starts ends"),
    "retry-blocks-nobody": Mutant(dependents, "block", lambda *_a: None, "ends retry verb"),
    "lost-runs-again": Mutant(retry, "_lost", _run_again, "ends time_passes place"),
    "schedule-never-skips": Mutant(schedules, "still_going", lambda *_a: False, "schedule time_passes place"),
    "recovery-forgets": Mutant(queue_machine, "recover", _adopt_nothing, "daemon_restarts"),
}
RULES = [name for name, value in inspect.getmembers(Queue) if hasattr(value, "hypothesis_stateful_rule")]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_random_lives_can_end_badly(template: Path, mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage = MUTANTS[mutant]
    monkeypatch.setattr(sabotage.where, sabotage.name, sabotage.by)
    assert set(sabotage.rules.split()) <= set(RULES)
    left_out = dict.fromkeys(set(RULES) - {"submit", *sabotage.rules.split()})
    # Only found, not shrunk; the same every time: whether a mutant dies must not be a matter of luck.
    chosen = settings(
        max_examples=400, stateful_step_count=30, deadline=None, derandomize=True, database=None,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with pytest.raises(AssertionError):
        run_state_machine_as_test(type("Sabotaged", (Queue,), {"template": template, **left_out}), settings=chosen)
