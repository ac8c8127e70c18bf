"""On which cards a model fits: one, or the fewest, each with layers for its room.

Whole layers go to the cards in turn (llama-server's ``--split-mode layer``): only a token's numbers cross between
cards then, little enough for a riser of one lane. Splitting rows would send far more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from p104d.engines.model_memory import NO_RUNS, Ask, CardSum, Costs, compute_bytes, layer_sizes, spread
from p104d.engines.model_memory_shape import Shape

#: How finely the fullest card is levelled with the others, as steps of halving.
_HALVINGS = 16


class Placement(NamedTuple):
    """``cards`` are places in the capacities that were given, in the order llama-server is to see them."""

    cards: tuple[int, ...]
    sums: tuple[CardSum, ...]

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """``--tensor-split``: the layers of each card. llama.cpp shares out layers and output by it exactly."""
        return tuple(one.layers for one in self.sums)

    @property
    def split_mode(self) -> str:
        """``--split-mode``."""
        return "none" if len(self.sums) == 1 else "layer"


def place(shape: Shape, ask: Ask, capacities: Sequence[int], costs: Costs = NO_RUNS) -> tuple[CardSum, ...] | None:
    """The model on all of these cards, in this order, the fullest as empty as can be; None where it does not fit.

    ``capacities`` is the bytes of each card that may be used. Each card holds a layer at least.
    """
    cards = len(capacities)
    units = [weights + kv for weights, kv in layer_sizes(shape, ask)]
    rest = costs.context + costs.surplus
    taken = [max(0, compute_bytes(shape, ask, cards=cards, last=card == cards - 1) + rest) for card in range(cards)]
    counts = _level(units, capacities, taken, 1.0)
    if counts is None:
        return None
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS if cards > 1 else 0):
        middle = (low + high) / 2
        better = _level(units, capacities, taken, middle)
        if better is None:
            low = middle
        else:
            high, counts = middle, better
    return spread(shape, ask, counts, costs)


def fewest(
    shape: Shape,
    ask: Ask,
    capacities: Sequence[int],
    costs: Costs = NO_RUNS,
    most: int | None = None,
) -> Placement | None:
    """The model on as few of these cards as it fits on: the smallest one card, or the largest several.

    At most ``most`` cards; None where it fits on none.
    """
    order = sorted(range(len(capacities)), key=lambda card: (-capacities[card], card))
    for card in reversed(order):
        sums = place(shape, ask, [capacities[card]], costs)
        if sums is not None:
            return Placement((card,), sums)
    for count in range(2, min(len(order), most or len(order), len(shape.layers) + 1) + 1):
        chosen = sorted(order[:count])
        sums = place(shape, ask, [capacities[card] for card in chosen], costs)
        if sums is not None:
            return Placement(tuple(chosen), sums)
    return None


def _level(
    units: Sequence[int], capacities: Sequence[int], taken: Sequence[int], part: float
) -> tuple[int, ...] | None:
    """How many layers each card gets if each is filled to ``part`` of its room; None where some are left over."""
    counts, begin = [], 0
    for card, capacity in enumerate(capacities):
        # The cards after this one need a layer each.
        most = len(units) - begin - (len(capacities) - 1 - card)
        count = _fill(units[begin : begin + max(0, most)], int(capacity * part) - taken[card])
        if count == 0:
            return None
        counts.append(count)
        begin += count
    return tuple(counts) if begin == len(units) else None


def _fill(units: Sequence[int], room: int) -> int:
    count = 0
    for unit in units:
        room -= unit
        if room < 0:
            break
        count += 1
    return count
