"""What llama-bench prints, which model was loaded, bars of stable-diffusion.cpp, and how far a job is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p104d.core.job import UserPattern
from p104d.engines.measure import OutputParser
from p104d.engines.measure_model import model_of

SAMPLES = Path(__file__).parent.parent / "data" / "output"
PROMPT, GENERATION = "prompt_tokens_per_second", "generation_tokens_per_second"
#: The table of its default output, in the widths that it prints.
TABLE = """
| model                          |       size |     params | backend    | ngl |            test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | --: | --------------: | -------------------: |
| qwen2 7B Q8_0                  |   7.54 GiB |     7.62 B | CUDA       |  99 |           pp512 |        310.25 ± 1.07 |
| qwen2 7B Q8_0                  |   7.54 GiB |     7.62 B | CUDA       |  99 |           tg128 |         18.75 ± 0.02 |
| qwen2 7B Q8_0                  |   7.54 GiB |     7.62 B | CUDA       |  99 |   tg128 @ d4096 |         12.00 ± 0.02 |
| qwen2 7B Q8_0                  |   7.54 GiB |     7.62 B | CUDA       |  99 |     pp512+tg128 |         99.00 ± 0.02 |

build: 1234abcd (6000)
"""


def read(output: str | bytes, *names: str | UserPattern, piece: int = 1 << 20) -> OutputParser:
    parser = OutputParser(names or ("tqdm", "llama.cpp"), clock=lambda: 0.0)
    raw = output.encode() if isinstance(output, str) else output
    for start in range(0, len(raw), piece):
        parser.feed(raw[start : start + piece])
    return parser


def figures(parser: OutputParser) -> dict[str, float]:
    return {each.name: each.value for each in parser.result()}


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_json(piece: int) -> None:
    parser = read((SAMPLES / "llama-bench.json").read_bytes(), piece=piece)
    assert figures(parser) == {PROMPT: pytest.approx(36547.216365), GENERATION: pytest.approx(8240.001301)}
    assert parser.model == "tiny-128-4-f16"


def test_json_lines() -> None:
    tests = json.loads((SAMPLES / "llama-bench.json").read_text())
    parser = read("\n".join(json.dumps(test) for test in tests))
    assert figures(parser) == {PROMPT: pytest.approx(36547.216365), GENERATION: pytest.approx(8240.001301)}
    assert parser.model == "tiny-128-4-f16"
    compact = read("".join(json.dumps(test, separators=(",", ":")) + "\n" for test in tests))
    assert figures(compact) == figures(parser)


def test_table() -> None:
    assert figures(read(TABLE)) == {PROMPT: pytest.approx(310.25), GENERATION: pytest.approx(18.75)}


def test_several_tests_of_a_kind_are_tokens_by_time() -> None:
    rows = ["| x | 1 | pp100 | 100.0 ± 1 |", "| x | 1 | pp300 | 600.0 ± 1 |"]
    assert figures(read("\n".join(rows)))[PROMPT] == pytest.approx(400 / 1.5)


def test_a_long_context_counts_only_alone() -> None:
    deep = "| x |   tg128 @ d4096 |  12.00 ± 0.02 |\n"
    assert figures(read(deep)) == {GENERATION: pytest.approx(12.0)}
    assert figures(read(deep + "| x | tg64 | 20.00 ± 0.02 |")) == {GENERATION: pytest.approx(20.0)}


@pytest.mark.parametrize(
    "text",
    [
        '{"n_prompt": 10, "n_gen": 10, "avg_ts": 5.0}',
        '{"n_prompt": 10, "n_gen": 0, "avg_ts": 0.0}',
        '{"avg_ts": 5.0}',
        "| pp512 | fast |",
        "| app512 | 5.0 |",
        '"n_prompt": ' + "9" * 100,
        "| tg128 | 0.00 ± 0.00 |",
    ],
)
def test_what_is_no_test(text: str) -> None:
    assert figures(read(text)) == {}


def test_each_test_stands_for_itself() -> None:
    text = '{"n_prompt": 5, "avg_ts": 10.0}\n{"n_gen": 7, "avg_ts": 20.0}'
    assert figures(read(text)) == {PROMPT: pytest.approx(10.0), GENERATION: pytest.approx(20.0)}


def test_timing_lines_go_before_a_bench() -> None:
    line = "llama_perf_context_print:        eval time =    1000.00 ms /    20 runs\n"
    assert figures(read(TABLE + line))[GENERATION] == 20.0


def test_a_servers_requests_are_its_items() -> None:
    server = (SAMPLES / "llama-server.stderr.txt").read_bytes()
    assert figures(read(server))["items"] == 4
    assert "items" not in figures(read((SAMPLES / "llama-completion.err").read_bytes()))
    own = UserPattern(name="items", unit="answers", pattern=r"answered (?P<value>\d+)")
    for names in (("llama.cpp", own), (own, "llama.cpp")):
        found = [each for each in read(server + b"answered 7\n", *names).result() if each.name == "items"]
        assert [(each.value, each.unit) for each in found] == [(7.0, "answers")]


# --- models ---


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("llama_model_loader: loaded meta data with 26 key-value pairs and 339 tensors from /m m/qwen2-7b-q8_0.gguf "
         "(version GGUF V3 (latest))", "qwen2-7b-q8_0"),
        ("x: loaded meta data with 2 key-value pairs and 3 tensors from big-00001-of-00003.gguf (version V3)", "big"),
        ("0.00.006.554 I srv    load_model: loading model 'tiny-128-4-f16.gguf'", "tiny-128-4-f16"),
        ("[INFO ] stable-diffusion.cpp:197  - loading model from '../models/sd_xl_base_1.0.safetensors'",
         "sd_xl_base_1.0"),
        ("[INFO ] stable-diffusion.cpp:210  - loading diffusion model from 'flux1-dev-q4_0.gguf'", "flux1-dev-q4_0"),
        ("llm_load_print_meta: general.name     = Qwen2 7B Coder", "Qwen2 7B Coder"),
        ("print_info: general.name          = Qwen2 7B Coder ", "Qwen2 7B Coder"),
        ("llama_model_loader: - kv   2:   general.name str              = Qwen2 7B", "Qwen2 7B"),
        ("the general.name =", None),
        ("we are loading model number 3", None),
    ],
)  # fmt: skip
def test_the_model_is_read(line: str, model: str | None) -> None:
    assert read(line).model == model
    assert read(line + "\n").model == model
    assert read(line, "tqdm").model is None


def test_samples_name_their_model() -> None:
    assert read((SAMPLES / "llama-cli.out").read_bytes()).model == "tiny-128-4-f16"
    assert read((SAMPLES / "llama-server.stderr.txt").read_bytes()).model == "tiny-128-4-f16"


def test_the_first_file_is_the_model_and_goes_before_a_name() -> None:
    lines = ["general.name = Qwen2", "load_model: loading model 'main.gguf'", "load_model: loading model 'draft.gguf'"]
    assert read("\n".join(lines)).model == "main"


def test_a_name_is_text_of_bounded_length() -> None:
    assert read(b"general.name = \xff\x00\x1b[31mx").model == "\N{REPLACEMENT CHARACTER}[31mx"
    assert len(read("general.name = " + "y" * 3000).model or "") == 200
    assert model_of("/a/" + "z" * 999 + ".gguf") == "z" * 200
    assert model_of("/a/") is None


# --- bars of stable-diffusion.cpp, and progress ---


def test_bars_of_stable_diffusion_cpp() -> None:
    text = "\r".join(f"  |{'=' * n}>{' ' * (20 - n)}| {n}/20 - 2.69s/it" for n in range(1, 21))
    parser = read(text + "\n[INFO ] sampling completed, taking 53.80s\n")
    assert figures(parser) == {
        "iterations_per_second": pytest.approx(1 / 2.69), "seconds_per_iteration": 2.69, "iterations": 20}  # fmt: skip
    assert figures(read("  |==>   | 3/20 - 4.00it/s"))["iterations_per_second"] == 4.0
    assert figures(read("  |==>   | 3/20 - 0.00it/s")) == {}


def bar(n: int, total: int, elapsed: str, rate: str = "2.00it/s", text: str = "") -> str:
    return f"{text}{100 * n // total:3}%|██   | {n}/{total} [{elapsed}<00:05, {rate}]"


def test_progress_is_that_of_the_outer_bar() -> None:
    inner = [bar(n, 50, "00:25", text="Epoch 2/10: ") for n in (10, 25)]
    parser = read("\n".join([bar(2, 10, "01:40", "50.00s/it", "Epochs: "), *inner]))
    progress = parser.progress()
    assert progress is not None
    assert (progress.fraction, progress.seconds_left) == (0.2, pytest.approx(400.0))


def test_progress_of_a_plain_bar_and_of_none() -> None:
    progress = read(bar(5, 20, "00:02")).progress()
    assert progress is not None
    assert (progress.fraction, progress.seconds_left) == (0.25, pytest.approx(7.5))
    assert read("hello").progress() is None
    assert read(bar(5, 20, "00:02"), "llama.cpp").progress() is None


def test_a_complete_bar_then_a_new_one_of_the_kind() -> None:
    done = read(bar(20, 20, "00:10")).progress()
    assert done is not None
    assert (done.fraction, done.seconds_left) == (1.0, None)
    again = read(bar(20, 20, "00:10") + "\n" + bar(5, 20, "00:25", "0.20it/s")).progress()
    assert again is not None
    assert (again.fraction, again.seconds_left) == (0.25, pytest.approx(75.0))


def test_loading_is_not_the_work() -> None:
    progress = read(bar(1, 9, "50:00", text="Loading checkpoint: ") + "\n" + bar(5, 10, "00:01")).progress()
    assert progress is not None
    assert progress.fraction == 0.5


def test_a_users_pattern_tells_the_progress() -> None:
    own = UserPattern(name="progress", unit="%", pattern=r"done (?P<value>[0-9.]+) %")
    progress = read(bar(5, 20, "00:02") + "\ndone 40.5 %\n", "tqdm", own).progress()
    assert progress is not None
    assert (progress.fraction, progress.seconds_left) == (0.405, None)
    beyond = read(bar(5, 20, "00:02") + "\ndone 4000 %\n", "tqdm", own).progress()
    assert beyond is not None
    assert beyond.fraction == 0.25
