"""What becomes of a job when an attempt has ended; how long it waits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p104d.core.job import JobState, Outcome
from p104d.core.lifecycle import Move, sources, target
from p104d.policy.retry import MOST_LOSSES, After, Ending, How, Stop, after_end, backoff_seconds


def end(how: How = How.EXITED, *, retries=0, failures=0, idempotent=False, losses=0, **given) -> After:
    return after_end(
        Ending(how=how, **given), job_id=7, retries=retries, failures=failures, idempotent=idempotent, losses=losses
    )


def told(after: After) -> tuple[Move, Outcome, bool, str]:
    return after.move, after.outcome, after.uses_retry, after.reason


@pytest.mark.parametrize(
    ("ending", "move", "outcome", "reason"),
    [
        ({"exit_code": 3}, Move.FAIL, Outcome.FAILED, "exit code 3"),
        ({"signal": 9}, Move.FAIL, Outcome.FAILED, "signal 9 (SIGKILL)"),
        ({"signal": 63}, Move.FAIL, Outcome.FAILED, "signal 63"),
        ({"exit_code": 127, "note": "command not found: foo"}, Move.FAIL, Outcome.FAILED,
         "command not found: foo (exit code 127)"),
        ({}, Move.FAIL, Outcome.FAILED, "exit code unknown"),
        ({"signal": 15, "stop": Stop.TIME_LIMIT}, Move.FAIL, Outcome.FAILED, "time limit"),
        ({"exit_code": 0, "stop": Stop.TIME_LIMIT}, Move.FAIL, Outcome.FAILED, "time limit"),
        ({"signal": 9, "stop": Stop.CARD_LOST}, Move.FAIL, Outcome.FAILED, "card lost"),
        ({"how": How.SHIM_DIED, "stop": Stop.CARD_LOST}, Move.FAIL, Outcome.FAILED, "card lost"),
        ({"signal": 9, "stop": Stop.OVER_VRAM}, Move.FAIL, Outcome.FAILED, "over VRAM"),
        ({"exit_code": 0, "stop": Stop.NEVER_ON_CARD}, Move.FAIL, Outcome.FAILED, "never used its card"),
        ({"how": How.NOT_STARTED, "note": "no space"}, Move.FAIL, Outcome.FAILED, "could not be started: no space"),
    ],
)  # fmt: skip
def test_failures_use_up_retries_then_fail(ending, move, outcome, reason) -> None:
    assert told(end(**ending)) == (move, outcome, True, reason)
    again = end(**ending, retries=2, failures=1)
    assert told(again) == (Move.REQUEUE, outcome, True, reason)
    assert again.wait_seconds == backoff_seconds(7, 2)
    assert told(end(**ending, retries=2, failures=2)) == (move, outcome, True, reason)


def test_success() -> None:
    assert told(end(exit_code=0, retries=2)) == (Move.SUCCEED, Outcome.SUCCEEDED, False, "exit code 0")


@pytest.mark.parametrize("how", [How.EXITED, How.NOT_STARTED, How.SHIM_DIED, How.HOST_DIED])
@pytest.mark.parametrize("code", [0, 3, None])
def test_a_job_whose_card_grew_too_hot_is_queued_again_for_nothing(how, code) -> None:
    after = end(how, exit_code=code, stop=Stop.TOO_HOT)
    assert told(after) == (Move.REQUEUE, Outcome.FAILED, False, "card too hot")
    assert after.wait_seconds == 0
    assert end(how, exit_code=code, stop=Stop.TOO_HOT, retries=2, failures=2) == after
    assert end(How.REVOKED, stop=Stop.TOO_HOT).move is Move.REQUEUE


@pytest.mark.parametrize("how", list(How))
@pytest.mark.parametrize("code", [0, 3])
def test_cancel_wins_over_everything(how, code) -> None:
    after = end(how, exit_code=code, stop=Stop.CANCEL, retries=5, idempotent=True)
    assert told(after) == (Move.CANCEL, Outcome.CANCELLED, False, "cancelled")


@pytest.mark.parametrize(("how", "reason"), [(How.SHIM_DIED, "its shim died"), (How.HOST_DIED, "its host died")])
def test_lost_runs_again_only_if_idempotent(how, reason) -> None:
    lost = end(how, retries=5)
    assert told(lost) == (Move.LOSE, Outcome.LOST, False, f"{reason}; not idempotent, so not run again")
    again = end(how, idempotent=True)
    assert told(again) == (Move.REQUEUE, Outcome.LOST, False, reason)
    assert again.wait_seconds > 0
    over = end(how, idempotent=True, losses=MOST_LOSSES)
    assert over.move is Move.LOSE


def test_a_revoked_claim_costs_nothing() -> None:
    after = end(How.REVOKED)
    assert told(after) == (Move.REVOKE, Outcome.REVOKED, False, "taken back before it ran")
    assert after.wait_seconds == 0
    assert end(How.REVOKED, stop=Stop.CARD_LOST).move is Move.REQUEUE


@given(
    st.builds(
        Ending,
        how=st.sampled_from(How),
        exit_code=st.sampled_from([None, 0, 1]),
        signal=st.sampled_from([None, 9]),
        stop=st.sampled_from([None, *Stop]),
    ),
    st.integers(0, 3),
    st.integers(0, 4),
    st.booleans(),
)
def test_every_end_has_a_move_the_table_of_transitions_knows(ending, retries, failures, idempotent) -> None:
    after = after_end(ending, job_id=1, retries=retries, failures=failures, idempotent=idempotent)
    state = JobState.STARTING if after.move is Move.REVOKE else JobState.RUNNING
    assert state in sources(after.move)
    queued = target(after.move) is JobState.QUEUED
    assert queued or after.wait_seconds == 0
    assert after.reason
    if queued and after.uses_retry:
        assert failures < retries
    if after.move is Move.SUCCEED:
        assert ending.exit_code == 0 and ending.stop is None


def test_backoff_doubles_to_ten_minutes_and_never_beyond() -> None:
    for failures in range(1, 40):
        full = min(600.0, 2.0 ** (failures - 1))
        waits = [backoff_seconds(number, failures) for number in range(200)]
        assert all(0.75 * full <= wait <= full for wait in waits)
        assert max(waits) - min(waits) > 0.2 * full, "jobs that failed together spread"
    assert backoff_seconds(1, 0) == 0.0
    assert backoff_seconds(1, 10**9) <= 600.0


def test_backoff_is_the_same_in_every_process() -> None:
    assert [round(backoff_seconds(12, failures), 4) for failures in (1, 2, 3)] == KNOWN
    assert len({backoff_seconds(job, count) for job, count in itertools.product(range(9), (3, 4))}) == 18


#: Written down once: a wait that changed between two starts of the daemon would be a wait nobody can rely on.
KNOWN = [0.7627, 1.931, 3.5869]
