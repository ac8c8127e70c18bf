"""``engine: llama.cpp`` and the keys that go with it: readers, what they have to have in common, and the files that the
jobs of a matrix name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from math import prod
from typing import Any

import msgspec

from p104d.api.spec_matrix import known_bytes, longest_values
from p104d.api.spec_values import MAX_PATH_BYTES, Field, path_of, suggest, text_of
from p104d.api.yaml_nodes import printable
from p104d.core.errors import RefusedError
from p104d.core.job import EngineSpec, JobSpec
from p104d.core.matrix import PATHS, PREFIX, absolute, keys_in, substitute
from p104d.engines.gguf_types import CACHE_KINDS

ENGINES = ("llama.cpp",)
ENGINE_KEYS = ("engine", "model", "context", "kv_cache", "parallel", "input", "output")
MAX_CONTEXT = 2**26
MAX_PARALLEL = 256
#: Each is looked at by itself, when it is submitted and whenever jobs are placed.
MAX_MODELS = 1000
#: Of the paths that a matrix makes, over all jobs of a submission: looking at them is what a large one costs.
MAX_PATHS_BYTES = 32 * 2**20

_EXAMPLES = {"model": "qwen2-7b-q8_0.gguf", "input": "prompts.jsonl", "output": "answers.jsonl"}


class Seen(msgspec.Struct):
    """What the documents of a submission so far name together: the outputs (as digests: there may be many, and long
    ones) with the place of each, the models, and the bytes of the paths that differ from job to job."""

    outputs: dict[bytes, str] = {}
    models: set[str] = set()
    path_bytes: int = 0


def read_engine(field: Field) -> str:
    """The name of an engine that is there."""
    mend = f"write {field.path}: {ENGINES[0]}"
    text = text_of(field, "an engine", mend)
    if text not in ENGINES:
        raise field.error(f"{field.shown()} is not an engine", suggest(text, ENGINES, mend))
    return text


def read_kv_cache(field: Field) -> str:
    """A kind of numbers that llama.cpp keeps keys and values in."""
    mend = f"write one of {', '.join(CACHE_KINDS)}"
    text = text_of(field, "a kind of cache", mend)
    if text not in CACHE_KINDS:
        raise field.error(f"{field.shown()} is not a kind of cache", suggest(text, CACHE_KINDS, mend))
    return text


def read_file(field: Field) -> str:
    """A path as written; from where it counts is known when the whole document is read."""
    return path_of(field, "a file", f"write {field.path}: {_EXAMPLES[field.path]}, or a full path")


def check_engine_keys(where: str, entries: Mapping[str, Field]) -> None:
    """Either a command or an engine, and nothing of an engine's with a command."""
    engine, command = entries.get("engine"), entries.get("command")
    if engine is not None and command is not None:
        raise engine.error("does not go with command", "leave out one of the two")
    stray = next((entries[key] for key in ENGINE_KEYS if key in entries), None)
    if engine is None and stray is not None:
        mend = f"leave out {stray.path}" if command is not None else f"write engine: {ENGINES[0]}"
        raise stray.error("belongs to engine, which is missing", mend)
    if engine is None and command is None:
        mend = f"write command: [python3, script.py], or engine: {ENGINES[0]}"
        raise RefusedError(f"{where}: command: missing", mend=mend)


def take_engine(where: str, entries: Mapping[str, Field], values: dict[str, Any], cwd: str) -> EngineSpec:
    """The engine of a document, whose keys are taken out of ``values``."""
    missing = next((key for key in PATHS if key not in entries), None)
    if missing is not None:
        raise RefusedError(f"{where}: {missing}: missing", mend=f"write {missing}: {_EXAMPLES[missing]}")
    if values.get("cards") == 0:
        mend = "write cards: 1, or leave it out: as few as the model fits on"
        raise entries["cards"].error("a model needs a card", mend)
    found = {key: values.pop(key) for key in ENGINE_KEYS if key in values}
    name = found.pop("engine")
    return EngineSpec(name=name, cards=values.get("cards"), **found | {key: _from(cwd, found[key]) for key in PATHS})


