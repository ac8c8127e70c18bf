"""``p104ctl status`` for people: the whole rig on one screen, what is wrong in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p104d.cli.jobs import done, indexes_of, left, on_cards, speed
from p104d.cli.rig import (
    card_index,
    card_name,
    figure,
    fitted,
    last_proof,
    link,
    model_names,
    note_lines,
    percent_text,
    share,
    that_fit,
    without,
)
from p104d.cli.terminal import terminal_width, unicode_output
from p104d.cli.text import Cell, Column, clean, paint, span, state, table, wrap
from p104d.core.units import GIB, format_size

#: States by what a person asks: what runs, what waits, what is over.
GOING = ("running", "starting", "stopping")
WAITING = ("queued", "held")
ENDED = ("succeeded", "failed", "cancelled", "lost")
#: What a card's line leaves to ``p104ctl cards`` on a terminal too narrow, the least missed first.
_DROPPED = ("PROVEN", "TESTED", "LINK", "UTIL", "MODEL")
#: And a running job's to ``p104ctl show``.
_DROPPED_RUNNING = ("USER", "STATE", "LEFT", "SPEED")


def screen(status: dict[str, Any]) -> list[str]:
    """The lines of the status screen."""
    daemon, cards = status["daemon"], status["cards"]
    page = [head(daemon), *banners(daemon)]
    page += ["", *_cards(cards), "", _queue(status["queue"])]
    if status["running"]:
        page += ["", *_running(status["running"], cards)]
    if status["warnings"]:
        page += ["", *warning_lines(status["warnings"])]
    return page


def head(daemon: dict[str, Any]) -> str:
    """Who answers: version, whose daemon it is, process id, for how long it has run."""
    dot = " · " if unicode_output() else " - "
    whose = "your own daemon" if daemon.get("user_mode") else "the system's daemon"
    parts = [f"p104d {daemon['version']}", whose, f"pid {daemon['pid']}", f"up {span(daemon.get('started_at'), None)}"]
    return dot.join([paint(clean(parts[0]), "bold"), *parts[1:]])


def banners(daemon: dict[str, Any]) -> list[str]:
    """What has to be said loudly: that the rig is simulated, that it is paused."""
    found = []
    if daemon.get("mode") == "simulated":
        found.append(banner(" SIMULATED RIG: these cards are made up, no real card is used ", "magenta"))
    if daemon.get("paused"):
        found.append(banner(" PAUSED: no job starts until p104ctl resume ", "yellow"))
    return found


def banner(text: str, colour: str) -> str:
    """A line nobody overlooks, without colour too."""
    marks = f"***{text}***"
    return paint(paint(marks, "loud"), colour)


def _cards(cards: Sequence[dict[str, Any]]) -> list[str]:
    if not cards:
        return ["no cards (p104ctl doctor says why)"]
    columns = [
        Column("#", right=True),
        Column("CARD", give=True),
        Column("VERDICT"),
        Column("STATE"),
        Column("MEMORY"),
        Column("PROVEN", right=True),
        Column("TEMP", right=True),
        Column("POWER", right=True),
        Column("UTIL", right=True),
        Column("LINK"),
        Column("TESTED", give=True, least=8),
        Column("MODEL", give=True, least=9),
        Column("JOBS", give=True, least=4),
    ]
    none = () if any(card.get("models") for card in cards) else ("MODEL",)
    # Where not all fits, bars and words are shortened; where that is not enough, columns go.
    for wide in (True, False):
        shown, rows = without(none, columns, [_card(card, wide) for card in cards])
        kept = that_fit(shown, rows, _DROPPED)
        if len(kept) == len(shown):
            break
    page = table(*without([column.heading for column in shown if column not in kept], shown, rows))
    lines = [page[0]]
    for line, card in zip(page[1:], cards, strict=True):
        lines += [line, *note_lines(card)]
    return lines


def _card(card: dict[str, Any], wide: bool) -> list[Cell | str]:
    heat = card.get("temperature_celsius")
    limit = card.get("power_limit_watts")
    power = figure(card.get("power_watts"), "W")
    return [
        card_index(card),
        card_name(card),
        state(card.get("verdict")),
        doing(card, wide),
        memory(card, 16 if wide else 6, wide),
        share(card.get("memory_proven_bytes"), card.get("memory_total_bytes")),
        Cell(figure(heat, "°C" if unicode_output() else "C"), "red" if heat is not None and heat >= 83 else None),
        f"{power} / {figure(limit, 'W')}" if wide and limit is not None else power,
        figure(card.get("utilization_percent"), "%"),
        link(card),
        last_proof(card),
        model_names(card),
        " ".join(str(job) for job in card.get("jobs") or ()) or "-",
    ]


def doing(card: dict[str, Any], wide: bool) -> Cell:
    """The card's state; of one being tested how far the test is."""
    percent, now = card.get("verified_percent"), state(card.get("state"))
    if percent is None or card.get("state") != "verifying":
        return now
    return now._replace(text=f"{now.text if wide else 'test'} {percent_text(percent).replace(' ', '')}")


