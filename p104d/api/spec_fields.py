"""The keys of job.yaml: for each the reader that checks it and turns it into base units.

A reader takes the field and what the submission brought along, and returns the value JobSpec keeps. What concerns
several keys at once is in ``spec``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from p104d.api.spec_cron import parse_cron
from p104d.api.spec_engine import MAX_CONTEXT, MAX_PARALLEL, read_engine, read_file, read_kv_cache
from p104d.api.spec_matrix import read_matrix
from p104d.api.spec_outcome import read_command, read_measure, read_notify
from p104d.api.spec_values import (
    MAX_PATH_BYTES,
    Field,
    boolean,
    duration,
    line_of,
    line_problem,
    path_of,
    size,
    string_problem,
    text_of,
    whole_number,
)
from p104d.api.yaml_nodes import Kind, printable
from p104d.core.errors import RefusedError
from p104d.core.matrix import absolute
from p104d.core.units import MAX_DURATION_SECONDS

MAX_ENV = 256
MAX_ENV_NAME_BYTES = 256
MAX_CARDS = 64
MAX_AFTER = 1024
MAX_LABELS = 64
MAX_NAME = 128
MAX_LABEL = 256
#: Larger than any id SQLite gives out.
MAX_ID = 2**63 - 1

_ENV_SET_BY_US = frozenset({"CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"})
_SURROUNDINGS = re.compile(r"[^\w.+:@=() -]+")


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a submission brings along besides its files.

    ``cwd`` is the absolute folder p104ctl was called in; ``keep_env`` the caller's variables to keep; ``set`` the
    --set options as given (``cards=2``); ``resolve_card`` turns an index, UUID prefix or name into a UUID or canonical
    name, or raises ValueError whose text says why not (``problem`` or ``problem; mend``); ``now`` is Unix seconds;
    ``timezone`` names the zone of times written without an offset, None: the host's.
    """

    cwd: str
    keep_env: dict[str, str] = {}
    set: tuple[str, ...] = ()
    resolve_card: Callable[[str], str] = str
    now: float = 0.0
    timezone: str | None = None


def read_only(field: Field, context: Context) -> tuple[str, ...]:
    """UUIDs and card names, each once, in the order written."""
    mend = f'write {field.path}: ["0", GPU-3f, P104-100]'
    found: dict[str, None] = {}
    for item in field.items_or_one(mend, MAX_CARDS):
        text = text_of(item, "a card", "write an index, a UUID or its beginning, or a name")
        if not text.strip() or not text.isprintable():
            raise item.wrong("a card", "write an index, a UUID or its beginning, or a name")
        try:
            found[context.resolve_card(text)] = None
        except ValueError as error:
            problem, _, better = str(error).partition("; ")
            raise item.error(problem, better or "p104ctl cards lists the cards") from None
    if not found:
        raise field.error("an empty list allows no card", f"{mend}, or leave the key out")
    return tuple(found)


def read_after(field: Field) -> tuple[int | str, ...]:
    """Ids as numbers, names of this submission as text; each once."""
    mend = f"write {field.path}: [12, posters]"
    found: dict[int | str, None] = {}
    for item in field.items_or_one(mend, MAX_AFTER):
        if item.kind() is Kind.INT:
            found[whole_number(item, 1, MAX_ID, 12)] = None
        else:
            found[text_of(item, "a job's id or name", mend)] = None
    return tuple(found)


def read_name(field: Field) -> str:
    """One printable line without a slash."""
    return line_of(field, "a name", f"write {field.path}: posters", MAX_NAME, "/")


def read_not_before(field: Field, context: Context) -> float:
    """Unix seconds of an ISO 8601 time; the context's zone where it has no offset."""
    mend = f"write {field.path}: 2030-12-01T03:00:00+01:00"
    text = text_of(field, "a time", mend)
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            time = time.replace(tzinfo=ZoneInfo(context.timezone)) if context.timezone else time.astimezone()
        seconds = time.astimezone(UTC).timestamp()
    except (ValueError, OverflowError, OSError):
        raise field.wrong("an ISO 8601 time", mend) from None
    if not 0 <= seconds <= context.now + MAX_DURATION_SECONDS:
        raise field.error(f"{field.shown()} is out of range", "write a time within the next ten years")
    return seconds


def read_cron(field: Field) -> str:
    """A cron expression that can be read; kept as written."""
    text = text_of(field, "a cron expression", f'write {field.path}: "0 3 * * *"')
    try:
        parse_cron(text)
    except ValueError as error:
        problem, _, mend = str(error).partition("; ")
        raise field.error(f"{field.shown()}: {problem}", mend) from None
    return " ".join(text.split())


def read_timezone(field: Field) -> str:
    """The name of a zone that this host knows."""
    mend = f"write {field.path}: Europe/Berlin"
    text = text_of(field, "a time zone", mend)
    try:
        ZoneInfo(text[:MAX_LABEL])
    except (ValueError, OSError, KeyError):
        raise field.error(f"{field.shown()} is not a time zone known here", mend) from None
    return text


