"""Which cards of a rig a model fits on: one, or the fewest, and any choice among them. Pure sums.

A copy of a model takes whole cards, so what counts is each card's capacity; which cards are free does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from p104d.core.errors import P104Error
from p104d.core.job import ModelNeed
from p104d.core.units import format_size
from p104d.engines.gguf_types import CACHE_KINDS
from p104d.engines.model_memory import UBATCH, Ask, CardSum, Costs, check, spread
from p104d.engines.model_memory_shape import Shape
from p104d.engines.model_memory_split import place

#: Half of f16, at nearly no loss: what is worth suggesting. Smaller ones cost quality.
SMALL_CACHE = "q8_0"
#: Where the header does not tell what a model was trained to: no larger context is suggested.
_MOST_CONTEXT = 2**17
#: Cards that were chosen by hand may be smaller than the sum says; their shares are worked out as if they were larger.
_DOUBLINGS = 24


class Room(NamedTuple):
    """One card, and what of it a model may have."""

    uuid: str
    capacity_bytes: int


class Fit(NamedTuple):
    """A copy takes ``cards`` cards, any of ``uuids`` (in the order that the cards were given)."""

    cards: int
    uuids: tuple[str, ...]


class Misfit(NamedTuple):
    """Why it fits nowhere: what it needs and what there is, and the mend."""

    message: str
    mend: str

    @property
    def text(self) -> str:
        """Both on one line."""
        return f"{self.message}; {self.mend}"


def ask_of(need: ModelNeed, trained: int = 0) -> Ask:
    """How the model of a job is loaded; ``trained`` is the context that the model was trained to (0: unknown).

    For embeddings llama.cpp reads a request in one batch, which so has to hold all of it; and models that know
    positions by a table have none beyond what they were trained to.
    """
    ask = Ask(context=need.context, parallel=need.parallel, kv_cache=need.kv_cache)
    if not need.embeddings:
        return ask
    ask = ask._replace(context=min(ask.context, trained or ask.context))
    return ask._replace(ubatch=max(UBATCH, ask.slot))


def fit(
    shape: Shape, ask: Ask, cards: Sequence[Room], costs: Costs, *, cards_wanted: int | None, vram: int | None
) -> Fit | Misfit:
    """Where the model fits: on ``cards_wanted`` cards, or (None) on as few as can be.

    ``vram``: what a card needs, in bytes, instead of the sum; on one card then where no number is wanted.
    """
    try:
        check(shape, ask)
    except P104Error as error:
        return Misfit(error.message, error.mend or "change the job")
    rig = _Rig(shape, cards, costs, cards_wanted or (1 if vram is not None else None))
    return rig.fit(ask, vram) or rig.misfit(ask, vram)


def placed(shape: Shape, ask: Ask, capacities: Sequence[int], costs: Costs) -> tuple[CardSum, ...]:
    """What each of these cards takes, in this order; ``layers`` of each are llama-server's ``--tensor-split``.

    Where the sum says that it does not fit, its shares are in proportion to the cards. Raises ValueError for more cards
    than there are layers and an output.
    """
    if not 1 <= len(capacities) <= len(shape.layers) + 1:
        raise ValueError(f"{len(capacities)} cards cannot share {len(shape.layers)} layers and the output")
    for power in range(_DOUBLINGS):
        sums = place(shape, ask, [capacity << power for capacity in capacities], costs)
        if sums is not None:
            return sums
    least, more = divmod(len(shape.layers) + 1, len(capacities))
    return spread(shape, ask, [least + (card < more) for card in range(len(capacities))], costs)


class _Rig:
    """The cards, and what of the question does not change when something smaller is asked for."""

    def __init__(self, shape: Shape, cards: Sequence[Room], costs: Costs, wanted: int | None) -> None:
        self._shape, self._cards, self._costs, self._wanted = shape, cards, costs, wanted
        self._sizes = sorted({card.capacity_bytes for card in cards})
        most = min(len(cards), len(shape.layers) + 1)
        counts = range(1, most + 1) if wanted is None else (wanted,) if wanted <= most else ()
        self._counts = tuple(counts)

    def fit(self, ask: Ask, vram: int | None = None) -> Fit | None:
        """On the fewest cards that do."""
        for count in self._counts:
            found = self._any_of(ask, count, vram)
            if found:
                return Fit(count, found)
        return None

    def _any_of(self, ask: Ask, count: int, vram: int | None) -> tuple[str, ...]:
        """The cards among which any ``count`` do; empty where none are. What fits on equal cards fits on larger."""
        for size in self._sizes:
            enough = tuple(card.uuid for card in self._cards if card.capacity_bytes >= size)
            if len(enough) < count:
                break
            if (size >= vram) if vram is not None else self._holds(ask, [size] * count):
                return enough
        if vram is not None or count < 2:
            return ()
        # Too much for the smallest of the largest ones if shared equally, but a larger one may take more of it.
        order = sorted(range(len(self._cards)), key=lambda at: (-self._cards[at].capacity_bytes, at))
        chosen = [self._cards[at] for at in sorted(order[:count])]
        fits = self._holds(ask, [card.capacity_bytes for card in chosen])
        return tuple(card.uuid for card in chosen) if fits else ()

    def _holds(self, ask: Ask, capacities: Sequence[int]) -> bool:
        return place(self._shape, ask, capacities, self._costs) is not None

    # --- in words ---

    def misfit(self, ask: Ask, vram: int | None) -> Misfit:
        """Why not, and what would."""
        if not self._cards:
            return Misfit("there is no card that it could be loaded on", "look at `p104ctl cards`")
        if self._wanted is not None and self._wanted > len(self._cards):
            what = f"it is to be on {_cards(self._wanted)}, and there {_are(len(self._cards))}"
            return Misfit(what, f"cards: {len(self._cards)}, or leave it out")
        if self._wanted is not None and not self._counts:
            parts = len(self._shape.layers) + 1
            return Misfit(f"its layers cannot be shared among {_cards(self._wanted)}", f"cards: {parts} at most")
        if vram is not None:
            each = " each" if (self._wanted or 1) > 1 else ""
            what = f"it is to have {format_size(vram)} of {_cards(self._wanted or 1)}{each}; {self._have()}"
            return Misfit(what, "a smaller vram, or leave it out: the model's header tells what it needs")
        return Misfit(f"it needs {self._needs(ask)}; {self._have()}", self._mend(ask))

    def _needs(self, ask: Ask) -> str:
        """The fullest card, for the numbers of cards that are in question."""
        told = []
        for count in sorted({self._counts[0], self._counts[-1]}):
            total = max(one.total for one in placed(self._shape, ask, [self._sizes[-1]] * count, self._costs))
            told.append(f"{format_size(total)} on " + ("one card" if count == 1 else f"each of {count} cards"))
        return " or ".join(told)

    def _have(self) -> str:
        sizes = Counter(format_size(card.capacity_bytes) for card in sorted(self._cards, key=lambda one: -one[1]))
        return "the rig has " + " and ".join(f"{_cards(count)} of {size}" for size, count in sizes.items())

    def _mend(self, ask: Ask) -> str:
        more = None
        if self._wanted is not None:
            more = _Rig(self._shape, self._cards, self._costs, None).fit(ask)
        small = self._small(ask)
        fits = self.fit(small) if small is not None else None
        context = self._largest(ask)
        tightest = self._largest(small) if small is not None and not context else 0
        found = [
            f"cards: {more.cards}" if more is not None else "",
            f"kv_cache: {SMALL_CACHE} ({self._on(fits.cards)})" if fits is not None else "",
            f"context: {context}" + self._where(ask._replace(context=context)) if context else "",
            f"context: {tightest} with kv_cache: {SMALL_CACHE}"
            if small is not None and tightest and not context
            else "",
        ]
        return " or ".join(part for part in found if part) or "a smaller quantisation of the model"

    def _small(self, ask: Ask) -> Ask | None:
        """The same with a small cache; None where it is small already, or the model cannot have one."""
        small = ask._replace(kv_cache=SMALL_CACHE)
        try:
            check(self._shape, small)
        except P104Error:
            return None
        return small if _size(small) < _size(ask) else None

    def _largest(self, ask: Ask) -> int:
        """The largest context that fits, in steps that llama.cpp makes; 0 where not even one does."""
        step = Ask(context=1).slot
        low, high = 0, max(1, min(ask.context, self._shape.context or _MOST_CONTEXT) // step)
        while low < high:
            middle = (low + high + 1) // 2
            if self.fit(ask._replace(context=middle * step)) is None:
                high = middle - 1
            else:
                low = middle
        return low * step

    def _where(self, ask: Ask) -> str:
        found = self.fit(ask)
        return f" ({self._on(found.cards)})" if found is not None else ""

    @staticmethod
    def _on(count: int) -> str:
        return "fits on one card" if count == 1 else f"fits on {count} cards"


def _size(ask: Ask) -> float:
    """Of one number of its cache."""
    kind = CACHE_KINDS[ask.kv_cache]
    return kind.size / kind.block


def _cards(count: int) -> str:
    return "1 card" if count == 1 else f"{count} cards"


def _are(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"
