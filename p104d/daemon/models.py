"""Which model family a job belongs to: from its model's header, the rig's cards and what earlier loads have taught.

A look at a file is a child's work and takes a while, so nothing here waits: what is not known yet is looked at, and
the loop is woken when it is. What was found is used again until the next submission or load, which begin with another
look; and what was loaded must be the file that was looked at.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import ModelNeed, Requirement
from p104d.core.snapshot import CardView, ModelFamily
from p104d.daemon.accounts import Account, account, own_account
from p104d.daemon.model_prober import Probed, ProbedModel, Prober
from p104d.engines.gguf import Part
from p104d.engines.model_fit import Fit, Misfit, Room, ask_of, fit
from p104d.engines.model_memory import NO_RUNS, Ask, Costs, Run, corrected
from p104d.policy.fit import matches
from p104d.store import model_facts
from p104d.store.instances import Instance

#: A load from a disk that is slower than the link, llama.cpp's own beginning, and the first token.
_LOAD_BASE_SECONDS = 1.5
#: Where no card's link was ever measured: PCIe 1.0 x4.
_LINK_BYTES_PER_SECOND = 0.7e9
#: A model that could not be looked at is looked at again after this; somebody may have mended it.
_AGAIN_SECONDS = 10.0
#: So many loads of a family may fail one after the other before its other jobs are not let try for that long.
_MOST_FAILURES = 2
#: A load takes longer. What was seen longer ago than this is looked at again before one.
FRESH_SECONDS = 5.0
#: Of one user's models: more are forgotten, and looked at again when their jobs come up, so many a minute at most.
_MOST_KNOWN = 512
MOST_A_MINUTE = 120
_MINUTE = 60.0


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the jobs of one requirement run on it. ``owner`` None: by the shared user of models or, in a user's
    own daemon, by that user; else by this account."""

    family: ModelFamily
    need: ModelNeed
    model: ProbedModel
    ask: Ask
    costs: Costs
    owner: Account | None
    vram_bytes: int | None = None


class Bad(msgspec.Struct, frozen=True):
    """Why jobs of a requirement cannot run: one line. ``never``: the rig is too small for it; else the model's file is
    at fault."""

    text: str
    never: bool = False

    @property
    def public(self) -> str:
        """As everybody may know it: of a file that is at fault neither its path nor what is wrong with it."""
        return f"can never run here: {self.text}" if self.never else "its model cannot be used"


class _Look(msgspec.Struct):
    """What a look found, when (CLOCK_MONOTONIC), and whether the shared user can read the model."""

    probed: Probed
    at: float
    shared: bool