def memory(card: dict[str, Any], blocks: int, wide: bool) -> Cell:
    """``███▒▒░░░ 2.0+1.5/8.0 GiB``: used, reserved beyond that, of all there is."""
    total, used = card.get("memory_total_bytes"), card.get("memory_used_bytes")
    reserved = card.get("memory_reserved_bytes") or 0
    if not total:
        return Cell("-")
    full, kept, free = "█▒░" if unicode_output() else "#+."
    filled = _blocks(used or 0, total, blocks)
    promised = max(0, _blocks(max(reserved, used or 0), total, blocks) - filled)
    bar = full * filled + kept * promised + free * (blocks - filled - promised)
    said = f"{(used or 0) / GIB:.1f}" if used is not None else "?"
    text = f"{bar} {said}/{format_size(total)}"
    return Cell(f"{text}, {format_size(reserved)} reserved" if wide and reserved else text)


def _blocks(part: int, total: int, blocks: int) -> int:
    """How many blocks stand for ``part``; anything at all shows as one once it is 2 % of the whole."""
    share = min(1.0, part / total)
    return max(round(share * blocks), 1 if share >= 0.02 else 0)


def _queue(queue: dict[str, int]) -> str:
    said = paint("QUEUE", "bold") + "  " + (counts(queue, (*GOING, *WAITING)) or "nothing runs, nothing waits")
    over = counts(queue, ENDED)
    return said + (f"   ended: {over}" if over else "")


def counts(queue: dict[str, int], words: Sequence[str]) -> str:
    """``2 running · 7 queued``: how many jobs are in these states, where there are any."""
    dot = " · " if unicode_output() else ", "
    return dot.join(f"{queue[word]} {word}" for word in words if queue.get(word))


#: The first columns of a table of jobs that run; what they do follows.
RUNNING = (
    Column("JOB", right=True),
    Column("NAME", give=True),
    Column("USER", give=True, least=6),
    Column("STATE"),
    Column("CARDS", give=True, least=5),
    Column("TIME", right=True),
)


def running_row(job: dict[str, Any], indexes: Mapping[str, str]) -> list[Cell | str]:
    """The fields of RUNNING, then how fast it is, how far, and how long it goes on."""
    return [
        str(job["id"]),
        job["name"],
        job.get("user") or "-",
        state(job["state"]),
        on_cards(job, indexes),
        span(job.get("started_at"), job.get("ended_at")),
        speed(job),
        done(job),
        left(job),
    ]


def _running(jobs: Sequence[dict[str, Any]], cards: Sequence[dict[str, Any]]) -> list[str]:
    indexes = indexes_of(cards)
    columns = [*RUNNING, Column("SPEED", give=True), Column("DONE", right=True), Column("LEFT", right=True)]
    rows = [running_row(job, indexes) for job in jobs]
    return fitted(columns, rows, _DROPPED_RUNNING, if_any=("SPEED", "DONE", "LEFT"))


def warning_lines(warnings: Sequence[str]) -> list[str]:
    """Warnings, marked and wrapped."""
    room = terminal_width() or 10_000
    lines = [line for warning in warnings for line in wrap("! " + warning, room, "  ")]
    return [paint(line, "yellow") for line in lines]
