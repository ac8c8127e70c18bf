"""What a Supervisor tells of its attempts. For one attempt: Running, then Ended; or LaunchFailed and nothing else.

Running may be missing for a job that ended before anybody could be told.
"""

from __future__ import annotations

import msgspec

from p104d.processes.attempt import Key, Look


class Running(msgspec.Struct, frozen=True):
    """The job was executed: its pid and since when (Unix seconds)."""

    key: Key
    pid: int
    started_at: float


class Ended(msgspec.Struct, frozen=True):
    """The attempt is over. ``look`` is ``ended`` with its record, or ``dead``: then the Supervisor is to sweep it."""

    key: Key
    look: Look


class LaunchFailed(msgspec.Struct, frozen=True):
    """Nothing ran, and nothing will: the attempt is revoked."""

    key: Key
    text: str


Event = Running | Ended | LaunchFailed
