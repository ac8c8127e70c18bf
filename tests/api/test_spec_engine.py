"""``engine: llama.cpp`` documents: what is taken, what is refused, and the files that a matrix names."""

from __future__ import annotations

import time

import pytest
from spec_help import CONTEXT, one, parse, refusal

from p104d.api.spec import COMMAND_LINE, Document, expand, expand_engine, parse_submission
from p104d.api.spec_engine import MAX_MODELS
from p104d.core.errors import P104Error
from p104d.core.job import EngineSpec, JobSpec, ModelNeed
from p104d.core.matrix import requirement_of

ENGINE = "engine: llama.cpp\nmodel: m.gguf\ninput: in.jsonl\noutput: out.jsonl\n"
FULL = """\
name: answers
engine: llama.cpp
model: models/./qwen2.gguf
context: 8192
kv_cache: q8_0
parallel: 4
input: /data//prompts.jsonl
output: answers.jsonl
cards: 2
vram: 7500MiB
ram: 2GiB
only: [GPU-a]
priority: -5
after: [12]
retries: 2
idempotent: false
time_limit: 2h
not_before: 2027-12-01T03:00:00+01:00
env: {GGML_CUDA_FORCE_MMQ: 1}
cwd: sub
labels: {project: posters}
measure: [llama.cpp]
gpu_required: true
notify: {on: [failed], command: notify-send p104d}
"""


def test_every_key() -> None:
    spec = one(FULL).spec
    assert spec.engine == EngineSpec(
        model="/home/me/sub/models/qwen2.gguf",
        input="/data/prompts.jsonl",
        output="/home/me/sub/answers.jsonl",
        context=8192,
        kv_cache="q8_0",
        parallel=4,
        cards=2,
    )
    assert (spec.command, spec.cards, spec.vram_bytes, spec.idempotent) == ((), 2, 7500 * 2**20, False)
    assert (spec.name, spec.cwd, spec.env, spec.gpu_required) == (
        "answers",
        "/home/me/sub",
        {"GGML_CUDA_FORCE_MMQ": "1"},
        True,
    )


def test_defaults() -> None:
    document = one(ENGINE)
    engine = EngineSpec(model="/home/me/m.gguf", input="/home/me/in.jsonl", output="/home/me/out.jsonl")
    assert (engine.context, engine.kv_cache, engine.parallel, engine.cards) == (4096, "f16", 1, None)
    assert document.spec == JobSpec(name="job", command=(), cwd="/home/me", idempotent=True, engine=engine)
    assert document.spec.requirement(1000).model == ModelNeed(path="/home/me/m.gguf", uid=1000)
    assert expand(document.spec, {}) == ((), {})
    assert expand_engine(document.spec, {}) == engine


@pytest.mark.parametrize(("file", "name"), [("night.yaml", "night"), ("-", "stdin"), (COMMAND_LINE, "qwen2-q8_0")])
def test_default_names(file: str, name: str) -> None:
    assert one(ENGINE.replace("m.gguf", "models/qwen2-q8_0.gguf"), file=file).spec.name == name


@pytest.mark.parametrize("key", ["schedule: '0 3 * * *'\ntimezone: UTC", "cards: 64", "context: 67108864", "model: 7"])
def test_more_that_is_taken(key: str) -> None:
    assert one((ENGINE.replace("model: m.gguf\n", "") if key.startswith("model") else ENGINE) + key).spec.engine


def test_options_reach_the_engine() -> None:
    engine = one(ENGINE, set=("parallel=8", "model=/models/b.gguf", "kv_cache=q4_0")).spec.engine
    assert engine is not None
    assert (engine.parallel, engine.model, engine.kv_cache) == (8, "/models/b.gguf", "q4_0")
    code, line = refusal(ENGINE, set=("parallel=0",))
    assert (code, line) == (4, "--set parallel=0: parallel: 0 is out of range; write a whole number from 1 to 256")


def without(key: str) -> str:
    return "".join(line for line in ENGINE.splitlines(keepends=True) if not line.startswith(f"{key}:"))


