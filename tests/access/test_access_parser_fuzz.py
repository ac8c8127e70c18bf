"""Noise for the parser of specifications, structured and raw: an answer or one line, in bounded time and memory."""

from __future__ import annotations

import itertools
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torture import amount

from p104d.api.spec import Context, Document, ParsedDocument, expand, expand_engine, parse_submission
from p104d.core.errors import P104Error, RefusedError, UsageError

pytestmark = pytest.mark.torture

#: Between the two of them, in each form.
STRUCTURED, RAW = amount((250, 350), (40_000, 60_000))
#: A case is a few kilobytes, most of which take under a millisecond; this is what a daemon can bear.
MOST_SECONDS = 1.0
#: What a case may allocate at its worst. Looking costs time, so the long form does it for some of them.
MOST_BYTES, LOOKED_AT = 48 * 2**20, amount(1, 10)
_count = itertools.count()
CONTEXT = Context(cwd="/home/me", keep_env={"KEPT": "1"}, now=1.8e9, resolve_card=lambda text: text)

FULL = """\
name: posters
command: [python3, txt2img.py, --seed, "${matrix.seed}"]
cards: 1
vram: 7500MiB
ram: 2GiB
only: [GPU-3f, "0"]
priority: -5
after: [12, other]
retries: 2
idempotent: false
time_limit: 2h
not_before: 2027-02-01T03:00:00+01:00
env: {STEPS: "30"}
cwd: .
matrix: {seed: [1, 2, 3], model: [a, "b c"]}
labels: {project: posters}
measure: [tqdm, {name: score, unit: points, pattern: 'score=(?P<value>[0-9.]+)'}]
gpu_required: false
notify: {on: [failed], command: [echo, x], webhook: https://example.org/hook}
---
name: other
command: |
  echo "two lines"
  true
schedule: "0 3 * * *"
timezone: Europe/Berlin
---
name: answers
engine: llama.cpp
model: "${matrix.model}.gguf"
context: 8192
kv_cache: q8_0
parallel: 4
input: prompts.jsonl
output: answers/${matrix.model}-${matrix.seed}.jsonl
matrix: {seed: [1, 2], model: [a, /b/c, "b c"]}
"""
ENGINE = FULL.split("---\n")[2]
KEYS = [*dict.fromkeys(key for document in yaml.safe_load_all(FULL) for key in document), "on", "x", ""]
ODD = st.sampled_from(
    [None, True, 0, -1, 2**63, 10**4000, 1.5, 1e308, float("inf"), "", "~", "\0", "\u202e", "\x1b[2J", "\ufeff",
     "1e999", "9" * 5000, "${matrix.", "${matrix.seed}", "${matrix.seed}" * 500, "7500MiB", "2h", "0 3 * * *",
     "../../etc/passwd", "llama.cpp", "q8_0", "/proc/self/mem", "(a+)+$", "(?P<value>a*)*", "x" * 70_000]
)  # fmt: skip
VALUE = st.recursive(
    ODD | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=15,
)
PIECES = st.sampled_from(
    ["&a ", "*a", "!!python/object/apply:os.system [id]", "!x ", "%YAML 1.1\n---\n", "---\n", "...\n", "- ", ": ",
     "? ", "{", "}", "[", "]", "|\n", ">-\n", "'", '"', "#", "\t", "\n", "\r", "<<: ", "\x85", "\u2028", "\U0001f600",
     "[" * 200, "{a: " * 50, "a: " * 300, "- " * 500, "x" * 5000, "${matrix.seed}", "~", "0x", "0o", "1_000", ".inf",
     "yes", "=", "\\u0000", "\x07"]
) | st.text(max_size=5)  # fmt: skip


def ends_well(text: str | bytes, **changes: object) -> None:
    """As ``answered``, and without taking memory out of proportion."""
    if next(_count) % LOOKED_AT:
        answered(text, **changes)
        return
    tracemalloc.start()
    try:
        answered(text, **changes)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES, text[:2000]
    finally:
        tracemalloc.stop()


