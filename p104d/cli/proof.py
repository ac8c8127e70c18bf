"""The memory test for people: a card's verdict, what a test found, what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p104d.cli.rig import card_index, card_name, share, that_fit
from p104d.cli.text import Cell, Column, clean, local, paint, span, state, table, wrap
from p104d.core.units import format_size

#: Verdicts with which all the memory that a card has, has been shown to hold.
GOOD = frozenset({"proven", "locked"})
#: A test that covered less than this is told so: others held the rest of the memory.
_FULL_COVERAGE_PERCENT = 98.0
#: Of many bad places, how many a person is shown; --json has them all.
_SHOWN = 4

#: What the history leaves to --json on a terminal too narrow, the least missed first.
_DROPPED = ("DRIVER", "HEAT", "WRITE")

#: What to do with a card of a verdict that is not simply good. docs/verification.md says it at length.
MENDS = {
    "locked": "it has its factory size, and takes jobs whose vram fits. More of its memory is unlocked by flashing a"
    " ROM signed for it: save the present ROM first (nvflash --save backup.rom) and keep that file, it is the way"
    " back; flash; reboot; then p104ctl verify. Every step: docs/verification.md",
    "aliased": "its ROM promises memory that is not there. It takes no jobs. Flash its own ROM back, or one of its"
    " true size, then p104ctl verify. See docs/verification.md",
    "faulty": "its memory does not keep what is written. It takes no jobs. Cool it, look to its power, then"
    " p104ctl verify --depth thorough; if errors stay, the card is worn. See docs/verification.md",
    "failed": "the test could not finish. Look at p104ctl doctor, riser and power, then p104ctl verify."
    " See docs/verification.md",
}


def label(test: dict[str, Any]) -> str:
    """``card 0 (P104-100)``."""
    return clean(f"card {card_index(test)} ({card_name(test)})")


def good(test: dict[str, Any]) -> bool:
    """Whether the test has finished and shown that the card's memory holds."""
    return test["state"] == "finished" and test.get("verdict") in GOOD


def outcome(test: dict[str, Any]) -> Cell:
    """The verdict of a finished test, the state of any other, in its colour."""
    return state(test.get("verdict") if test["state"] == "finished" else test["state"])


def rate(value: float | None) -> str:
    """Bytes a second as ``251 GB/s`` or ``0.17 GB/s``; ``-`` where it was not measured."""
    if value is None:
        return "-"
    return f"{value / 1e9:.0f} GB/s" if value >= 10e9 else f"{value / 1e9:.2f} GB/s"


def findings(test: dict[str, Any]) -> dict[str, str]:
    """What is wrong, by what it is called; empty where nothing failed."""
    if not test.get("errors"):
        return {}
    found = {
        "errors": f"{test['errors']:,} wrong readings of 8-byte words"
        + (f" ({test['fault']})" if test.get("fault") else ""),
        "first at": _some(test.get("first_addresses") or ()),
        "ranges": _some([_range(one) for one in test.get("ranges") or ()]),
        "stuck": _some([f"bit {one['bit']} of {one['address']} at {one['stuck_at']}" for one in test["stuck"]]),
        "flipped": _masks(test),
    }
    if test.get("alias_offset_bytes"):
        found["aliased"] = f"the same memory again {format_size(abs(test['alias_offset_bytes']))} further on"
    return {key: value for key, value in found.items() if value}


def _some(texts: Sequence[str]) -> str:
    rest = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + rest


def _range(one: dict[str, Any]) -> str:
    read = f"{bits(one['read_as_1'])} as 1, {bits(one['read_as_0'])} as 0"
    return f"{one['start']}-{one['end']} ({one['errors']:,}; {read})"


def bits(mask: str) -> str:
    """``bit 3``, ``bits 3, 17`` or ``32 bits`` of a mask in hexadecimal; ``none``."""
    value = int(mask, 16)
    numbers = [str(number) for number in range(value.bit_length()) if value >> number & 1]
    if len(numbers) > _SHOWN:
        return f"{len(numbers)} bits"
    return f"bit{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}" if numbers else "none"


