"""What a memory test is told and what it says: one packet a message, over a socket pair, daemon and child.

Addresses are *test addresses*: byte 0 is the first byte of the first allocation, counted on through all allocations.
They are not the card's physical addresses, which the driver tells nobody.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from p104d.hardware.rig import Rig

#: A packet's most: a result with a full map stays far below.
PACKET_BYTES = 1 << 20
#: Of very many bad places the first are named one by one.
MOST_ADDRESSES = 64
MOST_RANGES = 64


class Depth(StrEnum):
    """How much is asked of the memory: seconds, a minute, hours."""

    QUICK = "quick"
    FULL = "full"
    THOROUGH = "thorough"


class Fault(StrEnum):
    """What the errors of a test look like, all together."""

    ALIASING = "aliasing"
    STUCK = "stuck"
    SOFT = "soft"


class TestConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The first packet to the child. ``seed`` makes the patterns; ``library`` is a CUDA driver library to load in the
    place of libcuda.so.1 (tests); ``simulate`` a rig in the place of the real one, its times counted from ``epoch``
    (CLOCK_MONOTONIC seconds). ``hold_seconds`` is each hold of the bit-fade pass, ``rounds`` how often all else is
    repeated (both: thorough)."""

    uuid: str
    depth: Depth
    seed: int
    library: str | None = None
    simulate: Rig | None = None
    epoch: float = 0.0
    hold_seconds: float = 1800.0
    rounds: int = 60


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far a test is. ``fraction`` is 0..1 of the expected time; ``step`` what it does now, for people (``hash,
    second seed``); ``errors`` counts bad words up to now; ``seconds_left`` is an estimate, None where there is none
    yet."""

    fraction: float
    step: str
    errors: int = 0
    tested_bytes: int = 0
    seconds_left: float | None = None


class BadRange(msgspec.Struct, frozen=True, kw_only=True):
    """Neighbouring bad places: bytes ``start`` to ``end`` (exclusive), bad words in it over all passes, and the bits
    read as 1 that should be 0 (``ones``) and the other way round (``zeros``), in 64-bit words."""

    start: int
    end: int
    errors: int
    ones: int
    zeros: int


class StuckBit(msgspec.Struct, frozen=True, kw_only=True):
    """A bit that always reads the same: ``bit`` 0-7 of the byte at ``address``."""

    address: int
    bit: int
    stuck_at: int


class PassResult(msgspec.Struct, frozen=True, kw_only=True):
    """One pass: its name as documented, bad words, seconds, the bytes it moved to and from memory."""

    name: str
    errors: int
    seconds: float
    bytes_moved: int


class BadCell(msgspec.Struct, frozen=True, array_like=True):
    """A cell of the map with errors in it: its number, bad words over all passes, and the bits that flipped."""

    cell: int
    errors: int
    flipped: int


class TestResult(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """What a finished test found. Speeds are bytes a second, of all bytes read or written (a copy counts both).

    ``cuda_total_bytes`` is what the driver says CUDA has, ``cuda_free_bytes`` what of it was free before the test,
    ``tested_bytes`` what was written and read. ``errors`` counts words of 8 bytes over all passes. ``flipped_or`` and
    ``flipped_and`` are the OR and AND of observed XOR expected, ``ones`` the bits read as 1 that should be 0, ``zeros``
    the reverse. ``aliased`` counts bad words that held exactly what was written for another address, ``alias_offset``
    the distance in bytes to it where there is one (positive: the other one is higher; memory folded more than once
    shows multiples of it). ``broken_records`` counts cells whose findings cannot be true: the memory that they were
    kept in does not hold either; each counts as one error.
    """

    depth: Depth
    cuda_total_bytes: int
    cuda_free_bytes: int
    tested_bytes: int
    seconds: float
    write_bytes_per_second: float
    read_bytes_per_second: float
    copy_bytes_per_second: float
    host_to_device_bytes_per_second: float
    device_to_host_bytes_per_second: float
    passes: tuple[PassResult, ...]
    errors: int = 0
    addresses: tuple[int, ...] = ()
    ranges: tuple[BadRange, ...] = ()
    flipped_or: int = 0
    flipped_and: int = 0
    ones: int = 0
    zeros: int = 0
    aliased: int = 0
    alias_offset: int | None = None
    broken_records: int = 0
    fault: Fault | None = None
    stuck: tuple[StuckBit, ...] = ()
    cell_bytes: int = 1 << 20
    cells: tuple[BadCell, ...] = ()


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="failure"):
    """Why a test could not finish: a driver call that failed (``call``, ``code`` and the driver's name for it), or
    that there is no CUDA driver (``call`` None). ``text`` is one line for people."""

    text: str
    call: str | None = None
    code: int | None = None


Packet = Progress | TestResult | Failure
