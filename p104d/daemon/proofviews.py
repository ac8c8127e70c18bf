"""Memory tests as people see them: asked for, under way, or over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec

from p104d.api import proof as p
from p104d.core.card import CardIdentity, DueTest
from p104d.core.units import iso
from p104d.daemon.cardfacts import short_name
from p104d.daemon.proofs import Proofs
from p104d.daemon.rig import Rig
from p104d.daemon.underway import Running
from p104d.memtest.messages import TestResult
from p104d.store.cards import CardRecord

#: What a row calls as the wire does.
_AS_RECORDED = (
    "verdict",
    "text",
    "driver",
    "vbios",
    "errors",
    "write_bytes_per_second",
    "read_bytes_per_second",
    "copy_bytes_per_second",
    "host_to_device_bytes_per_second",
    "device_to_host_bytes_per_second",
    "temperature_max_celsius",
    "sm_clock_min_mhz",
    "sm_clock_max_mhz",
)
_UNKNOWN: dict[str, Any] = dict.fromkeys(_AS_RECORDED)
_decode_result = msgspec.json.Decoder(TestResult).decode


def recorded(rig: Rig, proofs: Proofs, row: Any, *, with_map: bool = False) -> p.MemoryTest:
    """A row of ``memory_tests``; one that is under way with its progress."""
    record = rig.records.get(row.card_uuid)
    running = proofs.running.get(row.card_uuid)
    if running is not None and running.test_id == row.id and record is not None:
        return under_way(record, running)
    due = DueTest(cause=row.cause, depth=row.depth, asked_at=row.started_at, asked_by=row.asked_by)
    return msgspec.structs.replace(
        _blank(row.card_uuid, record.identity if record else None, due),
        id=row.id,
        state=row.state,
        started_at=iso(row.started_at),
        ended_at=iso(row.ended_at),
        memory_total_bytes=row.total_bytes,
        memory_cuda_bytes=row.cuda_bytes,
        memory_tested_bytes=row.tested_bytes,
        memory_proven_bytes=row.proven_bytes,
        coverage_percent=_percent(row.tested_bytes, row.cuda_bytes),
        **{name: getattr(row, name) for name in _AS_RECORDED},
        **_found(_decode_result(row.result) if row.result else None, with_map),
    )


def _percent(part: int | None, whole: int | None) -> float | None:
    return round(100 * part / whole, 2) if part is not None and whole else None


def under_way(record: CardRecord, test: Running) -> p.MemoryTest:
    """A test that runs."""
    said = test.progress
    progress = p.TestProgress(
        percent=round(100 * said.fraction, 1) if said else 0.0,
        step=said.step if said else "starts",
        errors=said.errors if said else 0,
        seconds_left=said.seconds_left if said else None,
    )
    return msgspec.structs.replace(
        _of(record, test.due),
        id=test.test_id,
        state="running",
        started_at=iso(test.started_at),
        progress=progress,
        temperature_max_celsius=test.temperature_max,
        sm_clock_min_mhz=test.clock_min,
        sm_clock_max_mhz=test.clock_max,
    )


def waiting(record: CardRecord, due: DueTest, because: str) -> p.MemoryTest:
    """A test that is due and has not begun."""
    return msgspec.structs.replace(_of(record, due), waiting_because=because)


def _of(record: CardRecord, due: DueTest) -> p.MemoryTest:
    blank = _blank(record.identity.uuid, record.identity, due)
    return msgspec.structs.replace(blank, driver=record.driver, vbios=record.identity.vbios)


def _blank(uuid: str, identity: CardIdentity | None, due: DueTest) -> p.MemoryTest:
    """A test of which no more is known than that it is wanted."""
    return p.MemoryTest(
        id=None,
        card=uuid,
        index=identity.index if identity else None,
        name=short_name(identity) if identity else None,
        depth=cast(Literal["quick", "full", "thorough"], due.depth),
        cause=due.cause,
        asked_by=due.asked_by,
        state="waiting",
        waiting_because=None,
        started_at=None,
        ended_at=None,
        progress=None,
        memory_total_bytes=identity.memory_total_bytes if identity else None,
        memory_cuda_bytes=None,
        memory_tested_bytes=None,
        memory_proven_bytes=None,
        coverage_percent=None,
        **_UNKNOWN,
        **_found(None, False),
    )


def _found(result: TestResult | None, with_map: bool) -> dict[str, Any]:
    bad = result is not None and result.errors > 0
    return {
        "fault": result.fault.value if result and result.fault else None,
        "alias_offset_bytes": abs(result.alias_offset) if result and result.alias_offset is not None else None,
        "flipped_or": _hexadecimal(result.flipped_or) if result and bad else None,
        "flipped_and": _hexadecimal(result.flipped_and) if result and bad else None,
        "first_addresses": [hex(address) for address in result.addresses] if result else [],
        "ranges": [
            p.FlippedRange(
                start=hex(each.start),
                end=hex(each.end),
                errors=each.errors,
                read_as_1=_hexadecimal(each.ones),
                read_as_0=_hexadecimal(each.zeros),
            )
            for each in (result.ranges if result else ())
        ],
        "stuck": [
            p.StuckCell(address=hex(each.address), bit=each.bit, stuck_at=each.stuck_at)
            for each in (result.stuck if result else ())
        ],
        "passes": _passes(result.passes if result else ()),
        "map_cell_bytes": result.cell_bytes if result and with_map else None,
        "map_cells": [
            p.MapCell(cell=each.cell, errors=each.errors, flipped=_hexadecimal(each.flipped)) for each in result.cells
        ]
        if result and with_map
        else None,
    }


def _passes(passes: Sequence[Any]) -> list[p.TestPass]:
    return [
        p.TestPass(name=each.name, errors=each.errors, seconds=round(each.seconds, 4), moved_bytes=each.bytes_moved)
        for each in passes
    ]


def _hexadecimal(word: int) -> str:
    return f"0x{word:016x}"
