"""All that is known of one card, its proof among it: the page that ``cards CARD`` prints."""

from __future__ import annotations

from typing import Any

from p104d.api.client import Client
from p104d.cli.proof import MENDS, findings, rate
from p104d.cli.rig import card_index, card_name, figure, last_proof, link, note_lines
from p104d.cli.terminal import terminal_width
from p104d.cli.text import clean, local, paint, relative, state, wrap
from p104d.core.errors import P104Error
from p104d.core.units import format_size

#: How far back the last finished test is looked for: the newest may be under way, or have yielded to jobs.
_TESTS = 20


def last_test(asked: Client, uuid: str) -> dict[str, Any] | None:
    """The newest test of the card that gave a verdict. A page without it is still worth having."""
    try:
        tests = asked.get("/v1/history", {"card": uuid, "limit": _TESTS})["tests"]
        return next((test for test in tests if test["state"] == "finished"), None)
    except (P104Error, KeyError):
        return None


def card_page(card: dict[str, Any], test: dict[str, Any] | None = None) -> list[str]:
    """All that is known of one card, in words; ``test`` is its newest memory test that gave a verdict."""
    low, high = card.get("power_limit_min_watts"), card.get("power_limit_max_watts")
    default = figure(card.get("power_limit_default_watts"), "W")
    between = f" ({figure(low, 'W')} to {figure(high, 'W')}, {default} by default)" if low is not None else ""
    clocks = [figure(card.get(key), " MHz") for key in ("sm_clock_mhz", "memory_clock_mhz")]
    fields = {
        "uuid": card["uuid"],
        "bus": card.get("bus_id"),
        "device": " / ".join(filter(None, (card.get("device_id"), card.get("subsystem_id")))),
        "vbios": card.get("vbios"),
        "driver": card.get("driver"),
        "compute": card.get("compute_capability"),
        "memory": f"{format_size(card.get('memory_total_bytes'))} reported, "
        f"{format_size(card.get('memory_proven_bytes'))} proven",
        "in use": f"{format_size(card.get('memory_used_bytes'))}, {format_size(card.get('memory_reserved_bytes'))} "
        f"reserved by jobs, {format_size(card.get('memory_foreign_bytes'))} used by others",
        **proof_fields(card, test),
        "link": link(card, best=True),
        "power": f"{figure(card.get('power_watts'), 'W')}, limit {figure(card.get('power_limit_watts'), 'W')}{between}",
        "heat": f"{figure(card.get('temperature_celsius'), '°C')}, fan {figure(card.get('fan_percent'), '%')}",
        "load": f"{figure(card.get('utilization_percent'), '%')}, clocks {clocks[0]}, memory {clocks[1]}",
        "jobs": ", ".join(str(job) for job in card.get("jobs") or ()),
        "models": ", ".join(card.get("models") or ()),
        "first seen": _moment(card.get("first_seen_at")),
        "last seen": _moment(card.get("last_seen_at")),
    }
    verdict, doing = state(card.get("verdict")), state(card.get("state"))
    head = f"card {card_index(card)}  {paint(clean(card_name(card)), 'bold')}  "
    head += f"{paint(verdict.text, verdict.colour)}  {paint(doing.text, doing.colour)}"
    facts = (f"  {key:<11} {clean(str(value))}" for key, value in fields.items() if value)
    return [head, *note_lines(card), *facts, *mend_lines(card)]


def _moment(text: str | None) -> str | None:
    return f"{local(text)} ({relative(text)})" if text else None


def proof_fields(card: dict[str, Any], test: dict[str, Any] | None) -> dict[str, str | None]:
    """The proof of a card for its page; ``test`` is the newest that gave a verdict, if the daemon keeps one."""
    to, back = card.get("host_to_device_bytes_per_second"), card.get("device_to_host_bytes_per_second")
    fields = {
        "tested": last_proof(card, long=True).text,
        "due": card.get("test_due"),
        "transfer": f"host to card {rate(to)}, card to host {rate(back)}" if to or back else None,
    }
    if test is None:
        return fields
    clocks = [test.get("sm_clock_min_mhz"), test.get("sm_clock_max_mhz")]
    hottest = test.get("temperature_max_celsius")
    fields |= {
        "result": test.get("text"),
        "sizes": ", ".join(
            f"{format_size(test.get(key))} {name}"
            for key, name in (
                ("memory_total_bytes", "reported"),
                ("memory_cuda_bytes", "CUDA has"),
                ("memory_tested_bytes", "tested"),
                ("memory_proven_bytes", "proven"),
            )
        ),
        "speeds": f"write {rate(test.get('write_bytes_per_second'))}, read {rate(test.get('read_bytes_per_second'))}, "
        f"copy {rate(test.get('copy_bytes_per_second'))}",
        "meanwhile": f"at most {hottest}°C, clocks {clocks[0]} to {clocks[1]} MHz" if hottest and all(clocks) else None,
        **findings(test),
        "passes": ", ".join(f"{one['name']} {one['errors'] or 'ok'}" for one in test.get("passes") or ()),
    }
    return fields


def mend_lines(card: dict[str, Any]) -> list[str]:
    """What to do with a card whose verdict is not simply good, wrapped for the terminal."""
    mend = MENDS.get(str(card.get("verdict")))
    if mend is None:
        return []
    text = wrap(f"{card['verdict']}: {mend}", (terminal_width() or 10_000) - 2, "")
    return ["  " + paint(line, "bold") for line in text]
