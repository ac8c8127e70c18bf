"""The rig during one round of residency decisions: what is idle, what is kept for whom, and which cards to take."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from math import inf

from p104d.policy.residency_estimate import rest
from p104d.policy.residency_view import Begin, Family, Held, Kept, Load, Resident, View

#: Unloading a copy costs its family a load later, perhaps: counted as this part of the load that is at hand, so that an
#: empty card behind a slow link is not always better than a fast one with a copy on it.
LATER = 0.5


class Unit:
    """Cards that can only be had together: one that is empty, or all of an idle copy."""

    __slots__ = ("cards", "key", "resident")

    def __init__(self, key: tuple[bool, float, float, int], cards: tuple[str, ...], resident: int | None) -> None:
        self.key = key
        self.cards = cards
        self.resident = resident


class Rig:
    """Cards and copies as decisions are taken. ``wanted`` answers whether the jobs that wait for an idle copy's family
    forbid to unload it."""

    def __init__(self, view: View, families: Mapping[str, Family], means: Mapping[str, float]) -> None:
        self.now = view.now
        self.families = families
        self.means = means
        self.slowness = {card.id: card.slowness for card in view.cards}
        self.place = {card.id: index for index, card in enumerate(view.cards)}
        self.closed = {card.id for card in view.cards if card.closed}
        self.held = {card.id: card.held for card in view.cards if card.held is not None}
        self.full = {card.id for card in view.cards if card.full}
        self.ram_free_bytes: float = inf if view.ram_free_bytes is None else view.ram_free_bytes
        #: Families for which there were cards, but not the host memory.
        self.short: set[str] = set()
        self.residents = {each.id: each for each in sorted(view.residents, key=lambda each: each.id)}
        self.on: dict[str, int | None] = dict.fromkeys(self.place)
        self.idle = {each.id for each in self.residents.values() if each.busy_since is None}
        #: When each usable copy is expected to be idle, in seconds from now, by family; loads of this round as well.
        self.copies: dict[str, dict[int, float]] = {}
        self.kept: dict[str, int] = {}
        self._loading: dict[int, str] = {}
        for each in self.residents.values():
            for card in each.cards:
                self.on[card] = each.id
            if self.closed.isdisjoint(each.cards):
                self._set(each.family, each.id, rest(each, self.means[each.family], self.now))

    def free_at(self, family: str) -> list[float]:
        """When the family's copies are expected to be idle, in seconds from now."""
        return list(self.copies.get(family, {}).values())

    def warm(self, family: str) -> Resident | None:
        """An idle copy that may be used: the one used last, so that what is idle long stays the one to unload."""
        known = (self.residents[number] for number in self.copies.get(family, ()) if number in self.idle)
        ready = [each for each in known if self.kept.keys().isdisjoint(each.cards)]
        return max(ready, key=lambda each: (each.last_used, -each.id), default=None)

    def begin(self, job: int, copy: Resident) -> Begin:
        """Let ``job`` run on the idle ``copy``."""
        self.idle.discard(copy.id)
        self._set(copy.family, copy.id, self.means[copy.family])
        return Begin(job, copy.id)

    def load(self, job: int, family: Family, units: Iterable[Unit]) -> Load:
        """Unload what is on ``units``, and load ``family`` for ``job`` on as many of their cards as it takes."""
        taken = list(units)
        evicts = [unit.resident for unit in taken if unit.resident is not None]
        for number in evicts:
            self.drop(number)
        self.ram_free_bytes -= family.ram_bytes
        cards = self._best(family, taken)
        number = -1 - len(self._loading)
        self._loading[number] = family.name
        for card in cards:
            self.on[card] = number
        busy = 0.0 if family.kept else self.means[family.name]
        self._set(family.name, number, self.load_seconds(family, cards) + busy)
        return Load(family.name, cards, tuple(evicts), job)

    def load_seconds(self, family: Family, cards: Iterable[str]) -> float:
        """What loading takes there: as long as on the slowest of the cards."""
        return family.load_seconds * max((self.slowness[card] for card in cards), default=1.0)

    def cards_of(self, family: Family, units: Iterable[Unit]) -> float:
        """What loading would take on ``units``."""
        return self.load_seconds(family, self._best(family, units))

    def choose(self, family: Family, spare: Mapping[str, bool]) -> list[Unit] | None:
        """The cards for one more copy: empty ones, then those of idle copies, the least recently used first, a faster
        link before a slow one; None: there are not enough now. ``spare`` tells of each family that jobs wait for
        whether an idle copy of it may be unloaded all the same."""
        units = sorted(self._units(family, spare), key=lambda unit: unit.key)
        chosen: list[Unit] = []
        for unit in units:
            if sum(len(each.cards) for each in chosen) >= family.cards:
                break
            if unit.cards:
                chosen.append(unit)
        for unit in list(chosen):
            if sum(len(each.cards) for each in chosen) - len(unit.cards) >= family.cards:
                chosen.remove(unit)
        if sum(len(each.cards) for each in chosen) < family.cards:
            return None
        return self._with_memory(family, chosen, units) if family.ram_bytes else chosen

    def _with_memory(self, family: Family, chosen: list[Unit], units: Iterable[Unit]) -> list[Unit] | None:
        """``chosen``, and other idle copies whose host memory is needed too; None: even all of them are not enough."""
        lacks = family.ram_bytes - self.ram_free_bytes - sum(self._ram_bytes(unit) for unit in chosen)
        more = list(chosen)
        for unit in units:
            if lacks <= 0:
                break
            if unit not in chosen and self._ram_bytes(unit):
                more.append(unit)
                lacks -= self._ram_bytes(unit)
        if lacks <= 0:
            return more
        self.short.add(family.name)
        return None

    def _ram_bytes(self, unit: Unit) -> int:
        return 0 if unit.resident is None else self.residents[unit.resident].ram_bytes

    def within_reach(self) -> set[str]:
        """The cards that are empty or have an idle copy on them: no others can be had now."""
        return {
            card
            for card, number in self.on.items()
            if card not in self.closed
            and card not in self.full
            and (number is None or (number in self.idle and not self.residents[number].pinned))
        }

    def take(self, card: str, held: Held) -> None:
        """Others have this card, on which there is no copy (any more)."""
        self.closed.add(card)
        self.held[card] = held

    def shut(self, cards: Iterable[str], served: Container[str]) -> None:
        """Keep ``cards`` for others: they take no copy any more, and copies on them serve nobody; but those of families
        in ``served`` that are at work still count, for jobs that go before those others wait for them."""
        shut = set(cards)
        self.full |= shut
        for card, number in self.on.items():
            if card in shut and number is not None:
                family = self.residents[number].family if number >= 0 else self._loading[number]
                if family not in served or number in self.idle:
                    self.copies.get(family, {}).pop(number, None)

    def keep(self, job: int, family: Family, spare: Mapping[str, bool], within: float | None = None) -> Kept | None:
        """Keep for ``job`` the cards that are expected to be free soonest; None: as many will never be. With ``within``
        only cards that will be free so soon and that nobody waits for."""
        found = sorted(
            (seconds, self.place[card], card)
            for card in self.place
            if takes(family, card)
            and (within is None or card not in self.held or self.held[card].sure)
            and (seconds := self._expected(card, spare)) < inf
            and (within is None or (seconds <= within and not self._wanted(card, spare)))
        )
        if len(found) < family.cards:
            return None
        chosen = found[: family.cards]
        if family.ram_bytes:
            chosen += self._whose_memory(family, [card for _, _, card in chosen], spare)
        # An idle copy that must serve older jobs first does so; it is kept once they are gone.
        self.kept.update({card: job for _, _, card in chosen if not self._serves_first(self.on[card], spare)})
        cards = tuple(card for _, place, card in sorted(chosen, key=lambda each: each[1]))
        return Kept(job, cards, self.now + max(seconds for seconds, _, _ in chosen))

    def _whose_memory(
        self, family: Family, cards: list[str], spare: Mapping[str, bool]
    ) -> list[tuple[float, int, str]]:
        """Other cards with copies whose host memory is needed too, the soonest idle first."""
        leave = {self.on[card] for card in cards}
        lacks = family.ram_bytes - self.ram_free_bytes
        lacks -= sum(each.ram_bytes for each in self.residents.values() if each.id in leave)
        more: list[tuple[float, int, str]] = []
        for copy in sorted(self.residents.values(), key=lambda each: (self._expected(each.cards[0], spare), each.id)):
            known = [(self._expected(card, spare), self.place[card], card) for card in copy.cards]
            here = all(self.on[card] == copy.id for card in copy.cards) and copy.id not in leave
            if lacks > 0 and here and copy.ram_bytes and all(seconds < inf for seconds, _, _ in known):
                more += known
                lacks -= copy.ram_bytes
        return more

    def _expected(self, card: str, spare: Mapping[str, bool]) -> float:
        """In how many seconds the card could be had; inf: never, or not for this."""
        number = self.on[card]
        if card in self.kept or card in self.full:
            return inf
        if card in self.closed:
            return self.held[card].seconds if card in self.held else inf
        if number is None:
            return 0.0
        if number < 0:
            return next((free[number] for free in self.copies.values() if number in free), inf)
        copy = self.residents[number]
        if copy.pinned or not self.closed.isdisjoint(copy.cards):
            return inf
        before = self.means[copy.family] if self._serves_first(number, spare) else 0.0
        free = 0.0 if number in self.idle else self.copies.get(copy.family, {}).get(number, inf)
        return free + before

    def _wanted(self, card: str, spare: Mapping[str, bool]) -> bool:
        """Whether jobs wait for what is on the card, or is being loaded there."""
        number = self.on[card]
        return number is not None and (number < 0 or not spare.get(self.residents[number].family, True))

    def _serves_first(self, number: int | None, spare: Mapping[str, bool]) -> bool:
        """Whether this is an idle copy with jobs of its own that go before."""
        return number is not None and number in self.idle and not spare.get(self.residents[number].family, True)

    def _units(self, family: Family, spare: Mapping[str, bool]) -> Iterable[Unit]:
        for card, number in self.on.items():
            if number is None and card not in self.closed and card not in self.kept and self._open(card, family):
                yield Unit((False, family.load_seconds * self.slowness[card], -inf, self.place[card]), (card,), None)
        for number in sorted(self.idle):
            copy = self.residents[number]
            if copy.pinned or not self.closed.isdisjoint(copy.cards) or not self.kept.keys().isdisjoint(copy.cards):
                continue
            if spare.get(copy.family, True):
                cards = tuple(card for card in copy.cards if self._open(card, family))
                seconds = self.load_seconds(family, cards) + LATER * family.load_seconds
                yield Unit((copy.family in spare, seconds, copy.last_used, number), cards, number)

    def _open(self, card: str, family: Family) -> bool:
        return card not in self.full and takes(family, card)

    def _best(self, family: Family, units: Iterable[Unit]) -> tuple[str, ...]:
        cards = sorted((card for unit in units for card in unit.cards), key=lambda c: (self.slowness[c], self.place[c]))
        return tuple(sorted(cards[: family.cards], key=lambda card: self.place[card]))

    def _set(self, family: str, number: int, seconds: float) -> None:
        self.copies.setdefault(family, {})[number] = seconds

    def drop(self, number: int) -> None:
        """The idle copy is unloaded."""
        copy = self.residents[number]
        self.idle.discard(number)
        self.copies.get(copy.family, {}).pop(number, None)
        self.ram_free_bytes += copy.ram_bytes
        for card in copy.cards:
            self.on[card] = None


def takes(family: Family, card: str) -> bool:
    """Whether a copy of ``family`` may be loaded on ``card``."""
    return family.fits is None or card in family.fits


def in_reach(family: Family, cards: set[str]) -> int:
    """How many of ``cards`` may take a copy of ``family``."""
    return len(cards) if family.fits is None else len(cards & family.fits)
