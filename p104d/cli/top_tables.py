"""The tables of the live screen, as lines: a heading, then one line a card or job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p104d.cli.jobs import done, indexes_of
from p104d.cli.rig import card_index, card_name, figure, fitted, share, that_fit, without
from p104d.cli.screen import RUNNING, doing, running_row
from p104d.cli.terminal import terminal_width, unicode_output
from p104d.cli.text import Cell, Column, local, span, state, table
from p104d.cli.top_trace import Trace

#: What goes where the terminal is too narrow, the least missed first.
_DROPPED_CARDS = ("JOBS", "POWER")
_DROPPED_RUNNING = ("USER", "STATE", "ENDS", "LEFT", "SPEED")
_DROPPED_WAITING = ("USER", "WAITED")
#: What a running job need not tell.
_OPTIONAL = ("SPEED", "DONE", "LEFT", "ENDS")
#: Between a cold card in winter and the heat at which a P104-100 slows down.
_COOL_CELSIUS, _HOT_CELSIUS = 25.0, 90.0
_TOO_WARM_CELSIUS = 83
_BAD = ("aliased", "faulty", "failed")


def card_lines(cards: Sequence[dict[str, Any]], trace: Trace) -> list[str]:
    """The cards with their last minutes, and the models on them."""
    room = terminal_width() or 80
    blocks = 16 if room >= 140 else 10 if room >= 100 else 6
    # One name for all of them, as in most rigs, is not worth a column of a small screen.
    alike = len({card_name(card) for card in cards}) == 1
    columns = [
        Column("#", right=True),
        Column("CARD", give=True),
        Column("STATE"),
        Column("UTIL"),
        Column("TEMP"),
        Column("MEMORY"),
        Column("POWER", right=True),
        Column("JOBS", give=True, least=5),
        Column("MODELS", give=True, least=20 if room < 100 else 40),
    ]
    rows = [_card(card, trace, blocks) for card in cards]
    kept = that_fit(columns, rows, (*_DROPPED_CARDS, "CARD") if alike else _DROPPED_CARDS)
    gone = [column.heading for column in columns if column not in kept]
    return table(*without(gone, columns, rows))


def _card(card: dict[str, Any], trace: Trace, blocks: int) -> list[Cell | str]:
    uuid, total, used = card["uuid"], card.get("memory_total_bytes"), card.get("memory_used_bytes")
    heat = card.get("temperature_celsius")
    degrees = "°C" if unicode_output() else "C"
    verdict = card.get("verdict")
    load = trace.spark(uuid, "utilization_percent", blocks, 0, 100)
    warmth = trace.spark(uuid, "temperature_celsius", blocks, _COOL_CELSIUS, _HOT_CELSIUS)
    memory = trace.spark(uuid, "memory_used_bytes", blocks, 0, total or 1)
    return [
        card_index(card),
        card_name(card),
        state(verdict) if verdict in _BAD and card.get("state") == "ready" else doing(card, False),
        f"{load} {figure(card.get('utilization_percent'), '%'):>4}",
        Cell(f"{warmth} {figure(heat, degrees):>4}", "red" if (heat or 0) >= _TOO_WARM_CELSIUS else None),
        f"{memory} {share(used, total) if used is not None else '-':>11}",
        figure(card.get("power_watts"), "W"),
        " ".join(str(job) for job in card.get("jobs") or ()) or "-",
        Cell(", ".join(model_name(model) for model in card.get("models") or ()) or "-", "cyan"),
    ]


def model_name(model: str) -> str:
    """A model's name without its folder and ``.gguf``."""
    return model.rpartition("/")[2].removesuffix(".gguf")


def running_lines(jobs: Sequence[dict[str, Any]], cards: Sequence[dict[str, Any]], *, users: bool) -> list[str]:
    """The jobs that run: how fast, how far, until when; and (``users``) whose they are."""
    indexes, wide = indexes_of(cards), (terminal_width() or 80) >= 100
    columns = [
        *RUNNING,
        Column("SPEED", right=True),
        Column("DONE", right=True),
        Column("LEFT", right=True),
        Column("ENDS"),
    ]
    rows = [_running(job, indexes, wide) for job in jobs]
    return fitted(*without(_users(users), columns, rows), _DROPPED_RUNNING, if_any=_OPTIONAL)


def _running(job: dict[str, Any], indexes: Mapping[str, str], wide: bool) -> list[Cell | str]:
    *fields, far, rest = running_row(job, indexes)
    return [*fields, _progress(job) if wide else far, rest, local(job.get("estimated_end_at")) if rest else ""]


def _users(shown: bool) -> list[str]:
    return [] if shown else ["USER"]


def _progress(job: dict[str, Any]) -> str:
    """``██████░░░░ 62 %``."""
    percent = job.get("progress_percent")
    if percent is None:
        return ""
    full, free = "█░" if unicode_output() else "#."
    filled = min(10, max(0, int(percent / 10)))
    return f"{full * filled}{free * (10 - filled)} {done(job):>4}"


def waiting_lines(jobs: Sequence[dict[str, Any]], *, users: bool) -> list[str]:
    """The jobs that wait, the next to start first, and why; and (``users``) whose they are."""
    columns = [
        Column("JOB", right=True),
        Column("NAME", give=True),
        Column("USER", give=True, least=6),
        Column("STATE"),
        Column("PRIO", right=True),
        Column("WAITED", right=True),
        Column("WHY", give=True, least=44),
    ]
    rows: list[list[Cell | str]] = [
        [
            str(job["id"]),
            job["name"],
            job.get("user") or "-",
            state(job["state"]),
            str(job.get("priority") or 0),
            span(job.get("submitted_at"), None),
            job.get("waiting_because") or job.get("reason") or "",
        ]
        for job in jobs
    ]
    plain = [] if any(job.get("priority") for job in jobs) else ["PRIO"]
    return fitted(*without([*plain, *_users(users)], columns, rows), _DROPPED_WAITING)


def heights(room: int, wants: Sequence[int], least: int) -> list[int]:
    """Lines for each part of a screen: all that it wants where there is room, else as even a share as can be."""
    given = [min(want, least) for want in wants]
    left = room - sum(given)
    while left > 0:
        short = [place for place, want in enumerate(wants) if given[place] < want]
        if not short:
            break
        place = min(short, key=lambda at: given[at])
        given[place] += 1
        left -= 1
    return given
