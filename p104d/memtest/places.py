"""The bad places once more, one by one and read by the host: which bits never change, whatever is written?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from p104d.memtest.card import WORD_BYTES, Card
from p104d.memtest.findings import Cell, Findings
from p104d.memtest.messages import MOST_ADDRESSES, StuckBit
from p104d.memtest.patterns import ALL_ONES, ROTATE
from p104d.memtest.steps import Fill, Pattern
from p104d.memtest.sweep import Sweeper

#: So many bad cells are looked at, which takes a second over the slowest link.
_MOST_CELLS = 32
#: Each written and read so often: a bit that is stuck is so every time.
_ROUNDS = 2
#: What is written to all of the memory meanwhile.
FILLS = tuple(Fill(Pattern(ROTATE, written)) for _ in range(_ROUNDS) for written in (0, ALL_ONES))
_NOT_ZERO, _NOT_ONES = re.compile(rb"[^\x00]"), re.compile(rb"[^\xff]")
_Bit = tuple[int, int]  # byte address, bit


def stuck_bits(card: Card, sweeper: Sweeper, findings: Findings) -> tuple[StuckBit, ...]:
    """The bits in the first bad cells that read the same after every writing, at most MOST_ADDRESSES, by address.

    All of the memory is written each time, so that what is read back comes from the memory and not from the cache.
    Raises CudaError.
    """
    cells = [cell for _, cell in sorted(findings.cells.items())[:_MOST_CELLS]]
    if not cells:
        return ()
    wrong: dict[int, list[set[_Bit]]] = {0: [], ALL_ONES: []}
    for fill in FILLS:
        sweeper.run(fill)
        written = fill.pattern.a
        wrong[written].append({bit for cell in cells for bit in _differences(card, cell, written)})
    at_one, at_zero = (set.intersection(*wrong[written]) for written in (0, ALL_ONES))
    found = [(*bit, 1) for bit in at_one - at_zero] + [(*bit, 0) for bit in at_zero - at_one]
    return tuple(
        StuckBit(address=address, bit=bit, stuck_at=value) for address, bit, value in sorted(found)[:MOST_ADDRESSES]
    )


def _differences(card: Card, cell: Cell, written: int) -> Iterator[_Bit]:
    """The bits that are not as written, between the first and the last bad word of a cell."""
    at, end = cell.first * WORD_BYTES, (cell.last + 1) * WORD_BYTES
    unlike, byte = (_NOT_ONES, 0xFF) if written else (_NOT_ZERO, 0)
    while at < end:
        address, follow = card.device_address(at)
        size = min(end - at, follow, card.host.size)
        card.stream.download(card.host, address, size)
        card.stream.synchronize()
        # A cell that is bad all through is no matter of single bits: its first ones will do.
        for _, match in zip(range(MOST_ADDRESSES), unlike.finditer(card.host.view[:size]), strict=False):
            flipped = match[0][0] ^ byte
            for bit in (bit for bit in range(8) if flipped >> bit & 1):
                yield at + match.start(), bit
        at += size
