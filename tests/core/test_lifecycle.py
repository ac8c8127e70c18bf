"""The transition table: whole, and sound as a machine. (docs/architecture.md shows it: tests/packaging.)"""

from __future__ import annotations

import pytest

from p104d.core.job import ACTIVE, ENDED, WAITING, JobState
from p104d.core.lifecycle import TRANSITIONS, Move, diagram, sources, target


def test_every_move_and_state_is_in_the_table() -> None:
    assert list(TRANSITIONS) == list(Move)
    assert set(JobState) == WAITING | ACTIVE | ENDED
    assert len(WAITING) + len(ACTIVE) + len(ENDED) == len(JobState)


def test_moves_that_end_lead_to_ended_states_and_the_others_do_not() -> None:
    assert {move for move in Move if target(move) in ENDED} == {Move.SUCCEED, Move.FAIL, Move.CANCEL, Move.LOSE}


def test_only_a_person_takes_a_job_out_of_an_ended_state() -> None:
    assert {move for move in Move if sources(move) & ENDED} == {Move.RETRY}
    assert sources(Move.RETRY) == ENDED


def test_no_move_leads_where_it_starts() -> None:
    assert not [move for move in Move if target(move) in sources(move)]


def test_nothing_runs_without_having_been_placed() -> None:
    """``starting`` is entered by ``place`` alone, and every other active state from an active one."""
    assert [move for move in Move if target(move) is JobState.STARTING] == [Move.PLACE]
    assert sources(Move.PLACE) == {JobState.QUEUED}
    for move in (Move.RUN, Move.STOP):
        assert sources(move) <= ACTIVE


def reachable(start: JobState) -> set[JobState]:
    found, todo = {start}, [start]
    while todo:
        here = todo.pop()
        ahead = {target(move) for move in Move if here in sources(move)} - found
        found |= ahead
        todo += ahead
    return found


@pytest.mark.parametrize("state", JobState)
def test_every_state_can_be_reached_and_left_for_every_end(state: JobState) -> None:
    assert state in reachable(JobState.QUEUED)
    assert reachable(state) >= ENDED


def test_the_diagram_draws_each_transition_once() -> None:
    head, first, *arrows = diagram().splitlines()
    assert (head, first) == ("stateDiagram-v2", "    [*] --> queued: submit")
    expected = {f"    {start} --> {to}: {move}" for move, (froms, to) in TRANSITIONS.items() for start in froms}
    assert len(arrows) == len(expected) and set(arrows) == expected
