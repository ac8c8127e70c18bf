"""Counting: histograms, and the words of a job's end in few classes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from p104d.core.job import JobState
from p104d.core.lifecycle import Move, target
from p104d.daemon.metrics_counts import REASONS, WAIT_BOUNDS, Buckets, Counts, reason_class
from p104d.policy.retry import Ending, How, Stop, after_end


def every_ending() -> Iterator[tuple[JobState, str]]:
    """Each way a job can end, with the words that the policy finds for it."""
    numbers: list[tuple[int | None, int | None]] = [(0, None), (3, None), (None, 9), (None, None)]
    for how in How:
        for stop in (None, *Stop):
            for code, signal in numbers if how is How.EXITED else [(None, None)]:
                for note in (None, "command not found: foo"):
                    ending = Ending(how=how, stop=stop, exit_code=code, signal=signal, note=note)
                    after = after_end(ending, job_id=1, retries=0, failures=0, idempotent=False)
                    if after.move in (Move.SUCCEED, Move.FAIL, Move.CANCEL, Move.LOSE):
                        yield target(after.move), after.reason


def test_every_reason_has_a_class_that_is_exported() -> None:
    found = {(state, reason_class(state, reason)) for state, reason in every_ending()}
    assert {(state, name) for state, names in REASONS.items() for name in names} - found == {
        (JobState.CANCELLED, "dependency"),
        (JobState.FAILED, "other"),
    }
    assert all(name in REASONS[state] for state, name in found)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        (JobState.FAILED, "exit code 3", "exit_code"),
        (JobState.FAILED, "command not found: foo (exit code 127)", "exit_code"),
        (JobState.FAILED, "exit code unknown", "exit_code"),
        (JobState.FAILED, "signal 11 (SIGSEGV)", "signal"),
        (JobState.FAILED, "could not be started: time limit", "not_started"),
        (JobState.FAILED, None, "other"),
        (JobState.FAILED, "something new", "other"),
        (JobState.CANCELLED, "job 4, which it needed, failed", "dependency"),
        (JobState.CANCELLED, "job 4 failed, which it needed", "dependency"),
        (JobState.LOST, "its host died, as in 20 attempts before", "host_died"),
    ],
)
def test_reason_classes(state: JobState, reason: str | None, expected: str) -> None:
    assert reason_class(state, reason) == expected


def test_buckets_hold_values_at_their_bound() -> None:
    buckets = Buckets(WAIT_BOUNDS)
    for value in (0.01, 0.010001, 1e9, -5.0):
        buckets.observe(value)
    found = dict(buckets.cumulative())
    assert (found["0.01"], found["0.1"], found["86400.0"], found["+Inf"]) == (2, 3, 3, 4)
    assert buckets.sum == pytest.approx(1e9 + 0.020001)


def test_a_kernel_log_gone_mad_does_not_fill_the_page() -> None:
    counts = Counts()
    for code in range(5000):
        counts.xid("GPU-0", code)
    assert len(counts.xids) == 2000
    counts.xid("GPU-0", 7)
    assert counts.xids["GPU-0", 7] == 2, "those that are known go on"
