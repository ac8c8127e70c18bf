"""Every cap, from both sides; hostile input of every shape ends in one line, quickly, in little memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_help import CONTEXT, one, parse, refusal

from p104d.api.spec import Document, expand, expand_engine, parse_submission
from p104d.api.spec_set import read_options
from p104d.api.yaml_nodes import MAX_DOCUMENT_BYTES, MAX_SUBMISSION_BYTES
from p104d.core.errors import P104Error, RefusedError, UsageError

BOMB = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\ncommand: *c"


def test_an_alias_bomb() -> None:
    code, line = refusal(BOMB)
    assert code == 4
    assert "an anchor (&a) is not taken" in line


def test_document_size_in_bytes() -> None:
    fill = MAX_DOCUMENT_BYTES - len("command: x\n#")
    assert one("command: x\n#" + "y" * fill)
    assert refusal("command: x\n#" + "y" * (fill + 1))[0] == 2
    assert one("command: x\n#" + "é" * (fill // 2))
    assert "more than 256 KiB" in refusal("command: x\n#" + "é" * (fill // 2 + 1))[1]
    assert "more than 256 KiB" in refusal("command: x\nname: " + "y" * 2**20)[1]
    assert "more than 256 KiB" in refusal("#" * 2**20)[1]
    # Each document by itself: three of 200 KiB are fine.
    assert len(parse("\n---\n".join(["command: x\n#" + "y" * 200_000] * 3))) == 3


def test_submission_size() -> None:
    file = Document("a.yaml", "\n---\n".join(["command: x\n#" + "y" * 250_000] * 34))
    assert len(parse_submission([file], CONTEXT)) == 34
    with pytest.raises(UsageError, match=r"b\.yaml: more than 16 MiB"):
        parse_submission([file, Document("b.yaml", file.text)], CONTEXT)
    assert len(file.text) < MAX_SUBMISSION_BYTES < 2 * len(file.text)


def test_depth() -> None:
    assert "unknown key" in refusal("x: " + "[" * 15 + "]" * 15)[1]
    assert "16 levels" in refusal("x: " + "[" * 16 + "]" * 16)[1]
    for bracket in ("[", "{a: ", "- ", "? ", "{? "):
        assert refusal(bracket * 50_000)[0] in (2, 4)


def test_number_of_documents() -> None:
    assert "more than 10000 documents" in refusal("---\n" * 10_001)[1]


def test_values_over_all_files() -> None:
    text = "command: x\nenv: {" + ",".join(f"A{i}: 1" for i in range(250)) + "}"
    files = [Document("a.yaml", "\n---\n".join([text] * 250))] * 3
    started = time.process_time()
    with pytest.raises(UsageError, match="more than 300000 values"):
        parse_submission(files, CONTEXT)
    assert time.process_time() - started < 30


def test_options_have_one_budget_together() -> None:
    """256 of 64 KiB each, with 20,000 values in each, were five million values: seconds, and gigabytes."""
    option = f"labels=[{'1,' * 20_000}]"
    assert len(read_options([option] * 14)) == 14
    with pytest.raises(UsageError, match=r"--set labels.*more than 300000 values"):
        read_options([option] * 256)


def test_matrix_products() -> None:
    ten = "[0,1,2,3,4,5,6,7,8,9]"
    fits = "command: x\nmatrix: {" + ", ".join(f"{key}: {ten}" for key in "abcde") + "}"
    assert len(one(fits).jobs) == 100_000
    assert "1000000 combinations" in refusal(fits.replace("}", f", f: {ten}}}"))[1]
    # 10^16 combinations are counted, not made.
    assert "combinations" in refusal("command: x\nmatrix: {" + ", ".join(f"k{i}: {ten}" for i in range(16)) + "}")[1]
    assert (
        "more than the 16 allowed"
        in refusal("command: x\nmatrix: {" + ", ".join(f"k{i}: {ten}" for i in range(17)) + "}")[1]
    )
    assert "in one submission" in refusal(f"{fits}\n---\ncommand: y")[1]


def test_what_combinations_weigh() -> None:
    assert "longer than 4096 bytes" in refusal(f"command: x\nmatrix: {{a: [{'y' * 4097}]}}")[1]
    heavy = f"command: x\nmatrix: {{a: [{'y' * 4000}], b: [{','.join(map(str, range(10_000)))}]}}"
    assert "more than 32 MiB" in refusal(heavy)[1]


def test_argv_and_env() -> None:
    assert one(f"command: [{', '.join(['a'] * 1024)}]")
    assert "more than the 1024 allowed" in refusal(f"command: [{', '.join(['a'] * 1025)}]")[1]
    assert one(f"command: [x, {'y' * 65_536}]")
    assert "longer than 64 KiB" in refusal(f"command: [x, {'y' * 65_537}]")[1]
    assert "longer than 64 KiB" in refusal(f"command: [x, {'é' * 32_769}]")[1]
    assert "longer than 128 KiB in all" in refusal(f"command: [x, {'y' * 65_000}, {'y' * 65_000}, {'y' * 2000}]")[1]
    assert (
        "more than the 256 allowed"
        in refusal("command: x\nenv: {" + ", ".join(f"A{i}: 1" for i in range(257)) + "}")[1]
    )
    assert "longer than 64 KiB in all" in refusal(f"command: x\nenv: {{A: {'y' * 40_000}, B: {'y' * 40_000}}}")[1]
    kept = {"B": "y" * 40_000}
    assert one(f"command: x\nenv: {{A: {'y' * 20_000}}}", keep_env=kept)
    assert "--keep-env" in refusal(f"command: x\nenv: {{A: {'y' * 40_000}}}", keep_env=kept)[1]


def test_the_caps_hold_after_substitution() -> None:
    text = f"command: [x, '{'${matrix.a}' * 20}']\nmatrix: {{a: [b, {'y' * 4000}]}}"
    assert "an entry longer than 64 KiB" in refusal(text)[1]
    document = one(text.replace("4000", "3000").replace("y" * 4000, "y" * 3000))
    assert max(len(word) for job in document.jobs for word in expand(document.spec, job)[0]) == 60_000


def test_ten_thousand_jobs_parse_and_expand_quickly() -> None:
    text = f"command: [a, '--seed=${{matrix.s}}']\nmatrix: {{s: [{', '.join(map(str, range(10_000)))}]}}"
    best = 1e9
    for _ in range(3):
        started = time.process_time()
        [document] = parse(text)
        argv = [expand(document.spec, job)[0][1] for job in document.jobs]
        best = min(best, time.process_time() - started)
    assert argv[-1] == "--seed=9999"
    # 0.09 s where this was written; the bound only catches something quadratic.
    assert best < 1.0


def test_a_million_scalars_cost_little_memory() -> None:
    text = "command: x\nnotify: [" + "a," * 1_000_000 + "]"
    tracemalloc.start()
    try:
        code, line = refusal(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert code == 2
    assert "more than 256 KiB" in line
    assert peak < 64 * 2**20


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["${matrix.a}", "~", "a: b"]),
)
KEYS = st.sampled_from(
    [
        "name",
        "command",
        "cards",
        "vram",
        "ram",
        "only",
        "priority",
        "after",
        "retries",
        "idempotent",
        "time_limit",
        "not_before",
        "schedule",
        "timezone",
        "env",
        "cwd",
        "matrix",
        "labels",
        "measure",
        "gpu_required",
        "notify",
        "engine",
        "model",
        "context",
        "kv_cache",
        "parallel",
        "input",
        "output",
        "on",
        "webhook",
        "pattern",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


def _ends_in_one_line(text: str | bytes, **changes: object) -> None:
    try:
        documents = parse(text, **changes)
    except (RefusedError, UsageError) as error:
        line = error.line()
        assert line.isprintable()
        assert error.mend
    except P104Error as error:
        raise AssertionError("another kind of error") from error
    else:
        for document in documents:
            for job in document.jobs[:3]:
                expand(document.spec, job)
                if document.spec.engine is not None:
                    engine = expand_engine(document.spec, job)
                    assert all(path.startswith("/") for path in (engine.model, engine.input, engine.output))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_no_value_is_a_surprise(document: dict[str, object]) -> None:
    import yaml

    _ends_in_one_line(yaml.safe_dump({"command": "x", **document}, allow_unicode=True))
    base = {"engine": "llama.cpp", "model": "m.gguf", "input": "i.jsonl", "output": "${matrix.a}", "matrix": {"a": [1]}}
    _ends_in_one_line(yaml.safe_dump({**base, **document}, allow_unicode=True))


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_are_a_surprise(text: bytes) -> None:
    _ends_in_one_line(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab.=:[]{}&*!#-'\"\n \t,${}", max_size=30))
def test_no_option_is_a_surprise(option: str) -> None:
    _ends_in_one_line("command: x", set=(option,))