class Models:
    """All models that jobs ask for. ``wake`` is called when something has become known. ``user`` runs the servers that
    are shared; ``units_in`` is the Prober's."""

    def __init__(
        self,
        *,
        system: bool,
        user: str,
        units_in: str | None,
        monotonic: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self._system, self._user, self._monotonic, self._wake = system, user, monotonic, wake
        self._prober = Prober(units_in=units_in)
        self._looks: dict[tuple[str, int], _Look] = {}
        self._tasks: dict[tuple[str, int], asyncio.Task[_Look]] = {}
        self._fits: dict[tuple[object, ...], Fit | Misfit] = {}
        self._begun: dict[int, deque[float]] = {}
        self._later: asyncio.TimerHandle | None = None
        #: Of families whose last loads have failed, how many in a row; and of those that are not tried for a while, why
        #: and until when.
        self._failures: dict[str, int] = {}
        self._given_up: dict[str, tuple[str, float]] = {}

    async def close(self) -> None:
        """End the looks that are under way."""
        if self._later is not None:
            self._later.cancel()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._prober.close()

    # --- looking ---------------------------------------------------------------------------------------------------

    async def look(self, path: str, uid: int, source: str | None = None) -> Probed:
        """Look at a model now, whatever was known of it, and at the input ``source``."""
        key = (path, uid)
        if source is None and key in self._tasks:
            return (await asyncio.shield(self._tasks[key])).probed
        found = await self._look(path, uid, source)
        self._keep(key, found)
        return found.probed

    def failed(self, family: str, text: str) -> None:
        """A copy could not be loaded. After the second in a row the other jobs of the family, which would fail in the
        same way, are told the same for a while, instead of each unloading others' models for a load of its own."""
        self._failures[family] = self._failures.get(family, 0) + 1
        if self._failures[family] >= _MOST_FAILURES:
            self._given_up[family] = (text, self._monotonic() + _AGAIN_SECONDS)

    def loaded(self, family: str) -> None:
        """A copy was loaded."""
        self._failures.pop(family, None)
        self._given_up.pop(family, None)

    def forget(self, path: str) -> None:
        """The next time the model is asked for, its file is looked at again."""
        for key in [key for key in self._looks if key[0] == path]:
            del self._looks[key]

    def _keep(self, key: tuple[str, int], found: _Look) -> None:
        self._looks.pop(key, None)
        own = [each for each in self._looks if each[1] == key[1]]
        for oldest in own[: max(0, len(own) + 1 - _MOST_KNOWN)]:
            del self._looks[oldest]
        self._looks[key] = found
        self._wake()

    async def _look(self, path: str, uid: int, source: str | None) -> _Look:
        who = account(uid) or own_account()
        probed = await self._prober.probe(path, source, uid=who.uid, gid=who.gid, user=who.name)
        return _Look(probed, self._monotonic(), await self._can_share(probed))

    async def _can_share(self, probed: Probed) -> bool:
        """Whether everybody's jobs may use one copy: the models' own user can read it."""
        shared = self.shared_account()
        if shared is None or probed.model is None:
            return False
        return probed.world_readable or await self._prober.readable(probed.model.parts, shared) is True

    def shared_account(self) -> Account | None:
        """Who runs servers that are shared; None in a user's own daemon, and where there is no such user. Never root: a
        model is anybody's data."""
        if not self._system or not self._user:
            return None
        import pwd

        try:
            found = account(pwd.getpwnam(self._user).pw_uid)
        except KeyError:
            return None
        return found if found is not None and found.uid != 0 else None

    def fresh(self, need: ModelNeed) -> bool:
        """Whether a model was looked at just now; otherwise it is looked at again, and ``wake`` follows."""
        key = (need.path, need.uid)
        look = self._looks.get(key)
        if look is not None and self._monotonic() - look.at <= FRESH_SECONDS:
            return True
        self._begin_look(key)
        return False

    async def changed(self, copy: Instance) -> bool:
        """Whether the files of a copy are others than those that its family was made of. False, too, where that cannot
        be told."""
        who = (account(copy.uid) if copy.uid is not None else None) or own_account()
        parts = [Part(*part) for part in copy.loaded.parts]
        return bool(parts) and await self._prober.readable(parts, who) is False

    def _begin_look(self, key: tuple[str, int]) -> None:
        if key not in self._tasks and self._may_look(key[1]):
            task = self._tasks[key] = asyncio.get_running_loop().create_task(self._look(*key, None))
            task.add_done_callback(lambda done: self._looked(key, done))

    def _may_look(self, uid: int) -> bool:
        """Whether it is this user's turn; otherwise ``wake`` follows. A queue of thousands of models is one user's own
        trouble, and keeps no processor busy with looking."""
        now = self._monotonic()
        begun = self._begun.setdefault(uid, deque(maxlen=MOST_A_MINUTE))
        if len(begun) < MOST_A_MINUTE or now - begun[0] >= _MINUTE:
            begun.append(now)
            return True
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(_MINUTE - (now - begun[0]), self._wake_later)
        return False

    def _wake_later(self) -> None:
        self._later = None
        self._wake()

    def _looked(self, key: tuple[str, int], done: asyncio.Task[_Look]) -> None:
        self._tasks.pop(key, None)
        if not done.cancelled() and done.exception() is None:
            self._keep(key, done.result())

    # --- knowing ---------------------------------------------------------------------------------------------------

    def resolve(self, conn: Connection, requirement: Requirement, cards: Sequence[CardView]) -> Known | Bad | None:
        """What jobs of ``requirement`` run on; None: it is being looked at, and ``wake`` follows."""
        need = requirement.model
        assert need is not None
        key = (need.path, need.uid)
        look = self._looks.get(key)
        stale = look is not None and look.probed.model is None and self._monotonic() - look.at > _AGAIN_SECONDS
        if look is None or stale:
            self._begin_look(key)
            return None
        if look.probed.model is None:
            mend = f"; {look.probed.mend}" if look.probed.mend else ""
            return Bad(f"{look.probed.error}{mend}")
        return self._known(conn, requirement, need, look.probed.model, look.shared, cards)

    def _known(
        self,
        conn: Connection,
        requirement: Requirement,
        need: ModelNeed,
        model: ProbedModel,
        shared: bool,
        cards: Sequence[CardView],
    ) -> Known | Bad:
        ask = ask_of(need, model.context)
        costs = corrected(NO_RUNS, [Run(*each) for each in model_facts.peaks(conn, need.path)])
        rooms = tuple(Room(card.uuid, card.capacity_bytes) for card in cards if matches(card, requirement.only))
        found = self._fit(model, ask, rooms, costs, need.cards, requirement.vram_bytes)
        if isinstance(found, Misfit):
            return Bad(found.text, never=True)
        # A copy of one's own is nobody else's.
        owner = account(need.uid) if self._system and not shared else None
        whose = str(need.uid) if self._system and not shared else "shared"
        key = _key(need, requirement, model, whose)
        why, until = self._given_up.get(key, ("", 0.0))
        if self._monotonic() < until:
            return Bad(why)
        family = ModelFamily(
            key=key,
            label=model.label,
            cards=found.cards,
            fits=found.uuids,
            load_seconds=self._load_seconds(conn, model, cards),
            ram_bytes=requirement.ram_bytes,
        )
        return Known(
            family=family,
            need=need,
            model=model,
            ask=ask,
            costs=costs,
            owner=owner,
            vram_bytes=requirement.vram_bytes,
        )

    def _fit(
        self,
        model: ProbedModel,
        ask: Ask,
        rooms: tuple[Room, ...],
        costs: Costs,
        wanted: int | None,
        vram: int | None,
    ) -> Fit | Misfit:
        key = (tuple(model.parts), ask, rooms, costs, wanted, vram)
        found = self._fits.get(key)
        if found is None:
            while len(self._fits) >= _MOST_KNOWN:
                del self._fits[next(iter(self._fits))]
            found = self._fits[key] = fit(model.shape, ask, rooms, costs, cards_wanted=wanted, vram=vram)
        return found

    def _load_seconds(self, conn: Connection, model: ProbedModel, cards: Sequence[CardView]) -> float:
        learnt = model_facts.load_times(conn, model.path)
        if learnt:
            return learnt[0].seconds
        fastest = max((card.link_bytes_per_second for card in cards), default=0.0) or _LINK_BYTES_PER_SECOND
        return _LOAD_BASE_SECONDS + model.size / fastest


def _key(need: ModelNeed, requirement: Requirement, model: ProbedModel, whose: str) -> str:
    """Equal for jobs that can share a copy: the same file as it is now, loaded in the same way on the same cards."""
    parts = [(os.path.basename(part.path), *part[1:]) for part in model.parts]
    way = (need.path, need.context, need.parallel, need.kv_cache, need.embeddings, need.cards, whose)
    asked = (requirement.only, requirement.vram_bytes, requirement.ram_bytes)
    return blake2b(msgspec.json.encode((parts, way, asked)), digest_size=12).hexdigest()
