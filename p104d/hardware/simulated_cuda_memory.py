"""What CUDA's allocator shows of a simulated card: device pointers, and which of them may be touched."""

from __future__ import annotations

from bisect import bisect_right, insort

from p104d.core.units import MIB
from p104d.hardware.rig import RigCard
from p104d.hardware.simulated import RESERVED_BYTES
from p104d.hardware.symbolic_memory import SymbolicMemory

OUT_OF_MEMORY, INVALID_VALUE, ILLEGAL_ADDRESS = 2, 1, 700
#: The device pointer of the card's address 0.
POINTER_BASE = 0x7F20_0000_0000
#: What a context takes: of 8109 MiB that CUDA has on an unlocked card, 8023 can be allocated.
CONTEXT_BYTES = 86 * MIB
#: Allocations are multiples of it, as on a card.
_GRANULE = 256
#: Smaller ones come from the top, so that the large ones begin at the card's address 0 whatever came first.
_SMALL_BYTES = MIB


class CudaFailure(Exception):
    """A function's CUresult other than success."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class DeviceMemory:
    """A card's memory as CUDA has it. Sizes in bytes; ``total`` is what CUDA reports as total."""

    def __init__(self, card: RigCard) -> None:
        self.symbolic = SymbolicMemory(card.memory, card.physical_memory, card.bad_bits)
        self.total = max(0, card.memory - RESERVED_BYTES)
        self._end = max(0, self.total - CONTEXT_BYTES)
        self._areas: list[tuple[int, int]] = []

    @property
    def allocated(self) -> int:
        """Bytes in allocations."""
        return sum(size for _, size in self._areas)

    def allocate(self, size: int, free: int) -> int:
        """A device pointer to ``size`` bytes, of which ``free`` are to be had. Raises CudaFailure."""
        if size <= 0:
            raise CudaFailure(INVALID_VALUE)
        size = -(-size // _GRANULE) * _GRANULE
        if size > free:
            raise CudaFailure(OUT_OF_MEMORY)
        gaps = [(start, end) for start, end in self._gaps() if end - start >= size]
        if not gaps:
            raise CudaFailure(OUT_OF_MEMORY)
        address = gaps[-1][1] - size if size < _SMALL_BYTES else gaps[0][0]
        insort(self._areas, (address, size))
        return POINTER_BASE + address

    def _gaps(self) -> list[tuple[int, int]]:
        found, start = [], 0
        for address, size in [*self._areas, (self._end, 0)]:
            if address > start:
                # A small allocation from an odd end leaves one: the next begins on a granule again.
                found.append((start, address // _GRANULE * _GRANULE))
            start = address + size
        return found

    def release(self, pointer: int) -> None:
        """Free an allocation; what is in it stays. Raises CudaFailure for what is none."""
        area = next((area for area in self._areas if area[0] + POINTER_BASE == pointer), None)
        if area is None:
            raise CudaFailure(INVALID_VALUE)
        self._areas.remove(area)

    def release_all(self) -> None:
        """What the end of a context does."""
        self._areas.clear()

    def locate(self, pointer: int, size: int, code: int = ILLEGAL_ADDRESS) -> int:
        """The card's address of ``size`` bytes at ``pointer``. Raises CudaFailure(code) if they are not within one
        allocation."""
        address = pointer - POINTER_BASE
        at = bisect_right(self._areas, (address, 2**64)) - 1
        if at < 0 or address + size > sum(self._areas[at]):
            raise CudaFailure(code)
        return address
