"""The wire of proven memory: what ``verify`` asks and prints, and the tests of a card over time.

Addresses are hexadecimal text (``0x140000000``): JSON readers keep no more than 53 bits of a number. They are *test
addresses*: bytes counted through all that the test held; the driver tells nobody physical ones.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class VerifyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The cards to test (none named: all of them), and how deeply. ``watch``: the answer is a stream of lines, and the
    tests that this request asked for are stopped when the caller hangs up. ``stop``: end the tests of these cards
    instead."""

    cards: list[str] = []
    depth: Literal["quick", "full", "thorough"] = "quick"
    watch: bool = False
    stop: bool = False


class FlippedRange(msgspec.Struct, kw_only=True):
    """Neighbouring bad places. ``end`` is exclusive; ``read_as_1`` are bits (of 64) read as 1 that should be 0."""

    start: str
    end: str
    errors: int
    read_as_1: str
    read_as_0: str


class StuckCell(msgspec.Struct, kw_only=True):
    """A bit that always reads the same: ``bit`` 0-7 of the byte at ``address``."""

    address: str
    bit: int
    stuck_at: int


class TestPass(msgspec.Struct, kw_only=True):
    """One pass of a test."""

    name: str
    errors: int
    seconds: float
    moved_bytes: int


class TestProgress(msgspec.Struct, kw_only=True):
    """How far a running test is."""

    percent: float
    step: str
    errors: int
    seconds_left: float | None


class MapCell(msgspec.Struct, kw_only=True):
    """A piece of the memory with errors in it: its number, bad words, and which of 64 bits flipped."""

    cell: int
    errors: int
    flipped: str


class MemoryTest(msgspec.Struct, kw_only=True):
    """One test of a card's memory, asked for, under way or over.

    ``id`` is null until it has begun. ``state``: ``waiting`` (``waiting_because`` says for what), ``running``,
    ``finished`` (with a ``verdict``), ``preempted`` (a job needed the card; it is asked for again), ``stopped`` (by a
    person), ``interrupted`` (the daemon ended). ``cause`` is why it was asked for. Errors count words of 8 bytes over
    all passes; speeds are bytes a second. ``map_cells`` is null unless asked for; empty where nothing failed.
    """

    id: int | None
    card: str
    index: int | None
    name: str | None
    depth: Literal["quick", "full", "thorough"]
    cause: str
    asked_by: str | None
    state: Literal["waiting", "running", "finished", "preempted", "stopped", "interrupted"]
    waiting_because: str | None
    verdict: Literal["proven", "locked", "aliased", "faulty", "failed"] | None
    text: str | None
    started_at: str | None
    ended_at: str | None
    progress: TestProgress | None
    driver: str | None
    vbios: str | None
    memory_total_bytes: int | None
    memory_cuda_bytes: int | None
    memory_tested_bytes: int | None
    memory_proven_bytes: int | None
    coverage_percent: float | None
    errors: int | None
    write_bytes_per_second: float | None
    read_bytes_per_second: float | None
    copy_bytes_per_second: float | None
    host_to_device_bytes_per_second: float | None
    device_to_host_bytes_per_second: float | None
    fault: Literal["aliasing", "stuck", "soft"] | None
    alias_offset_bytes: int | None
    flipped_or: str | None
    flipped_and: str | None
    first_addresses: list[str]
    ranges: list[FlippedRange]
    stuck: list[StuckCell]
    passes: list[TestPass]
    temperature_max_celsius: int | None
    sm_clock_min_mhz: int | None
    sm_clock_max_mhz: int | None
    map_cell_bytes: int | None = None
    map_cells: list[MapCell] | None = None


class Verified(msgspec.Struct):
    """What ``verify`` asked for, one test a card, as it stands. In a stream every line is one of these: the first at
    once, more as the tests go on, the last when all have ended (``done``)."""

    tests: list[MemoryTest]
    done: bool = False


class History(msgspec.Struct):
    """What was recorded of a card over time: its memory tests, newest first."""

    tests: list[MemoryTest]