def read_env(field: Field) -> dict[str, str]:
    """Variables and their values, without those that placement depends on."""
    env: dict[str, str] = {}
    for name, item in field.entries(f'write {field.path}: {{STEPS: "30"}}', MAX_ENV):
        problem = env_name_problem(name)
        if problem:
            raise item.error(problem, "leave it out")
        env[name] = text_of(item, "text", 'write text or a number, "" for empty', booleans=True)
    return env


def keep_env(context: Context) -> dict[str, str]:
    """The caller's variables, checked as those of a document are."""
    for name, value in context.keep_env.items():
        problem = env_name_problem(name) or string_problem(value)
        if problem is None and not _encodable(value):
            problem = "not UTF-8 text"
        if problem:
            raise RefusedError(f"--keep-env {printable(name, 60)}: {problem}", mend="leave it out")
    return dict(context.keep_env)


def env_name_problem(name: str) -> str | None:
    """Why a variable of this name is not taken; None: it is."""
    if not name or "=" in name or "\0" in name or not _encodable(name):
        return "not a name for a variable"
    if len(name.encode()) > MAX_ENV_NAME_BYTES:
        return f"a name longer than {MAX_ENV_NAME_BYTES} bytes"
    if name.startswith("P104_") or name in _ENV_SET_BY_US:
        return "set by p104d itself"
    return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_cwd(field: Field, context: Context) -> str:
    """An absolute folder; a relative one starts at the folder p104ctl was called in."""
    mend = f"write {field.path}: /home/me/work, or a path from the folder p104ctl is called in"
    text = path_of(field, "a folder", mend)
    if len(os.path.join(context.cwd, text).encode()) > MAX_PATH_BYTES:
        raise field.error("a path longer than 4096 bytes", "shorten it")
    return absolute(context.cwd, text)


def read_labels(field: Field) -> dict[str, str]:
    """Keys and values of one line each."""
    labels: dict[str, str] = {}
    for key, item in field.entries(f"write {field.path}: {{project: posters}}", MAX_LABELS):
        problem = line_problem(key, MAX_NAME, "=,")
        if problem:
            raise item.error(f"the key {problem}", "write a word")
        labels[key] = line_of(item, "text", "write a word or quoted text", MAX_LABEL)
    return labels


def default_name(file: str, command: tuple[str, ...], model: str | None, command_line: str) -> str:
    """What a job without a name is called: its file's stem, ``stdin``, or of a command line the first word or the
    model's stem."""
    if file == "-":
        return "stdin"
    if file == command_line and model is None:
        shell = len(command) == 3 and command[:2] == ("/bin/sh", "-c")
        words = command[2].split() if shell else command
        stem = os.path.basename(words[0]) if words else ""
    else:
        stem = os.path.splitext(os.path.basename(model if file == command_line and model else file))[0]
    stem = _SURROUNDINGS.sub("_", stem).strip()[:MAX_NAME].strip()
    return stem or "job"


#: key -> (attribute of JobSpec, reader). ``schedule`` and ``timezone`` become one value, and so do an engine's keys.
READERS: dict[str, tuple[str, Callable[[Field, Context], Any]]] = {
    "name": ("name", lambda field, _: read_name(field)),
    "command": ("command", lambda field, _: read_command(field)),
    "engine": ("engine", lambda field, _: read_engine(field)),
    "model": ("model", lambda field, _: read_file(field)),
    "context": ("context", lambda field, _: whole_number(field, 1, MAX_CONTEXT, 4096)),
    "kv_cache": ("kv_cache", lambda field, _: read_kv_cache(field)),
    "parallel": ("parallel", lambda field, _: whole_number(field, 1, MAX_PARALLEL, 4)),
    "input": ("input", lambda field, _: read_file(field)),
    "output": ("output", lambda field, _: read_file(field)),
    "cards": ("cards", lambda field, _: whole_number(field, 0, MAX_CARDS, 2)),
    "vram": ("vram_bytes", lambda field, _: size(field, "7500MiB")),
    "ram": ("ram_bytes", lambda field, _: size(field, "2GiB")),
    "only": ("only", read_only),
    "priority": ("priority", lambda field, _: whole_number(field, -1000, 1000, 10)),
    "after": ("after", lambda field, _: read_after(field)),
    "retries": ("retries", lambda field, _: whole_number(field, 0, 100, 2)),
    "idempotent": ("idempotent", lambda field, _: boolean(field)),
    "time_limit": ("time_limit_seconds", lambda field, _: duration(field, "2h")),
    "not_before": ("not_before", read_not_before),
    "schedule": ("schedule", lambda field, _: read_cron(field)),
    "timezone": ("timezone", lambda field, _: read_timezone(field)),
    "env": ("env", lambda field, _: read_env(field)),
    "cwd": ("cwd", read_cwd),
    "matrix": ("matrix", lambda field, _: read_matrix(field)),
    "labels": ("labels", lambda field, _: read_labels(field)),
    "measure": ("measure", lambda field, _: read_measure(field)),
    "gpu_required": ("gpu_required", lambda field, _: boolean(field)),
    "notify": ("notify", lambda field, _: read_notify(field)),
}
