"""job.yaml: from the text of the files to checked specifications. Nothing is stored, nothing outside is asked.

Errors are one line, ``job.yaml:7: cards: "two" is not a whole number; write cards: 2``. UsageError (exit 2): the text
cannot be read as YAML: syntax, not UTF-8, too large, too deep. RefusedError (exit 4): it is read, and wrong.

The work is bounded by the caps in this package's ``spec_*`` and ``yaml_nodes`` modules: a full 16 MiB takes about a
second, so a server calls ``parse_submission`` off its loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import msgspec

from p104d.api import spec_fields
from p104d.api.spec_cron import cron_trigger
from p104d.api.spec_engine import Seen, check_engine_keys, check_files, take_engine
from p104d.api.spec_fields import READERS, Context
from p104d.api.spec_matrix import (
    MAX_ARGV_BYTES,
    MAX_COMBINATION_BYTES,
    MAX_ENV_BYTES,
    MAX_JOBS,
    check_expansion,
    combination_bytes,
    combinations,
    job_count,
)
from p104d.api.spec_schema import job_schema
from p104d.api.spec_set import apply_options, read_options
from p104d.api.spec_values import Field, suggest
from p104d.api.yaml_nodes import (
    COMMAND_LINE,
    MAX_DOCUMENTS,
    MAX_NODES,
    Budget,
    Mapping,
    place,
    printable,
    read_documents,
)
from p104d.core.errors import RefusedError, UsageError
from p104d.core.job import JobSpec, Schedule
from p104d.core.matrix import expand, expand_engine

__all__ = [
    "COMMAND_LINE",
    "Context",
    "Document",
    "ParsedDocument",
    "cron_trigger",
    "expand",
    "expand_engine",
    "job_schema",
    "parse_submission",
]


class Document(msgspec.Struct, frozen=True):
    """A file as submitted: ``file`` is its name as errors show it (``-``: standard input; COMMAND_LINE: written by
    p104ctl from its own arguments), ``text`` its content with one or more YAML documents."""

    file: str
    text: str | bytes


class ParsedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """One checked document. ``jobs`` has one combination of matrix values a job, ``{}`` where there is no matrix.

    ``kept`` names the variables of ``spec.env`` that came from the caller's environment; ``places`` tells where each
    key stands, for what is found wrong later.
    """

    spec: JobSpec
    file: str
    line: int
    jobs: list[dict[str, str]]
    kept: tuple[str, ...] = ()
    places: dict[str, str] = {}

    def place_of(self, *keys: str) -> str:
        """Where the first of ``keys`` that was given stands, as errors begin: ``job.yaml:7: vram``."""
        given = next((key for key in keys if key in self.places), None)
        return f"{self.where}: {keys[0]}" if given is None else f"{self.places[given]}: {given}"

    @property
    def where(self) -> str:
        """The place of the document as errors begin."""
        return place(self.file, self.line)


def parse_submission(documents: Sequence[Document], context: Context) -> list[ParsedDocument]:
    """Every document of every file, in order. Raises UsageError or RefusedError for the first that is wrong."""
    if not context.cwd.startswith("/") or "\0" in context.cwd:
        raise UsageError(f'cwd: "{printable(context.cwd)}" is not an absolute path', mend="send the full path")
    if len(documents) > MAX_DOCUMENTS:
        raise UsageError(f"more than {MAX_DOCUMENTS} files in one submission", mend="submit in several steps")
    options = read_options(context.set)
    kept = spec_fields.keep_env(context)
    parsed: list[ParsedDocument] = []
    afters: dict[int, Field] = {}
    totals = _Totals()
    for file, mapping in _mappings(documents):
        apply_options(mapping, options)
        root = Field(mapping, "", file, mapping.line)
        entries = _known(root)
        if "after" in entries:
            afters[len(parsed)] = entries["after"]
        parsed.append(_document(root, entries, context, kept, totals))
    if not parsed:
        raise UsageError("nothing to submit", mend="name a file, or - for standard input")
    _check_after(parsed, afters)
    return parsed


class _Totals(msgspec.Struct):
    """What the documents so far make together: the caps that hold for one document hold for all of them."""

    jobs: int = 0
    combination_bytes: int = 0
    seen: Seen = msgspec.field(default_factory=Seen)

    def add(self, root: Field, matrix: dict[str, tuple[str, ...]]) -> None:
        self.jobs += job_count(matrix)
        self.combination_bytes += combination_bytes(matrix)
        if self.jobs > MAX_JOBS or self.combination_bytes > MAX_COMBINATION_BYTES:
            size = f"{MAX_JOBS} jobs or {MAX_COMBINATION_BYTES // 2**20} MiB of matrix values"
            raise RefusedError(f"{root.where}: matrix: more than {size} in one submission", mend="submit in steps")


def _mappings(documents: Sequence[Document]) -> Iterator[tuple[str, Mapping]]:
    budget = Budget()
    for document in documents:
        found = False
        for node in read_documents(document.file, document.text, budget):
            if not isinstance(node, Mapping):
                raise RefusedError(
                    f"{place(document.file, node.line)}: a job is a mapping of keys to values",
                    mend="write command: [...]; put --- between jobs",
                )
            found = True
            yield document.file, node
        if not found:
            raise RefusedError(f"{place(document.file, 1)}: no job in this file", mend="write at least command: [...]")


def _known(root: Field) -> dict[str, Field]:
    """The entries of a document, every key a known one."""
    entries: dict[str, Field] = {}
    for key, field in root.entries("", MAX_NODES):
        if key not in READERS:
            raise field.error("unknown key", suggest(key, [*READERS], "p104ctl schema job lists the keys"))
        entries[key] = field
    return entries


def _document(
    root: Field, entries: dict[str, Field], context: Context, kept: dict[str, str], totals: _Totals
) -> ParsedDocument:
    check_engine_keys(root.where, entries)
    values: dict[str, Any] = {READERS[key][0]: READERS[key][1](field, context) for key, field in entries.items()}
    values.setdefault("cwd", context.cwd)
    if "engine" in entries:
        values["engine"] = take_engine(root.where, entries, values, values["cwd"])
        # What was answered is on file, so that running it again only goes on.
        values = {"command": (), "idempotent": True} | values
    _check_together(entries, values)
    matrix = values.get("matrix", {})
    totals.add(root, matrix)
    own_env = values.get("env", {})
    if "command" in entries:
        check_expansion(entries["command"], [*values["command"]], matrix, MAX_ARGV_BYTES)
    if own_env:
        check_expansion(entries["env"], [*own_env, *own_env.values()], matrix, MAX_ENV_BYTES)
    values["env"] = kept | own_env
    _check_env(root, values["env"])
    zone = values.pop("timezone", None)
    if "schedule" in values:
        values["schedule"] = Schedule(cron=values["schedule"], timezone=zone)
    model = values["engine"].model if "engine" in values else None
    values.setdefault("name", spec_fields.default_name(root.file, values["command"], model, COMMAND_LINE))
    spec, jobs = JobSpec(**values), combinations(matrix)
    if spec.engine is not None:
        check_files(root.where, entries, spec, jobs, totals.seen)
    return ParsedDocument(
        spec=spec,
        file=root.file,
        line=root.line,
        jobs=jobs,
        kept=tuple(name for name in kept if name not in own_env),
        places={key: field.where for key, field in entries.items()},
    )


def _check_together(entries: dict[str, Field], values: dict[str, Any]) -> None:
    """Keys that do not go with each other."""
    if values.get("cards") == 0:
        for key in ("vram", "only"):
            if key in entries:
                raise entries[key].error("a job with cards: 0 takes no card", f"leave out {key}, or write cards: 1")
        if values.get("gpu_required"):
            raise entries["gpu_required"].error("a job with cards: 0 takes no card", "leave out gpu_required")
    for key in ("not_before", "after"):
        if key in entries and "schedule" in entries:
            raise entries[key].error("does not go with schedule", f"leave out {key} or schedule")
    if "timezone" in entries and "schedule" not in entries:
        raise entries["timezone"].error("belongs to schedule, which is missing", "write the offset into not_before")


def _check_env(root: Field, env: dict[str, str]) -> None:
    """The caps hold with the kept variables too."""
    total = sum(len(name.encode()) + len(value.encode()) + 2 for name, value in env.items())
    if len(env) > spec_fields.MAX_ENV or total > MAX_ENV_BYTES:
        limit = f"{spec_fields.MAX_ENV} variables or {MAX_ENV_BYTES // 1024} KiB"
        raise RefusedError(f"{root.where}: env: with what --keep-env adds more than {limit}", mend="keep fewer")


def _check_after(parsed: list[ParsedDocument], afters: dict[int, Field]) -> None:
    """Every name in an ``after`` is one other document of this submission, and there is no circle."""
    by_name: dict[str, list[int]] = {}
    for index, document in enumerate(parsed):
        by_name.setdefault(document.spec.name, []).append(index)
    graph: TopologicalSorter[int] = TopologicalSorter()
    for index, field in afters.items():
        for name in parsed[index].spec.after:
            if isinstance(name, str):
                graph.add(index, _referred(name, index, field, by_name, parsed))
    try:
        graph.prepare()
    except CycleError as error:
        circle: list[int] = error.args[1]
        names = " -> ".join(f'"{parsed[index].spec.name}"' for index in circle[:5])
        problem = f"jobs wait for each other in a circle ({names})"
        raise afters[circle[0]].error(problem, "take one of them out") from None


def _referred(name: str, index: int, field: Field, by_name: dict[str, list[int]], parsed: list[ParsedDocument]) -> int:
    """The document that ``name`` in the ``after`` of document ``index`` means."""
    shown = f'"{printable(name, 60)}"'
    found = by_name.get(name, [])
    if not found:
        hint = "an id is written without quotes" if name.isdecimal() else "name a job of this submission, or an id"
        raise field.error(f"no job named {shown} in this submission", suggest(name, by_name, hint))
    if len(found) > 1:
        lines = " and ".join(parsed[other].where for other in found[:2])
        raise field.error(f"{shown} names more than one job ({lines})", "give them different names")
    if found[0] == index:
        raise field.error(f"{shown} is this job itself", "take it out")
    if parsed[found[0]].spec.schedule is not None:
        raise field.error(f"{shown} is a schedule, which never ends", "take it out")
    return found[0]