def _masks(test: dict[str, Any]) -> str:
    if test.get("flipped_or") is None:
        return ""
    always = bits(test.get("flipped_and") or "0x0")
    return bits(test["flipped_or"]) + (f"; {always} in every bad word" if always != "none" else "")


def speeds(test: dict[str, Any]) -> str:
    """``write 251 GB/s, read 262 GB/s, host to card 0.17 GB/s``; what was not measured is left out."""
    named = {
        "write": test.get("write_bytes_per_second"),
        "read": test.get("read_bytes_per_second"),
        "host to card": test.get("host_to_device_bytes_per_second"),
    }
    return ", ".join(f"{name} {rate(value)}" for name, value in named.items() if value is not None)


def end_lines(test: dict[str, Any], room: int | None = None) -> list[str]:
    """How a test ended: a line, and for a card that is not simply proven what was found and what to do."""
    word = outcome(test)
    verdict = test.get("verdict") if test["state"] == "finished" else None
    sizes = f" {share(test.get('memory_proven_bytes'), test.get('memory_total_bytes'))}" if verdict else ""
    took = f"{test['depth']} test, {span(test['started_at'], test['ended_at'])}" if test.get("ended_at") else ""
    tail = "; ".join(part for part in (took, speeds(test) if verdict else "") if part)
    head = f"{label(test)}: {paint(word.text, word.colour)}{sizes}" + (f"; {tail}" if tail else "")
    low = (test.get("coverage_percent") or 100.0) < _FULL_COVERAGE_PERCENT
    said = [test["text"]] if test.get("text") and (verdict != "proven" or low) else []
    found = findings(test)
    if "ranges" in found:
        found.pop("first at", None)  # the ranges begin there
    said += [f"{name}: {text}" for name, text in found.items()]
    room = (room or 10_000) - 4
    lines = [line for text in said for line in wrap(text, room, "  ")]
    bold = [paint(line, "bold") for line in wrap(f"-> {MENDS[verdict]}", room, "   ")] if verdict in MENDS else []
    return [head, *("    " + line for line in [*lines, *bold])]


def history_table(tests: Sequence[dict[str, Any]], *, of_one_card: bool) -> list[str]:
    """One line a test, in the order given. TESTED is of what the card reported; speeds are GB/s."""
    columns = [
        Column("WHEN"),
        *([] if of_one_card else [Column("#", right=True), Column("CARD", give=True)]),
        Column("DEPTH"),
        Column("CAUSE", give=True, least=6),
        Column("VERDICT"),
        Column("TESTED", right=True),
        Column("ERRORS", right=True),
        Column("WRITE", right=True),
        Column("READ", right=True),
        Column("HEAT", right=True),
        Column("DRIVER", give=True, least=6),
    ]
    rows = [_row(test, of_one_card) for test in tests]
    kept = that_fit(columns, rows, _DROPPED)
    return table(kept, [[row[columns.index(column)] for column in kept] for row in rows])


def _row(test: dict[str, Any], of_one_card: bool) -> list[Cell | str]:
    errors, heat = test.get("errors"), test.get("temperature_max_celsius")
    return [
        local(test.get("started_at")),
        *([] if of_one_card else [card_index(test), card_name(test)]),
        test["depth"],
        test.get("cause") or "-",
        outcome(test),
        share(test.get("memory_tested_bytes"), test.get("memory_total_bytes")),
        "-" if errors is None else Cell(f"{errors:,}", "red" if errors else None),
        _plain_rate(test.get("write_bytes_per_second")),
        _plain_rate(test.get("read_bytes_per_second")),
        "-" if heat is None else f"{heat}°C",
        test.get("driver") or "-",
    ]


def _plain_rate(value: float | None) -> str:
    return rate(value).split(" ")[0]