def _from(cwd: str, path: str) -> str:
    # A value of the matrix may begin with a slash, so where such a path starts is known for each job only.
    written = PREFIX in path or (PREFIX in cwd and not path.startswith("/"))
    return path if written else absolute(cwd, path)


def check_files(
    where: str, entries: Mapping[str, Field], spec: JobSpec, jobs: list[dict[str, str]], seen: Seen
) -> None:
    """Every job has three files that can be, of which the output is no other's: not of any job of the submission."""
    assert spec.engine is not None
    texts = {key: getattr(spec.engine, key) for key in PATHS}
    longest = longest_values(spec.matrix)
    for key, text in texts.items():
        if known_bytes(entries[key], text, longest) > MAX_PATH_BYTES:
            raise _too_long(entries[key])
    _check_alike(entries["output"], texts["output"], spec.matrix, len(jobs))
    for files in _files(entries, texts, spec.cwd, jobs, seen):
        _check_output(where, entries["output"], {key: _folded(path) for key, path in files.items()}, seen)
        seen.models.add(files["model"])
        if len(seen.models) > MAX_MODELS:
            raise entries["model"].error(f"more than {MAX_MODELS} models in one submission", "submit in several steps")


def _check_alike(field: Field, output: str, matrix: dict[str, tuple[str, ...]], jobs: int) -> None:
    """Fewer outputs than jobs: seen without looking at each."""
    named = keys_in(output)
    if prod(len(matrix[key]) for key in named) < jobs:
        key = next(key for key, values in matrix.items() if key not in named and len(values) > 1)
        raise field.error("several jobs of the matrix would write the same file", f"put ${{matrix.{key}}} into it")


def _files(
    entries: Mapping[str, Field], texts: dict[str, str], cwd: str, jobs: list[dict[str, str]], seen: Seen
) -> Iterator[dict[str, str]]:
    """The three paths of each job; what is the same for all is looked at once."""
    fixed = {key: _file(entries[key], text, cwd) for key, text in texts.items() if not keys_in(text)}
    moving = {key: text for key, text in texts.items() if key not in fixed}
    for job in jobs:
        made = {key: _file(entries[key], substitute(text, job), cwd) for key, text in moving.items()}
        seen.path_bytes += sum(map(len, made.values()))
        if seen.path_bytes > MAX_PATHS_BYTES:
            limit = f"{MAX_PATHS_BYTES // 2**20} MiB"
            raise entries["output"].error(f"the paths of all jobs are longer than {limit}", "submit in several steps")
        yield fixed | made


def _file(field: Field, text: str, cwd: str) -> str:
    """The whole path; of values that a matrix has put in, everything is possible."""
    if not text or text.startswith("~") or not text.isprintable():
        raise field.error(f'"{printable(text, 60)}" is not a file', "mend the values of matrix")
    path = absolute(cwd, text)
    if len(path) > MAX_PATH_BYTES // 4 and len(path.encode()) > MAX_PATH_BYTES:
        raise _too_long(field)
    return path


def _too_long(field: Field) -> RefusedError:
    return field.error(f"a path longer than {MAX_PATH_BYTES} bytes", "shorten it")


def _folded(path: str) -> str:
    # Where "link/.." leads elsewhere two files are taken for one, and somebody writes a path without it.
    return os.path.normpath(path) if "/.." in path else path


def _check_output(where: str, field: Field, files: Mapping[str, str], seen: Seen) -> None:
    output = files["output"]
    for key in ("input", "model"):
        if output == files[key]:
            raise field.error(f'"{printable(output, 200)}" is the {key}', "name another file")
    digest = blake2b(output.encode(), digest_size=16).digest()
    other = seen.outputs.get(digest)
    if other is not None:
        whose = "another job of the matrix" if other == where else f"the job at {other}"
        raise field.error(f'"{printable(output, 200)}" is the output of {whose} too', "give each job its own")
    seen.outputs[digest] = where