CACHES = "f32, f16, q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, bf16"
REFUSED = [
    ("engine: vllm\nmodel: a", 'job.yaml:1: engine: "vllm" is not an engine; write engine: llama.cpp'),
    ("engine: lama.cpp", 'job.yaml:1: engine: "lama.cpp" is not an engine; did you mean llama.cpp'),
    ("engine: [llama.cpp]", "job.yaml:1: engine: a list is not an engine"),
    ("engine:", "job.yaml:1: engine: no value; write engine: llama.cpp"),
    (ENGINE + "command: x", "job.yaml:1: engine: does not go with command; leave out one of the two"),
    ("cards: 1", "command: missing; write command: [python3, script.py], or engine: llama.cpp"),
    (without("model"), "job.yaml:1: model: missing; write model: qwen2-7b-q8_0.gguf"),
    (without("input"), "job.yaml:1: input: missing; write input: prompts.jsonl"),
    (without("output"), "job.yaml:1: output: missing; write output: answers.jsonl"),
    *(
        (f"command: x\n{key}: 4", f"job.yaml:2: {key}: belongs to engine, which is missing; leave out {key}")
        for key in ("model", "context", "kv_cache", "parallel", "input", "output")
    ),
    (without("engine"), "job.yaml:1: model: belongs to engine, which is missing; write engine: llama.cpp"),
    (ENGINE + "context: 0", "job.yaml:5: context: 0 is out of range; write a whole number from 1 to 67108864"),
    (ENGINE + "context: 67108865", "is out of range"),
    (ENGINE + "context: 4k", 'job.yaml:5: context: "4k" is not a whole number; write context: 4096'),
    (ENGINE + "kv_cache: q9", f'job.yaml:5: kv_cache: "q9" is not a kind of cache; write one of {CACHES}'),
    (ENGINE + "kv_cache: q8-0", "did you mean q8_0"),
    (ENGINE + "kv_cache: q6_k", '"q6_k" is not a kind of cache'),
    (ENGINE + "parallel: 0", "job.yaml:5: parallel: 0 is out of range; write a whole number from 1 to 256"),
    (ENGINE + "parallel: 257", "is out of range"),
    (ENGINE + "cards: 0", "job.yaml:5: cards: a model needs a card; write cards: 1, or leave it out"),
    (ENGINE + "cards: 65", "is out of range"),
    (without("output") + "output: in.jsonl", 'job.yaml:4: output: "/home/me/in.jsonl" is the input; name another file'),
    (without("output") + "output: a/../in.jsonl", '"/home/me/in.jsonl" is the input'),
    (without("output") + "output: ./m.gguf", 'output: "/home/me/m.gguf" is the model'),
    (without("input") + "input: ''", 'input: "" is not a file; write input: prompts.jsonl, or a full path'),
    (without("input") + "input: ~/a", 'input: "~/a": ~ is not expanded'),
    (without("input") + 'input: "a\\nb"', "is not a file"),
    (without("input") + "input:", "input: no value"),
    (without("input") + "input: [a]", "input: a list is not a file"),
    (without("model") + f"model: {'a' * 4090}", "job.yaml:4: model: a path longer than 4096 bytes; shorten it"),
    (without("model") + "model: ${matrix.m}", "model: ${matrix.m} is not in the matrix; write matrix: {m: [...]}"),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=range(len(REFUSED)))
def test_refused_with_place_and_mend(text: str, expected: str) -> None:
    code, line = refusal(text)
    assert expected in line
    assert code == 4


# --- a matrix ---------------------------------------------------------------------------------------------------------

MATRIX = """\
engine: llama.cpp
model: '${matrix.model}'
input: parts/${matrix.part}.jsonl
output: answers/${matrix.model}/${matrix.part}.jsonl
cwd: work
matrix: {model: [a.gguf, /models/b.gguf, ./c/../c.gguf], part: [1, 2]}
"""


def test_each_job_has_its_own_files() -> None:
    document = one(MATRIX)
    engines = [expand_engine(document.spec, job) for job in document.jobs]
    assert [engine.model for engine in engines[::2]] == [
        "/home/me/work/a.gguf",
        "/models/b.gguf",
        "/home/me/work/c/../c.gguf",
    ]
    assert [engine.input for engine in engines[:2]] == ["/home/me/work/parts/1.jsonl", "/home/me/work/parts/2.jsonl"]
    assert engines[3].output == "/home/me/work/answers/models/b.gguf/2.jsonl"
    assert [requirement_of(document.spec, job, 7).model for job in document.jobs] == [
        ModelNeed(path=engine.model, uid=7) for engine in engines
    ]


