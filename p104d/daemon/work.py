"""What a step of the loop has decided inside its transaction and does after the commit."""

from __future__ import annotations

import msgspec

from p104d.core.job import JobState
from p104d.processes.attempt import Key, LaunchSpec


class Work(msgspec.Struct, kw_only=True):
    """Filled while the transaction is open; acted on only once it is durable."""

    launches: list[LaunchSpec] = []
    unstartable: list[tuple[Key, str]] = []
    stops: list[Key] = []
    kills: list[Key] = []
    ended: dict[int, JobState] = {}
    dirty: bool = False
    notify: bool = False
    running_changed: bool = False