def answered(text: str | bytes, **changes: object) -> None:
    """Checked jobs, or one line that says what is wrong and what to do; soon."""
    parsed: list[ParsedDocument] = []
    began = time.thread_time()
    try:
        parsed = parse_submission([Document("job.yaml", text)], msgspec.structs.replace(CONTEXT, **changes))
    except (RefusedError, UsageError) as error:
        line = error.line()
        assert line.isprintable() and len(line) < 5000 and error.mend, line
    except P104Error as error:
        raise AssertionError(f"another kind of error: {error!r}") from error
    else:
        for document in parsed:
            msgspec.json.encode(document.spec)
            for job in document.jobs[:3]:
                argv, env = expand(document.spec, job)
                assert all("\0" not in word for word in (*argv, *env, *env.values()))
                assert not {name for name in env if name.startswith(("P104_", "CUDA_VISIBLE"))}
    took = time.thread_time() - began
    assert took < MOST_SECONDS, (took, text[:2000])
    for document in parsed:
        _good_files(document)


def _good_files(document: ParsedDocument) -> None:
    """An engine's jobs have whole paths and an output each."""
    if document.spec.engine is None:
        return
    engines = [expand_engine(document.spec, job) for job in document.jobs]
    for engine in engines:
        paths = (engine.model, engine.input, engine.output)
        assert all(path.startswith("/") and path.isprintable() and len(path) <= 4096 for path in paths), paths
        assert engine.output not in paths[:2]
    assert len({engine.output for engine in engines}) == len(engines)


def fuzz(count: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
    return settings(max_examples=count, deadline=None, suppress_health_check=checks, database=None)


@fuzz(STRUCTURED)
@given(
    documents=st.lists(st.dictionaries(st.sampled_from(KEYS), VALUE, max_size=6), min_size=1, max_size=3),
    base=st.sampled_from(
        [
            {},
            {"command": "x", "matrix": {"seed": [1, 2]}},
            {key: value for key, value in yaml.safe_load(ENGINE).items() if key != "name"},
        ]
    ),
    options=st.lists(st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=8)), max_size=1),
)
def test_structured_noise(documents: list[dict[str, Any]], base: dict[str, Any], options: list[str]) -> None:
    text = yaml.safe_dump_all([base | document for document in documents], allow_unicode=True)
    ends_well(text, set=tuple(options))


@st.composite
def patched(draw: st.DrawFn) -> str:
    """A file that was right, with pieces of YAML put in the wrong places."""
    text = draw(st.sampled_from([FULL, FULL.split("---\n")[0], FULL.split("---\n")[1], ENGINE, "command: x\n"]))
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(PIECES) + text[end:]
    return text


@fuzz(RAW)
@given(text=patched() | st.lists(PIECES, max_size=30).map("".join) | st.binary(max_size=200))
@example(text="command: x\nafter: [" + "9" * 100_000 + "]")
@example(text="command: x\nnot_before: 0001-01-01T00:00:00+23:59")
@example(text="command: x\nschedule: '*/1 */1 31 2 *'")
@example(text="command: x\nmatrix: {" + ",".join(f"k{n}: [1,2,3,4,5,6,7,8,9,0]" for n in range(16)) + "}")
@example(text="? " * 100_000)
@example(text='command: ["${matrix.\\e[31m}"]\nmatrix: {seed: [1]}')
@example(text="command: ['${matrix." + "x" * 60_000 + "}']\nmatrix: {seed: [1]}")
@example(text='command: x\nschedule: "0 3 * \\e* *"')
@example(text="command: x\nmeasure: [{name: s, unit: p, pattern: '[[(?P<value>a)'}]")
@example(text='command: "' + "\\x41" * 60_000 + '"')
@example(
    text="engine: llama.cpp\nmodel: m\ninput: i\noutput: '" + "a/" * 1500 + "${matrix.a}${matrix.b}'\n"
    "matrix: {a: [" + ",".join(map(str, range(100))) + "], b: [" + ",".join(f"x//{n}/../{n}" for n in range(100)) + "]}"
)
@example(text="# " + "x" * 200_000 + "\n" + "---\n" * 9_000)
def test_raw_noise(text: str | bytes) -> None:
    ends_well(text)