def test_what_a_value_brings_is_not_looked_at_again() -> None:
    document = one(ENGINE.replace("out.jsonl", "'${matrix.a}'") + "matrix: {a: ['${matrix.b}'], b: [x]}")
    assert expand_engine(document.spec, document.jobs[0]).output == "/home/me/${matrix.b}"


def test_a_folder_named_like_a_reference_is_a_folder() -> None:
    document = one(ENGINE.replace("out.", "${matrix.a}.") + "matrix: {a: [1]}", cwd="/data/${matrix.a}")
    engine = expand_engine(document.spec, document.jobs[0])
    assert (engine.model, engine.output) == ("/data/${matrix.a}/m.gguf", "/data/${matrix.a}/1.jsonl")


def output(text: str, matrix: str) -> str:
    return without("output") + f"output: {text}\nmatrix: {matrix}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (output("out", "{a: [1, 2]}"), "job.yaml:4: output: several jobs of the matrix would write the same file; put"),
        (output("o${matrix.a}", "{a: [1, 2], b: [1], seed: [1, 2]}"), "put ${matrix.seed} into it"),
        (output("o${matrix.a}", "{a: [1, 1]}"), '"/home/me/o1" is the output of another job of the matrix too'),
        (output("'${matrix.a}'", "{a: [x, y/../x]}"), '"/home/me/x" is the output of another job of the matrix too'),
        (output("${matrix.a}${matrix.b}", "{a: ['', 1], b: ['11', '1']}"), '"/home/me/11" is the output of another'),
        (output("${matrix.a}", "{a: [x, in.jsonl]}"), '"/home/me/in.jsonl" is the input'),
        (output("${matrix.a}", "{a: ['']}"), 'output: "" is not a file; mend the values of matrix'),
        (output("${matrix.a}", "{a: ['~/x']}"), 'output: "~/x" is not a file'),
        (output("${matrix.a}", '{a: ["x\\ny"]}'), "is not a file; mend the values of matrix"),
        (output("${matrix.b}", "{a: [1]}"), "job.yaml:4: output: ${matrix.b} is not in the matrix; the matrix has a"),
        (output("${matrix.a}/${matrix.a}", f"{{a: [{'x' * 2050}]}}"), "output: a path longer than 4096 bytes"),
        (output("${matrix.a}", f"{{a: [{'x' * 4090}]}}"), "output: a path longer than 4096 bytes"),
        (f"{ENGINE}---\n{ENGINE}", 'job.yaml:9: output: "/home/me/out.jsonl" is the output of the job at job.yaml:1'),
    ],
)
def test_files_that_cannot_be(text: str, expected: str) -> None:
    code, line = refusal(text)
    assert expected in line
    assert code == 4


def test_models_of_a_submission_are_bounded() -> None:
    text = output("${matrix.m}.out", "{m: [%s]}").replace("m.gguf", "'${matrix.m}'")
    assert len(one(text % ",".join(map(str, range(MAX_MODELS)))).jobs) == MAX_MODELS
    assert "more than 1000 models in one submission" in refusal(text % ",".join(map(str, range(MAX_MODELS + 1))))[1]


def test_the_paths_of_a_submission_are_bounded() -> None:
    text = without("output") + "output: " + "x" * 900 + "${matrix.a}${matrix.b}\nmatrix: {a: [%s], b: [%s]}"
    _code, line = refusal(text % ((",".join(map(str, range(100, 400))),) * 2))
    assert "the paths of all jobs are longer than 32 MiB; submit in several steps" in line


def test_ten_thousand_jobs_are_checked_quickly() -> None:
    text = output("o/${matrix.s}.jsonl", "{s: [" + ", ".join(map(str, range(10_000))) + "]}")
    best = 1e9
    for _ in range(3):
        started = time.process_time()
        assert len(one(text).jobs) == 10_000
        best = min(best, time.process_time() - started)
    # 0.15 s where this was written; the bound only catches something quadratic.
    assert best < 1.5


def test_other_files_of_a_submission_count_too() -> None:
    files = [Document("a.yaml", ENGINE), Document("b.yaml", ENGINE.replace("m.gguf", "n.gguf"))]
    with pytest.raises(P104Error, match=r"b.yaml:4: output: .* of the job at a.yaml:1 too"):
        parse_submission(files, CONTEXT)
    assert len(parse(ENGINE + "---\n" + ENGINE.replace("out.", "out2."))) == 2
