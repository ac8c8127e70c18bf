"""How much of a queue can matter to one plan."""

from __future__ import annotations

from collections.abc import Sequence

from p104d.core.job import Requirement
from p104d.core.snapshot import CardView, HostView


def most_at_once(requirement: Requirement, cards: Sequence[CardView], host: HostView) -> int:
    """An upper bound of how many jobs of this requirement could start now, and one more to be first in line."""
    if requirement.cards == 0:
        return max(host.cpu_slots_free, 0) + 1
    if requirement.vram_bytes is None:
        free = sum(card.closed is None and not card.holds for card in cards)
        return free // requirement.cards + 1
    shares = sum(
        max(0, card.capacity_bytes - sum(hold.reserved_bytes for hold in card.holds)) // requirement.vram_bytes
        for card in cards
        if card.closed is None
    )
    return shares // requirement.cards + 1
