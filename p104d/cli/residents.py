"""Models on the cards, for people: the copies, the pins, what loading takes; and what a verb changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p104d.cli.jobs import on_cards
from p104d.cli.rig import fitted
from p104d.cli.text import Cell, Column, clean, local, paint, relative, state, table, timestamp
from p104d.core.errors import RefusedError
from p104d.core.units import format_duration, format_size

#: What a copy's line leaves to ``--json`` on a terminal too narrow, the least missed first.
_DROPPED = ("USER", "UNLOADS", "PINNED", "MEMORY", "USED")


def page(answer: Mapping[str, Any], indexes: Mapping[str, str]) -> list[str]:
    """All of ``p104ctl models``: the copies, models that are pinned and not loaded, what loading takes."""
    models = answer["models"]
    found = _table(models, indexes) if models else ["no models on the cards"]
    waiting = [pin for pin in answer["pins"] if not any(_is_of(one, pin) for one in models)]
    if waiting:
        found += ["", paint("PINNED, NOT LOADED", "bold"), *(f"{_file(pin)}{_by(pin)}" for pin in waiting)]
    if answer["load_times"]:
        found += ["", paint("LOADING TAKES", "bold"), *_load_times(answer["load_times"])]
    return found


def _table(models: Sequence[dict[str, Any]], indexes: Mapping[str, str]) -> list[str]:
    columns = [
        Column("#", right=True),
        Column("MODEL", give=True),
        Column("CARDS", give=True, least=5),
        Column("MEMORY", right=True),
        Column("STATE", give=True, least=14),
        Column("CONTEXT", right=True),
        Column("USED"),
        Column("UNLOADS"),
        Column("PINNED"),
        Column("USER", give=True, least=6),
    ]
    rows: list[list[Cell | str]] = [
        [
            str(one["id"]),
            one["name"],
            on_cards(one, indexes),
            format_size(one["memory_reserved_bytes"]),
            doing(one),
            f"{one['context']} x {one['parallel']}",
            relative(one["last_used_at"]),
            relative(one["unload_at"]),
            "pinned" if one["pinned"] else "",
            one["user"] or "",
        ]
        for one in models
    ]
    return fitted(columns, rows, _DROPPED, if_any=("UNLOADS", "PINNED", "USER"))


def doing(model: Mapping[str, Any]) -> Cell:
    """A copy's state, with its job or when it will be ready."""
    word = state(model["state"])
    ready = timestamp(model["ready_at"]) if model["state"] == "loading" else None
    if model["job"] is not None:
        return word._replace(text=f"{word.text}, job {model['job']}")
    left = "" if ready is None else relative(model["ready_at"])
    return word._replace(text=f"{word.text}, ready {left}") if left.startswith("in ") else word


def _is_of(model: Mapping[str, Any], pin: Mapping[str, Any]) -> bool:
    """Whether the copy is of the pinned file; by name for those who may not see paths."""
    paths = model["path"], pin["model"]
    return paths[0] == paths[1] if None not in paths else bool(model["name"] == pin["name"])


def _file(pin: Mapping[str, Any]) -> str:
    return clean(pin["model"] or pin["name"])


def _by(pin: Mapping[str, Any]) -> str:
    who = f"by {clean(pin['by'])}" if pin["by"] else "by the configuration"
    return f"  ({who}, {local(pin['at'])})" if pin["at"] else f"  ({who})"


def _load_times(times: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = [Column("MODEL", give=True), Column("TIME", right=True), Column("LOADS", right=True)]
    return table(columns, [[one["model"], format_duration(one["seconds"]), str(one["count"])] for one in times])


def told(act: str, answer: Mapping[str, Any], indexes: Mapping[str, str]) -> list[str]:
    """What ``act`` (pin, unpin, unload) changed, a line each."""
    copies = [f"{clean(one['name'])} #{one['id']} on {_place(one, indexes)}" for one in answer["models"]]
    if act == "unload":
        return [f"{copy}: {doing(one).text}" for copy, one in zip(copies, answer["models"], strict=True)]
    if act == "unpin":
        # A pin that is left is the configuration's, which no command lifts.
        left = [f"{_file(pin)}: still pinned{_by(pin)}" for pin in answer["pins"]]
        return left or [f"{copy}: unpinned" for copy in copies] or ["unpinned"]
    pinned = [f"{_file(pin)}: pinned" for pin in answer["pins"]]
    return [*pinned, *(f"{copy}: stays" for copy in copies)] if copies else [f"{line}, not loaded" for line in pinned]


def _place(model: Mapping[str, Any], indexes: Mapping[str, str]) -> str:
    return f"card{'s' * (len(model['cards']) > 1)} {on_cards(dict(model), indexes)}"


def refuse_busy(models: Sequence[Mapping[str, Any]]) -> None:
    """Raise RefusedError for a copy that stays because a job is on it."""
    for one in models:
        if one["state"] == "busy":
            raise RefusedError(
                f"{one['name']} #{one['id']} is busy with job {one['job']} and stays",
                mend=f"wait for the job, or p104ctl cancel {one['job']}",
            )
