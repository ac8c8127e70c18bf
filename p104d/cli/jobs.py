"""Jobs for people: tables, the page of one job, the reasons of a waiting one."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from p104d.api.client import Client
from p104d.cli.rig import card_index, card_name, percent_text
from p104d.cli.text import Cell, Column, clean, local, paint, relative, span, state, table, timestamp
from p104d.core.errors import P104Error
from p104d.core.units import format_duration, format_size


def card_indexes(asked: Client, jobs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """UUID -> index as people know it. Not worth failing for: without an answer, UUIDs are shown."""
    if not any(job.get("cards") for job in jobs):
        return {}
    try:
        return indexes_of(asked.get("/v1/cards")["cards"])
    except (P104Error, KeyError):
        return {}


def indexes_of(cards: Sequence[dict[str, Any]]) -> dict[str, str]:
    """UUID -> index of ``cards``."""
    return {card["uuid"]: str(card["index"]) for card in cards if card.get("index") is not None}


def on_cards(job: dict[str, Any], indexes: Mapping[str, str]) -> str:
    """The cards of a job as ``0,3``; UUIDs cut short where a card is no longer known."""
    return ",".join(indexes.get(uuid, uuid[:12]) for uuid in job.get("cards") or ()) or "-"


def job_table(jobs: Sequence[dict[str, Any]], indexes: Mapping[str, str]) -> list[str]:
    """One line a job. TOOK is how long it ran or runs; WHY is why it waits or how it ended."""
    columns = [
        Column("ID", right=True),
        Column("NAME", give=True, least=6),
        Column("USER"),
        Column("STATE"),
        Column("PRIO", right=True),
        Column("CARDS", give=True, least=5),
        Column("SUBMITTED"),
        Column("TOOK", right=True),
        Column("WHY", give=True, least=10),
    ]
    shown = [column for column in columns if column.heading != "PRIO" or any(job.get("priority") for job in jobs)]
    rows = []
    for job in jobs:
        fields: dict[str, Cell | str] = {
            "ID": str(job["id"]),
            "NAME": job["name"],
            "USER": job.get("user") or "-",
            "STATE": state(job["state"]),
            "PRIO": str(job.get("priority") or 0),
            "CARDS": on_cards(job, indexes),
            "SUBMITTED": local(job.get("submitted_at")),
            "TOOK": span(job.get("started_at"), job.get("ended_at")),
            "WHY": job.get("waiting_because") or job.get("reason") or "",
        }
        rows.append([fields[column.heading] for column in shown])
    return table(shown, rows)


def speed(job: dict[str, Any]) -> str:
    """The measurement worth a glance: the one that is a rate, else the last."""
    found = job.get("measurements") or []
    rates = [one for one in found if "/s" in str(one.get("unit"))] or found
    return f"{rates[-1]['value']:.4g} {rates[-1]['unit']}" if rates else ""


def done(job: dict[str, Any]) -> str:
    """``62 %`` of a running job, where it tells."""
    percent = job.get("progress_percent")
    return "" if percent is None else percent_text(percent)


def left(job: dict[str, Any]) -> str:
    """``1m20s`` until a running job should end; nothing where nobody can tell, or it should have ended by now."""
    end = timestamp(job.get("estimated_end_at"))
    return format_duration(end - time.time()) if end is not None and end > time.time() else ""


def _progress(job: dict[str, Any]) -> str | None:
    """``62 %, done about 03:12:10 (in 1m20s)``."""
    rest = left(job)
    about = f"done about {local(job['estimated_end_at'])} (in {rest})" if rest else ""
    return ", ".join(part for part in (done(job), about) if part) or None


def job_page(job: dict[str, Any], indexes: Mapping[str, str]) -> list[str]:
    """All that is known of one job, in words."""
    word = state(job["state"])
    why = job.get("waiting_because") or job.get("reason")
    head = f"job {job['id']}  {paint(clean(job['name']), 'bold')}  {paint(word.text, word.colour)}"
    fields = {
        "user": job.get("user"),
        "priority": job.get("priority"),
        "labels": _pairs(job.get("labels")),
        "cards": on_cards(job, indexes) if job.get("cards") else None,
        "submitted": _moment(job.get("submitted_at")),
        "started": _moment(job.get("started_at")),
        "ended": _moment(job.get("ended_at")),
        "took": span(job.get("started_at"), job.get("ended_at")) if job.get("started_at") else None,
        "exit code": job.get("exit_code"),
        "progress": _progress(job),
    }
    page = [head + (f"  {clean(why)}" if why else ""), *_fields(fields)]
    for one in job.get("measurements") or ():
        value = format_size(int(one["value"])) if one["unit"] == "B" else f"{one['value']:.6g} {clean(one['unit'])}"
        page.append(f"  {'measured':<12} {clean(one['name'])} {value}")
    page += _spec(job.get("spec"))
    return page + _attempts(job.get("attempts") or [], indexes)


def _moment(text: str | None) -> str | None:
    return f"{local(text)} ({relative(text)})" if text else None


def _pairs(mapping: Mapping[str, Any] | None) -> str | None:
    return " ".join(f"{key}={value}" for key, value in mapping.items()) if mapping else None


def _fields(fields: Mapping[str, object]) -> list[str]:
    return [f"  {key:<12} {clean(str(value))}" for key, value in fields.items() if value not in (None, "", [], {}, ())]


#: What an engine's job has instead of a command.
_ENGINE = ("engine", "model", "context", "kv_cache", "parallel", "input", "output")


def _spec(spec: dict[str, Any] | None) -> list[str]:
    if not spec:
        return []
    import shlex

    shown = dict(spec)
    command = shown.pop("command", None)
    fields: dict[str, object] = {"command": shlex.join(command) if isinstance(command, list) else command}
    fields |= {key.replace("_", " "): shown.pop(key) for key in _ENGINE if key in shown}
    for key, name, words in (
        ("vram_bytes", "vram", format_size),
        ("ram_bytes", "ram", format_size),
        ("time_limit_seconds", "time limit", format_duration),
    ):
        value = shown.pop(key, None)
        fields[name] = words(value) if value else None
    for key in ("name", "priority", "labels", "measure"):
        shown.pop(key, None)
    fields |= {key.replace("_", " "): _word(value) for key, value in shown.items() if value is not False}
    return _fields(fields)


def _word(value: object) -> object:
    if isinstance(value, dict):
        return " ".join(f"{key}={_word(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(str(_word(one)) for one in value)
    return "yes" if value is True else value


def _attempts(attempts: Sequence[dict[str, Any]], indexes: Mapping[str, str]) -> list[str]:
    if not attempts:
        return []
    columns = [
        Column("ATTEMPT", right=True),
        Column("OUTCOME"),
        Column("EXIT", right=True),
        Column("CARDS"),
        Column("STARTED"),
        Column("TOOK", right=True),
        Column("REASON", give=True),
    ]
    rows = [
        [
            str(one["number"]),
            state(one.get("outcome") or "running"),
            _exit(one),
            on_cards(one, indexes),
            local(one.get("started_at")),
            span(one.get("started_at"), one.get("ended_at")),
            one.get("reason") or "",
        ]
        for one in attempts
    ]
    return table(columns, rows, indent="  ")


def _exit(attempt: dict[str, Any]) -> str:
    if attempt.get("signal"):
        return f"signal {attempt['signal']}"
    return "-" if attempt.get("exit_code") is None else str(attempt["exit_code"])


def explain_page(job: dict[str, Any], cards: Sequence[dict[str, Any]]) -> list[str]:
    """Why a job waits: the sentence, then each card's own answer."""
    known = {card["uuid"]: card for card in cards}
    because = job.get("waiting_because")
    head = f"job {job['id']}: {clean(because)}" if because else f"job {job['id']} does not wait"
    if not job.get("cards"):
        return [head]
    columns = [Column("#", right=True), Column("NAME"), Column("ANSWER", give=True)]
    rows: list[list[Cell | str]] = []
    for one in job["cards"]:
        card = known.get(one["uuid"], {"uuid": one["uuid"], "index": "?", "name": one["uuid"][:12]})
        refusal = one.get("refusal")
        rows.append([card_index(card), card_name(card), refusal or Cell("would take it", "green")])
    return [head, *table(columns, rows, indent="  ")]
