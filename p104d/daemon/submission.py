"""Taking submissions in: who may, what the text says, whether the rig could ever run it, then one transaction."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.api import messages as m
from p104d.api.service import Caller
from p104d.api.spec import Context, Document, ParsedDocument, parse_submission
from p104d.core.errors import NotAllowedError, RefusedError
from p104d.core.job import JobSpec
from p104d.core.snapshot import CardView
from p104d.daemon.accounts import account, limits_of
from p104d.daemon.cardnames import CardNames
from p104d.daemon.config import Settings
from p104d.daemon.engine_intake import EngineIntake
from p104d.daemon.loop import Loop
from p104d.daemon.work import Work
from p104d.policy.fit import impossible
from p104d.store import reads, schedules
from p104d.store.submit import NewDocument, Submitter, submit

#: Smaller submissions without a matrix are parsed on the loop: they take well under the few milliseconds that a
#: thread's start and the hand-over cost.
_INLINE_BYTES = 8 * 1024
#: What each file, option and variable takes besides its text, in bytes that would take as long.
_EACH_BYTES = 50
_INVENTORY_SECONDS = 10.0
#: A user's schedules: all of them are looked at whenever one is due.
MOST_SCHEDULES = 1_000


class Intake:
    """Reads and stores submissions."""

    def __init__(self, loop: Loop, settings: Settings, *, user_mode: bool) -> None:
        self._loop, self._settings, self._user_mode = loop, settings, user_mode
        self._engines = EngineIntake(loop)

    async def read(self, caller: Caller, request: m.SubmitRequest) -> tuple[list[ParsedDocument], list[str]]:
        """The checked documents, and warnings. Raises UsageError or RefusedError, naming file, line and field."""
        self._admit(caller)
        if not self._loop.rig.counted and any("only" in each.text for each in request.documents):
            # An index or a name means a card only once they have been looked at, which takes a moment after a start.
            await self._loop.rig.first_look(_INVENTORY_SECONDS)
        documents = [Document(each.file, each.text) for each in request.documents]
        cards = CardNames(self._loop.rig)
        context = Context(
            cwd=request.cwd,
            keep_env=request.keep_env,
            set=tuple(request.set),
            resolve_card=cards.resolve,
            now=time.time(),
        )
        if _is_quick(request):
            parsed = parse_submission(documents, context)
        else:
            parsed = await asyncio.to_thread(parse_submission, documents, context)
        for each in parsed:
            self._check(caller, each)
        return await self._engines.check(caller, parsed)

    def _admit(self, caller: Caller) -> None:
        if self._user_mode:
            return
        if caller.uid == 0 and not self._settings.allow_root_jobs:
            raise NotAllowedError(
                "jobs of root are refused", mend="submit as a user, or set allow_root_jobs = true in config.toml"
            )
        if account(caller.uid) is None:
            raise NotAllowedError(f"uid {caller.uid} has no account on this host")

    def _check(self, caller: Caller, parsed: ParsedDocument) -> None:
        spec = parsed.spec
        if spec.priority > 0 and not caller.admin:
            raise RefusedError(
                f"{parsed.place_of('priority')}: above 0 is for root and group p104-admin", mend="leave it at 0"
            )
        rig = self._loop.rig
        host = self._loop.placer.observer.host(())
        cards = rig.views(())
        if spec.cards and not rig.counted:
            # Which cards there are is not known yet; what the host has is.
            cards = _as_many_as_asked(spec, cards)
        requirement = spec.requirement(caller.uid)
        if spec.engine is not None:
            # Its cards are judged by its model's sum, not by what cards of their kind promise.
            requirement = msgspec.structs.replace(requirement, vram_bytes=spec.vram_bytes or 1)
        why = impossible(cards, host, requirement)
        if why is not None:
            keys = _fields(spec, why)
            mend = "p104ctl doctor shows what there is" if keys[0] == "ram" else "p104ctl cards shows what there is"
            raise RefusedError(f"{parsed.place_of(*keys)}: {why}", mend=mend)

    def limits(self, caller: Caller) -> dict[str, tuple[int, int]]:
        """The submitter's own resource limits, those of the process that connected; none where jobs have the daemon's
        anyway. Raises NotAllowedError for a process that is gone, or not the caller's any more: it would get rid of
        its limits that way."""
        if self._user_mode or not caller.pid:
            return {}
        found = limits_of(caller.pid, caller.uid)
        if found is None:
            raise NotAllowedError("the process that connected is gone, or another's now", mend="submit with p104ctl")
        return found

    def store(
        self,
        conn: Connection,
        caller: Caller,
        parsed: Sequence[ParsedDocument],
        umask: int,
        limits: dict[str, tuple[int, int]],
        now: float,
        work: Work,
        warnings: Sequence[str] = (),
    ) -> m.Submitted:
        """Insert everything; part of a step of the loop."""
        self._check_room(conn, caller, parsed)
        documents = [
            NewDocument(
                spec=each.spec,
                combinations=each.jobs,
                kept=each.kept,
                umask=umask & 0o777,
                where=each.place_of("after"),
                limits=limits,
            )
            for each in parsed
        ]
        made = submit(conn, documents, Submitter(caller.uid, caller.user), now)
        work.dirty = True
        return m.Submitted(
            jobs=[m.IdName(number, name) for number, name in made.jobs],
            schedules=[m.IdName(number, name) for number, name in made.schedules],
            warnings=list(warnings),
        )

    def _check_room(self, conn: Connection, caller: Caller, parsed: Sequence[ParsedDocument]) -> None:
        more = sum(len(each.jobs) for each in parsed)
        counts = reads.counts(conn)
        if counts["queued"] + counts["held"] + more > self._settings.queue_limit:
            raise RefusedError(
                f"the queue is full: it takes {self._settings.queue_limit} waiting jobs", mend="raise queue_limit"
            )
        limit = self._settings.queue_limit_per_user
        if self._user_mode:
            return
        if limit < self._settings.queue_limit and reads.waiting_of_user(conn, caller.uid) + more > limit:
            raise RefusedError(f"{caller.user} may have {limit} waiting jobs", mend="wait, or cancel some")
        planned = sum(each.spec.schedule is not None for each in parsed)
        if planned and schedules.schedules_of_user(conn, caller.uid) + planned > MOST_SCHEDULES:
            raise RefusedError(f"{caller.user} may have {MOST_SCHEDULES} schedules", mend="cancel some")


def _is_quick(request: m.SubmitRequest) -> bool:
    """Whether it is parsed in less time than a thread takes to start."""
    texts = [*(each.text for each in request.documents), *request.set]
    # A few lines may stand for a hundred thousand jobs; on an engine, their files are looked at one by one.
    if any("matrix" in text for text in texts):
        return False
    texts += [*request.keep_env, *request.keep_env.values()]
    return sum(len(text) + _EACH_BYTES for text in texts) <= _INLINE_BYTES


def _as_many_as_asked(spec: JobSpec, cards: tuple[CardView, ...]) -> tuple[CardView, ...]:
    big = spec.vram_bytes or 1
    filler = CardView(uuid="", index=0, name="", capacity_bytes=big, promised_bytes=big, closed="not counted yet")
    extra = tuple(
        msgspec.structs.replace(filler, uuid=name, name=name)
        for name in (spec.only or ("",))
        for _ in range(spec.cards)
    )
    return cards + extra


def _fields(spec: JobSpec, why: str) -> tuple[str, ...]:
    """The keys that an impossibility is about, the likeliest first."""
    if "host memory" in why:
        return ("ram",)
    if spec.only and "only" in why:
        return ("only", "cards")
    what = "command" if spec.engine is None else "engine"
    return ("vram", "cards", what) if spec.vram_bytes is not None and " on " in why else ("cards", what)
