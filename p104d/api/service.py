"""What the server asks of the daemon: one method a route. The daemon implements it; tests may too."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol

import msgspec

from p104d.api import messages as m
from p104d.core.job import JobState


class Caller(msgspec.Struct, frozen=True):
    """Who asks, as the kernel says (SO_PEERCRED), and what they may. ``admin``: root or group p104-admin."""

    uid: int
    user: str
    admin: bool


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What ``list`` was asked for; None and () mean any."""

    states: tuple[JobState, ...] = ()
    name: str | None = None
    user: str | None = None
    label: tuple[str, str] | None = None
    card: str | None = None
    since: float | None = None
    before: int | None = None
    limit: int = 50


class LogQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What part of which attempt's log; ``tail`` lines, or all that is kept."""

    job_id: int
    follow: bool = False
    tail: int | None = None
    attempt: int | None = None


class Service(Protocol):
    """Every method raises core.errors for what cannot be done; what it answers was committed before."""

    def status(self, caller: Caller) -> m.Status: ...
    def cards(self, caller: Caller) -> m.Cards: ...
    def drain(self, caller: Caller, cards: list[str], undo: bool) -> m.Cards: ...
    def pause(self, caller: Caller, paused: bool) -> m.Paused: ...
    async def submit(self, caller: Caller, request: m.SubmitRequest) -> m.Submitted: ...
    def listed(self, caller: Caller, query: ListQuery) -> m.ListedJobs: ...
    def show(self, caller: Caller, ids: list[int]) -> m.Jobs: ...
    def explain(self, caller: Caller, ids: list[int]) -> m.Explanations: ...
    async def wait(self, caller: Caller, ids: list[int], timeout: float | None) -> m.WaitedJobs: ...
    def verb(self, caller: Caller, verb: str, ids: list[int], priority: int | None) -> m.MovedJobs: ...
    def log(self, caller: Caller, query: LogQuery) -> AsyncGenerator[bytes, None]: ...
    def schedules(self, caller: Caller) -> m.Schedules: ...
    def schedule_verb(self, caller: Caller, verb: str, ids: list[int]) -> m.Schedules: ...
    async def export(self, caller: Caller) -> Path: ...
    async def doctor(self, caller: Caller) -> m.Checks: ...
