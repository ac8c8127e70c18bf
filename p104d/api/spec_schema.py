"""The JSON Schema of one document of job.yaml, as ``p104ctl schema job`` prints it.

It says what the parser says, as far as a schema can: types, ranges, keys, and which keys go together. A cron
expression, a time zone or a regular expression is only text to it.
"""

from __future__ import annotations

from typing import Any

from p104d.api import spec_engine as engine
from p104d.api import spec_fields as limits
from p104d.api.spec_matrix import MAX_JOBS, MAX_MATRIX_KEYS
from p104d.api.spec_outcome import MAX_ARGV, MAX_MEASURES, MAX_URL
from p104d.api.spec_values import MAX_FIGURE_CHARS
from p104d.core.job import ENDED
from p104d.engines.gguf_types import CACHE_KINDS
from p104d.engines.measure import PARSERS

_TEXT = {"type": ["string", "number"]}
_SCALAR = {"type": ["string", "number", "boolean"]}
_SIZE = {
    "type": "string",
    "maxLength": MAX_FIGURE_CHARS,
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTt][Ii]?[Bb]|[Bb])\s*$",
    "examples": ["7500MiB", "2GiB", "500MB"],
}
_DURATION = {
    "type": "string",
    "maxLength": MAX_FIGURE_CHARS,
    "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*(ms|s|m|h|d|w)\s*$",
    "examples": ["90s", "5m", "2h", "1d"],
}
_COMMAND = {
    "oneOf": [
        {"type": "string", "pattern": r"\S"},
        {"type": "number"},
        {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_ARGV},
    ]
}
_FILE = {"type": ["string", "number"], "pattern": "^[^~]"}
_PATTERN = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$"},
        "unit": _SCALAR,
        "pattern": {"type": "string", "maxLength": 256},
    },
    "required": ["name", "unit", "pattern"],
    "additionalProperties": False,
}


def _list_or_one(item: dict[str, Any], most: int, least: int = 0) -> dict[str, Any]:
    return {"oneOf": [item, {"type": "array", "items": item, "minItems": least, "maxItems": most}]}


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _properties() -> dict[str, dict[str, Any]]:
    """The schema of each key, with what it is for, in the order of the documentation."""
    state = {"enum": sorted(ENDED)}
    described: dict[str, tuple[str, dict[str, Any]]] = {
        "name": ("What the job is called; the file's stem where left out.", _SCALAR),
        "command": ("A list is executed, a string is given to sh -c.", _COMMAND),
        "engine": ("Instead of command: what runs the model.", {"enum": list(engine.ENGINES)}),
        "model": ("The GGUF file, from cwd.", _FILE),
        "context": ("Tokens that each request may have, with its answer.", _integer(1, engine.MAX_CONTEXT)),
        "kv_cache": ("What keys and values are kept in.", {"enum": list(CACHE_KINDS)}),
        "parallel": ("How many requests at a time.", _integer(1, engine.MAX_PARALLEL)),
        "input": ("The requests, one JSON object a line, from cwd.", _FILE),
        "output": ("Where the answers are appended, one JSON object a line, from cwd.", _FILE),
        "cards": ("How many cards, all at once; 0: a job for the processor.", _integer(0, limits.MAX_CARDS)),
        "vram": ("Memory reserved on each card; left out: whole cards, not shared.", _SIZE),
        "ram": ("Host memory reserved.", _SIZE),
        "only": ("Only these cards: UUID or its beginning, index, name.", _list_or_one(_TEXT, limits.MAX_CARDS, 1)),
        "priority": ("Higher goes first.", _integer(-1000, 1000)),
        "after": (
            "Start when these have succeeded: ids, or names of the same submission.",
            _list_or_one({"type": ["string", "integer"], "minimum": 1}, limits.MAX_AFTER),
        ),
        "retries": ("How often to try again after a failure.", _integer(0, 100)),
        "idempotent": ("May run again after its host died; true with an engine.", {"type": "boolean"}),
        "time_limit": ("How long it may run.", _DURATION),
        "not_before": ("Not to be started before this ISO 8601 time.", {"type": "string"}),
        "schedule": ("Cron expression: submits a job each time.", {"type": "string", "maxLength": 256}),
        "timezone": ("The zone of schedule; left out: the host's.", {"type": "string"}),
        "env": ("Variables of the job.", _map(_SCALAR, limits.MAX_ENV)),
        "cwd": ("The folder it runs in, from the one p104ctl is called in.", {"type": ["string", "number"]}),
        "matrix": (
            "One job for each combination; ${matrix.KEY} in command, env, model, input and output.",
            {
                **_map({"type": "array", "items": _SCALAR, "minItems": 1, "maxItems": MAX_JOBS}, MAX_MATRIX_KEYS),
                "minProperties": 1,
                "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_-]{0,63}$"},
            },
        ),
        "labels": ("Words to find it by.", _map(_SCALAR, limits.MAX_LABELS)),
        "measure": (
            "What to read from its output.",
            {"type": "array", "items": {"oneOf": [{"enum": list(PARSERS)}, _PATTERN]}, "maxItems": MAX_MEASURES},
        ),
        "gpu_required": ("Fail it if it never appears on its card.", {"type": "boolean"}),
        "notify": (
            "Whom to tell of its end.",
            {
                "type": "object",
                "properties": {
                    "on": _list_or_one(state, len(ENDED) * 2, 1),
                    "command": _COMMAND,
                    "webhook": {"type": "string", "pattern": "^https?://", "maxLength": MAX_URL},
                },
                "required": ["on"],
                "anyOf": [{"required": ["command"]}, {"required": ["webhook"]}],
                "additionalProperties": False,
            },
        ),
    }
    return {key: {"description": text, **schema} for key, (text, schema) in described.items()}


def _map(value: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": value, "maxProperties": most}


def job_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of one document of job.yaml."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "job.yaml",
        "description": "One job of p104d; several documents are divided by ---.",
        "type": "object",
        "properties": _properties(),
        "oneOf": [{"required": ["command"]}, {"required": ["engine"]}],
        "additionalProperties": False,
        "dependentRequired": {
            "timezone": ["schedule"],
            **{key: ["engine"] for key in engine.ENGINE_KEYS if key != "engine"},
            "engine": ["model", "input", "output"],
        },
        "allOf": [
            {"not": {"required": ["schedule", "not_before"]}},
            {"not": {"required": ["schedule", "after"]}},
            {
                "if": {"properties": {"cards": {"const": 0}}, "required": ["cards"]},
                "then": {
                    "not": {"anyOf": [{"required": ["vram"]}, {"required": ["only"]}]},
                    "properties": {"gpu_required": {"const": False}, "engine": False},
                },
            },
        ],
    }
