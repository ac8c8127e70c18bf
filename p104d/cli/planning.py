"""The forecast for people: the end of the queue in a line, a row a card over time, then the jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p104d.cli.jobs import on_cards
from p104d.cli.rig import fitted
from p104d.cli.terminal import terminal_width
from p104d.cli.text import Cell, Column, clean, local, paint, state, wrap
from p104d.cli.timeline import timeline
from p104d.core.units import format_duration

#: What a job's line leaves to ``--json`` on a terminal too narrow, the least missed first.
_DROPPED = ("STATE", "CARDS", "MODEL", "STARTS")


def page(answer: Mapping[str, Any], indexes: Mapping[str, str], most: int) -> list[str]:
    """All of ``p104ctl plan``; at most ``most`` jobs are listed, all are drawn."""
    jobs = answer["jobs"]
    room = terminal_width() or 120
    found = [paint(line, "bold") for line in wrap(_headline(answer), room, "  ")]
    drawn = timeline(answer, indexes)
    if drawn:
        found += ["", *drawn]
    if jobs:
        found += ["", *_table(jobs[:most], indexes)]
    more = len(jobs[most:]) + answer["left_out"]
    if more:
        found.append(f"and {more} more (--limit lists them)")
    if any(job["guessed"] for job in jobs[:most]):
        found.append("~: how long it runs is a guess")
    for one in answer["never"]:
        found += [paint(line, "red") for line in wrap(_never(one), room, "  ")]
    for note in answer["notes"]:
        found += [paint(line, "yellow") for line in wrap(f"! {note}", room, "  ")]
    return found


def _headline(answer: Mapping[str, Any]) -> str:
    whose = f"on {_count(answer['cards'], 'card')}"
    if answer["hypothetical"]:
        whose = f"as if there {'was' if answer['cards'] == 1 else 'were'} {_count(answer['cards'], 'card')}"
    if not answer["jobs"]:
        return "nothing that waits will start" if answer["never"] else "nothing runs, nothing waits"
    if answer["done_at"] is None:
        return f"when the queue will be done cannot be told, {whose}"
    seconds = answer["makespan_seconds"]
    about = f" in about {format_duration(seconds)}" if seconds is not None else ""
    return f"done{about}, at {_clock(answer['done_at'], seconds)}; {_count(answer['loads'], 'load')}, {whose}"


def _clock(moment: str, seconds: float | None) -> str:
    """The local time, without seconds where these would say more than is known."""
    text = local(moment)
    return text[:5] if text[2:3] == ":" and (seconds or 0.0) >= 600 else text


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _never(one: Mapping[str, Any]) -> str:
    return f"job {one['id']} ({one['name']}) does not start: {one['reason']}"


def _table(jobs: Sequence[dict[str, Any]], indexes: Mapping[str, str]) -> list[str]:
    columns = [
        Column("ID", right=True),
        Column("NAME", give=True, least=6),
        Column("MODEL", give=True, least=10),
        Column("STATE"),
        Column("CARDS", give=True, least=5),
        Column("STARTS", right=True),
        Column("ENDS", right=True),
        Column("WAITS FOR", give=True, least=20),
    ]
    rows: list[list[Cell | str]] = [
        [
            str(job["id"]),
            job["name"],
            job["model"] or "-",
            state(job["state"]),
            _cards(job, indexes),
            local(job["starts_at"]),
            ("~" if job["guessed"] and job["ends_at"] else "") + local(job["ends_at"]),
            clean(job["waits_for"] or ""),
        ]
        for job in jobs
    ]
    return fitted(columns, rows, _DROPPED, if_any=("MODEL", "CARDS", "WAITS FOR"))


def _cards(job: dict[str, Any], indexes: Mapping[str, str]) -> str:
    """Where it runs; of a rig that is imagined the numbers of its places."""
    places = job.get("places")
    return ",".join(map(str, places)) if places and not job["cards"] else on_cards(job, indexes)
