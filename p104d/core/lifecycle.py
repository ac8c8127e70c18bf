"""The one transition table. Code that moves a job asks here; docs/architecture.md shows the same table."""

from __future__ import annotations

from enum import StrEnum

from p104d.core.job import JobState

_HELD, _QUEUED, _STARTING = JobState.HELD, JobState.QUEUED, JobState.STARTING
_RUNNING, _STOPPING = JobState.RUNNING, JobState.STOPPING
_SUCCEEDED, _FAILED = JobState.SUCCEEDED, JobState.FAILED
_CANCELLED, _LOST = JobState.CANCELLED, JobState.LOST


class Move(StrEnum):
    """What can happen to a job."""

    HOLD = "hold"
    RELEASE = "release"
    PLACE = "place"
    REVOKE = "revoke"
    RUN = "run"
    STOP = "stop"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    LOSE = "lose"
    REQUEUE = "requeue"
    RETRY = "retry"


#: move -> (states it may start from, state it leads to). ``requeue`` is the daemon's own (a retry that is left, an
#: idempotent job whose host died); ``retry`` is a person's, of an ended job.
TRANSITIONS: dict[Move, tuple[frozenset[JobState], JobState]] = {
    Move.HOLD: (frozenset({_QUEUED}), _HELD),
    Move.RELEASE: (frozenset({_HELD}), _QUEUED),
    Move.PLACE: (frozenset({_QUEUED}), _STARTING),
    Move.REVOKE: (frozenset({_STARTING}), _QUEUED),
    Move.RUN: (frozenset({_STARTING}), _RUNNING),
    Move.STOP: (frozenset({_STARTING, _RUNNING}), _STOPPING),
    Move.SUCCEED: (frozenset({_STARTING, _RUNNING, _STOPPING}), _SUCCEEDED),
    Move.FAIL: (frozenset({_STARTING, _RUNNING, _STOPPING}), _FAILED),
    Move.CANCEL: (frozenset({_HELD, _QUEUED, _STARTING, _RUNNING, _STOPPING}), _CANCELLED),
    Move.LOSE: (frozenset({_STARTING, _RUNNING, _STOPPING}), _LOST),
    Move.REQUEUE: (frozenset({_STARTING, _RUNNING, _STOPPING}), _QUEUED),
    Move.RETRY: (frozenset({_SUCCEEDED, _FAILED, _CANCELLED, _LOST}), _QUEUED),
}


def sources(move: Move) -> frozenset[JobState]:
    """The states from which ``move`` is possible."""
    return TRANSITIONS[move][0]


def target(move: Move) -> JobState:
    """The state that ``move`` leads to."""
    return TRANSITIONS[move][1]


def diagram() -> str:
    """The table as a Mermaid state diagram, kept equal to docs/architecture.md by a test."""
    lines = ["stateDiagram-v2", "    [*] --> queued: submit"]
    for move, (froms, to) in TRANSITIONS.items():
        lines += [f"    {state} --> {to}: {move}" for state in JobState if state in froms]
    return "\n".join(lines)
