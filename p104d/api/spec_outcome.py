"""Readers for what a job executes, what is read from its output, and who is told of its end."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from p104d.api.spec_values import Field, line_of, suggest, text_of
from p104d.core.job import ENDED, Notify, UserPattern
from p104d.engines.measure import PARSERS, RESERVED_NAMES, check_pattern

MAX_ARGV = 1024
MAX_MEASURES = 16
MAX_URL = 2048


def read_command(field: Field) -> tuple[str, ...]:
    """A string is for ``sh -c``, a list is executed as it is."""
    mend = f"write {field.path}: [python3, script.py], or a line for the shell"
    if not field.is_list():
        text = text_of(field, "a command", mend)
        if not text.strip():
            raise field.error("an empty command", mend)
        return ("/bin/sh", "-c", text)
    words = tuple(text_of(item, "an argument", "write text or a number") for item in field.items(mend, MAX_ARGV))
    if not words or not words[0].strip():
        raise field.error("an empty command", mend)
    return words


def read_measure(field: Field) -> tuple[str | UserPattern, ...]:
    """Names of parsers that are there, and patterns of the user's; no name twice."""
    found: list[str | UserPattern] = []
    names: set[str] = set()
    for item in field.items(f"write {field.path}: [tqdm]", MAX_MEASURES):
        measure = _pattern(item) if item.kind() is None else _parser_name(item)
        name = measure if isinstance(measure, str) else measure.name
        if name in names:
            raise item.error(f'"{name}" is there twice', "keep one of them")
        names.add(name)
        found.append(measure)
    return tuple(found)


def _parser_name(item: Field) -> str:
    mend = f"write {', '.join(PARSERS)}, or {{name: score, unit: points, pattern: 'score=(?P<value>[0-9.]+)'}}"
    text = text_of(item, "a measure", mend)
    if text not in PARSERS:
        raise item.error(f"{item.shown()} is not a measure", suggest(text, PARSERS, mend))
    return text


def _pattern(item: Field) -> UserPattern:
    mend = "write {name: score, unit: points, pattern: 'score=(?P<value>[0-9.]+)'}"
    fields = known_entries(item, ("name", "unit", "pattern"), mend)
    missing = next((key for key in ("name", "unit", "pattern") if key not in fields), None)
    if missing:
        raise item.error(f"{missing} is missing", mend)
    name = text_of(fields["name"], "a name", mend)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name, re.ASCII):
        raise fields["name"].error(f"{fields['name'].shown()} is not a measurement's name", "use a-z, 0-9 and _")
    if name in RESERVED_NAMES:
        taken = f"{fields['name'].shown()} is a name of p104d's own measurements"
        raise fields["name"].error(taken, "choose another name")
    pattern = text_of(fields["pattern"], "a pattern", mend)
    try:
        check_pattern(pattern)
    except ValueError as error:
        problem, _, better = str(error).partition("; ")
        raise fields["pattern"].error(problem, better or mend) from None
    return UserPattern(name=name, unit=line_of(fields["unit"], "a unit", mend, 32), pattern=pattern)


def read_notify(field: Field) -> Notify:
    """Whom to tell of which ends: a command, a webhook, or both."""
    mend = "write notify: {on: [failed], command: [notify-send, p104d]}"
    fields = known_entries(field, ("on", "command", "webhook"), mend)
    if "on" not in fields:
        raise field.error("on is missing", mend)
    if "command" not in fields and "webhook" not in fields:
        raise field.error("neither command nor webhook", mend)
    on = tuple(dict.fromkeys(_state(item) for item in fields["on"].items_or_one("write on: [failed]", len(ENDED) * 2)))
    if not on:
        raise fields["on"].error("an empty list tells nobody", "write on: [failed]")
    return Notify(
        on=on,
        command=read_command(fields["command"]) if "command" in fields else (),
        webhook=_webhook(fields["webhook"]) if "webhook" in fields else None,
    )


def _state(item: Field) -> str:
    states = sorted(ENDED)
    mend = f"write one of {', '.join(states)}"
    text = text_of(item, "an end", mend)
    if text not in states:
        raise item.error(f"{item.shown()} is not how a job ends", suggest(text, states, mend))
    return text


def _webhook(field: Field) -> str:
    mend = "write webhook: https://host/path"
    text = text_of(field, "a URL", mend)
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    if not good or len(text) > MAX_URL or not re.fullmatch(r"[!-~]+", text):
        raise field.wrong("an http or https URL", mend)
    return text


def known_entries(field: Field, keys: tuple[str, ...], mend: str) -> dict[str, Field]:
    """The entries of a mapping that may have only ``keys``."""
    found: dict[str, Field] = {}
    for key, item in field.entries(mend, 64):
        if key not in keys:
            raise item.error("unknown key", suggest(key, keys, f"the keys are {', '.join(keys)}"))
        found[key] = item
    return found
