"""What becomes of a job when an attempt has ended, and how long it waits before the next.

=====================  ====================  =========================================  ============
the attempt            a stop was asked for  the job                                    uses a retry
=====================  ====================  =========================================  ============
ended in any way       by cancel             cancelled                                  no
revoked before it ran  no, or other          queued again at once                       no
ended in any way       by time limit         failed, or queued again while retries last  yes
ended in any way       card lost             failed, or queued again while retries last  yes
ended in any way       over VRAM             failed, or queued again while retries last  yes
ended in any way       never on its card     failed, or queued again while retries last  yes
ended in any way       card too hot          queued again at once                       no
ended in any way       server ended, silent  queued again, ``MOST_SERVERS`` times       no; then as any failure
exit code 0            no                    succeeded                                  no
exit code, signal      no                    failed, or queued again while retries last  yes
could not be started   no                    failed, or queued again while retries last  yes
shim or host died      no                    lost; idempotent: queued again             no
=====================  ====================  =========================================  ============

A stop that was asked for decides, whatever the job made of its SIGTERM: exit code 0 after a cancel is still a cancel.

A job whose card grew too hot has done nothing wrong. It did run and has no result, so its attempt's outcome is
``failed`` (``revoked`` is for those that never ran), but no retry is used up, and it waits for a cool card alone.

An idempotent job is queued again after a loss even without retries, but not for ever: one that takes its host down
each time must end some day (``MOST_LOSSES``).
"""

from __future__ import annotations

import signal
from enum import StrEnum
from hashlib import blake2b

import msgspec

from p104d.core.job import Outcome
from p104d.core.lifecycle import Move

#: The wait before the first retry, doubled for each further one.
FIRST_BACKOFF_SECONDS = 1.0
MOST_BACKOFF_SECONDS = 600.0
#: An emergency backstop against a job that kills its host whenever it runs; waits between reach ten minutes by then.
MOST_LOSSES = 20
#: So many servers may die or fall silent under a job before that counts as the job's own failure.
MOST_SERVERS = 3


class How(StrEnum):
    """How an attempt came to its end, as its folder tells."""

    EXITED = "exited"
    NOT_STARTED = "not started"
    REVOKED = "revoked"
    SHIM_DIED = "shim died"
    HOST_DIED = "host died"


class Stop(StrEnum):
    """Why the daemon (or the shim, for the time limit) ended an attempt; the text is the job's ``reason``."""

    CANCEL = "cancelled"
    TIME_LIMIT = "time limit"
    CARD_LOST = "card lost"
    OVER_VRAM = "over VRAM"
    NEVER_ON_CARD = "never used its card"
    TOO_HOT = "card too hot"
    SERVER_ENDED = "its model server ended"
    SERVER_SILENT = "its model server stopped answering"


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt's end. Of ``exit_code`` and ``signal`` at most one is set, and only for ``How.EXITED``.

    ``stop`` is the intent that was committed before the end; ``note`` what the shim says of it beyond a number
    (``command not found: foo``) or why it could not be started.
    """

    how: How
    exit_code: int | None = None
    signal: int | None = None
    stop: Stop | None = None
    note: str | None = None


class After(msgspec.Struct, frozen=True, kw_only=True):
    """What to commit: the job's move, the attempt's outcome, whether a failure is counted, the wait before the next
    attempt (0 unless the move leads back into the queue), and the reason people read."""

    move: Move
    outcome: Outcome
    uses_retry: bool
    wait_seconds: float
    reason: str


def backoff_seconds(job_id: int, failures: int) -> float:
    """Seconds to wait after the ``failures``-th failure: 1, 2, 4, ... 600, less up to a quarter of it.

    The quarter is taken from a hash of job and count: jobs that failed together spread, and the same failure always
    waits as long, so that a daemon that starts again comes to the same time.
    """
    if failures < 1:
        return 0.0
    # 2**10 s is past the cap; a larger exponent would only overflow.
    full = min(MOST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 10))
    digest = blake2b(f"{job_id}:{failures}".encode(), digest_size=4).digest()
    return full * (1.0 - int.from_bytes(digest) / 2**32 / 4)


def after_end(
    ending: Ending, *, job_id: int, retries: int, failures: int, idempotent: bool, losses: int = 0, servers: int = 0
) -> After:
    """What becomes of a job whose attempt ended so. ``failures``, ``losses`` and ``servers`` (that died or fell silent
    under it) count earlier attempts, not this one.

    The table is this module's docstring.
    """
    if ending.stop is Stop.CANCEL:
        return _end(Move.CANCEL, Outcome.CANCELLED, Stop.CANCEL)
    if ending.how is How.REVOKED:
        # From ``stopping`` there is no revoke: a stop that came too late for an attempt that never ran is void.
        move = Move.REVOKE if ending.stop is None else Move.REQUEUE
        text = "taken back before it ran"
        return _end(move, Outcome.REVOKED, f"{text}: {ending.note}" if ending.note else text)
    if ending.stop is None and ending.how in (How.SHIM_DIED, How.HOST_DIED):
        return _lost(ending, job_id, idempotent, losses)
    reason = _reason(ending)
    if ending.stop is Stop.TOO_HOT:
        return _end(Move.REQUEUE, Outcome.FAILED, reason)
    if ending.stop in (Stop.SERVER_ENDED, Stop.SERVER_SILENT) and servers < MOST_SERVERS:
        return _end(Move.REQUEUE, Outcome.FAILED, reason, wait=backoff_seconds(job_id, servers + 1))
    if ending.stop is None and ending.exit_code == 0:
        return _end(Move.SUCCEED, Outcome.SUCCEEDED, reason)
    if failures >= retries:
        return _end(Move.FAIL, Outcome.FAILED, reason, uses_retry=True)
    wait = backoff_seconds(job_id, failures + 1)
    return _end(Move.REQUEUE, Outcome.FAILED, reason, uses_retry=True, wait=wait)


def _end(move: Move, outcome: Outcome, reason: str, *, uses_retry: bool = False, wait: float = 0.0) -> After:
    return After(move=move, outcome=outcome, uses_retry=uses_retry, wait_seconds=wait, reason=str(reason))


def _lost(ending: Ending, job_id: int, idempotent: bool, losses: int) -> After:
    reason = "its shim died" if ending.how is How.SHIM_DIED else "its host died"
    if not idempotent:
        return _end(Move.LOSE, Outcome.LOST, f"{reason}; not idempotent, so not run again")
    if losses >= MOST_LOSSES:
        return _end(Move.LOSE, Outcome.LOST, f"{reason}, as in {losses} attempts before")
    return _end(Move.REQUEUE, Outcome.LOST, reason, wait=backoff_seconds(job_id, losses + 1))


def _reason(ending: Ending) -> str:
    if ending.stop is not None:
        return str(ending.stop)
    if ending.how is How.NOT_STARTED:
        return f"could not be started: {ending.note}" if ending.note else "could not be started"
    if ending.signal is not None:
        return f"signal {signal_text(ending.signal)}"
    # An attempt that exited without a code is a record nobody should write; it must not pass for a success.
    code = "exit code unknown" if ending.exit_code is None else f"exit code {ending.exit_code}"
    return f"{ending.note} ({code})" if ending.note else code


def signal_text(number: int) -> str:
    """``9 (SIGKILL)``; the bare number for one without a name here."""
    try:
        return f"{number} ({signal.Signals(number).name})"
    except ValueError:
        return str(number)
