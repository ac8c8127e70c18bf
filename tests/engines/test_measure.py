from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p104d.core.job import UserPattern
from p104d.engines import measure_tqdm
from p104d.engines.measure import BURST_SECONDS, MAX_LINE_BYTES, PARSERS, PIECE_BYTES, RESERVED_NAMES, OutputParser
from p104d.engines.measure_names import BARS, LLAMA

SAMPLES = Path(__file__).parent.parent / "data" / "output"
NAMES = ("tqdm", "llama.cpp")
BAR = " 50%|█████     | {n}/{total} [{elapsed}<00:09, {rate}]"


def still() -> float:
    """A clock that never runs out of a budget."""
    return 0.0


def parser(*names: str | UserPattern) -> OutputParser:
    return OutputParser(names or NAMES, clock=still)


def figures(output: bytes | str, *names: str | UserPattern) -> dict[str, float]:
    reader = parser(*names)
    reader.feed(output.encode() if isinstance(output, str) else output)
    return {measurement.name: measurement.value for measurement in reader.result()}


def sample(name: str) -> bytes:
    return (SAMPLES / name).read_bytes()


def bar(n: str = "10", total: str = "20", elapsed: str = "00:01", rate: str = "5.00it/s") -> str:
    return BAR.format(n=n, total=total, elapsed=elapsed, rate=rate)


class TestTqdm:
    def test_diffusers(self) -> None:
        found = figures(sample("tqdm_diffusers.txt"))
        assert found == {"iterations_per_second": 21.02, "seconds_per_iteration": 1 / 21.02, "iterations": 20.0}

    def test_three_bars_one_after_the_other(self) -> None:
        """Twenty fast iterations, four slow ones, and loading: the first did the work."""
        found = figures(sample("tqdm_raw.txt"))
        assert found["iterations_per_second"] == 19.84
        assert found["iterations"] == 20

    def test_seconds_per_iteration(self) -> None:
        slow = sample("tqdm_raw.txt").split(b"\n")[1]
        found = figures(slow)
        assert found["seconds_per_iteration"] == pytest.approx(1.40)
        assert found["iterations_per_second"] == pytest.approx(1 / 1.40)
        assert found["iterations"] == 4

    def test_loading_counts_only_alone(self) -> None:
        loading = sample("tqdm_raw.txt").split(b"\n")[2]
        assert figures(loading)["iterations_per_second"] == 3.31
        assert figures(loading + b"\n" + bar(n="2", total="2").encode())["iterations_per_second"] == 5.0

    def test_no_rate_yet(self) -> None:
        assert figures("  0%|          | 0/20 [00:00<?, ?it/s]") == {}
        assert figures(bar(rate="?it/s")) == {}
        assert figures(bar(rate="0.00it/s")) == {}

    def test_an_unfinished_bar_is_measured_by_its_elapsed_time_once_that_says_enough(self) -> None:
        assert figures(bar(n="10", elapsed="00:05"))["iterations_per_second"] == 5.0
        assert figures(bar(n="100", total="200", elapsed="00:50"))["iterations_per_second"] == 2.0
        assert figures(bar(n="7200", total="9000", elapsed="1:00:00"))["iterations_per_second"] == 2.0

    def test_a_complete_bar_says_its_rate_itself(self) -> None:
        assert figures(bar(n="200", total="200", elapsed="00:50", rate="3.99it/s"))["iterations_per_second"] == 3.99

    def test_the_last_complete_bar_of_a_kind_wins_and_iterations_add_up(self) -> None:
        lines = [bar(n="5", total="10", rate="1.00it/s"), bar(n="10", total="10", rate="4.00it/s")]
        lines += [bar(n="10", total="10", rate="8.00it/s"), bar(n="0", total="10", rate="?it/s")]
        lines += [bar(n="3", total="10", rate="2.00it/s")]
        found = figures("\r".join(lines))
        assert found["iterations_per_second"] == 8.0
        assert found["iterations"] == 13

    def test_nested_bars(self) -> None:
        """The inner bar has its epoch in the description, and the cursor is moved up between them."""
        lines = []
        for epoch in range(3):
            lines.append("Epochs: " + bar(n=str(epoch + 1), total="3", rate="9.00s/it"))
            lines += [
                f"\x1b[A\rEpoch {epoch}/3: " + bar(n=str(n), total="50", rate="5.50it/s, loss=0.1") for n in (25, 50)
            ]
        found = figures("\n".join(lines))
        assert found["iterations_per_second"] == 5.5
        assert found["iterations"] == 150

    def test_scaled_numbers_and_no_bar(self) -> None:
        assert figures(bar(n="1.50k", total="1.50k", rate="2.00kit/s"))["iterations_per_second"] == 2000
        assert figures(" 50% 10/20 [00:01<00:01,  4.00it/s]")["iterations_per_second"] == 4.0

    def test_bars_that_lost_their_line_ends(self) -> None:
        text = bar(n="1", rate="1.00it/s") + bar(n="2", rate="2.00it/s") + bar(n="20", rate="3.00it/s")
        assert figures(text)["iterations_per_second"] == 3.0

    @pytest.mark.parametrize(
        "text",
        [
            "model.bin: 100%|██████████| 5.00G/5.00G [00:10<00:00, 500MB/s]",
            "we reach 30it/s with this",
            "50%|█| 1/2 [00:01<00:01, 3.0it/s",
            "it/s" * 2000,
            "1%" * 3000 + "it/s",
            "1%|" * 1000 + "it/s]",
        ],
    )
    def test_what_is_no_bar(self, text: str) -> None:
        assert figures(text) == {}

    def test_kinds_of_bars_are_bounded(self) -> None:
        reader = measure_tqdm.TqdmReader()
        for i in range(1000):
            reader.read_line(bar(n="1", total=str(i + 1)).encode())
        reader.read_line(bar(n="500", total="900").encode())
        assert len(reader._bars) == measure_tqdm.MAX_BARS
        assert reader.result()[2].value == 500


class TestLlama:
    def test_server_adds_up_its_requests(self) -> None:
        found = figures(sample("llama-server.stderr.txt"))
        assert found["prompt_tokens"] == 30 + 19 + 2 + 1
        assert found["generation_tokens"] == 32 + 16 + 16 + 4
        assert found["prompt_tokens_per_second"] == pytest.approx(52 / (2.16 + 1.47 + 0.78 + 3.02) * 1000)
        assert found["generation_tokens_per_second"] == pytest.approx(68 / (7.52 + 3.17 + 7.71 + 1.24) * 1000)
        assert "load_seconds" not in found

    def test_completion(self) -> None:
        found = figures(sample("llama-completion.err"))
        assert found["prompt_tokens"] == 13
        assert found["generation_tokens"] == 31
        assert found["generation_tokens_per_second"] == pytest.approx(31 / 3.45 * 1000)
        assert found["load_seconds"] == pytest.approx(0.00312)

    def test_cli_prints_rates_alone(self) -> None:
        found = figures(sample("llama-cli.out"))
        assert found == {"prompt_tokens_per_second": 14243.3, "generation_tokens_per_second": 3213.4}

    def test_the_oldest_lines(self) -> None:
        text = (
            "llama_print_timings:        load time =  1234.56 ms\n"
            "llama_print_timings:      sample time =    10.00 ms /   100 runs   (    0.10 ms per token, 10000 ...)\n"
            "llama_print_timings: prompt eval time =   500.00 ms /    50 tokens (   10.00 ms per token,   100.00 ...)\n"
            "llama_print_timings:        eval time =  4000.00 ms /    99 runs   (   40.40 ms per token,    24.75 ...)\n"
            "llama_print_timings:       total time =  4600.00 ms /   149 tokens\n"
        )
        assert figures(text) == {
            "prompt_tokens_per_second": 100.0,
            "generation_tokens_per_second": 24.75,
            "prompt_tokens": 50,
            "generation_tokens": 99,
            "load_seconds": pytest.approx(1.23456),
        }

    def test_an_old_servers_unprefixed_lines_and_a_context_beside_them_count_once(self) -> None:
        text = (
            "slot print_timing: id  0 | task 0 | \n"
            "prompt eval time     =     100.00 ms /    10 tokens (   10.00 ms per token,   100.00 tokens per second)\n"
            "       eval time     =    1000.00 ms /    20 tokens (   50.00 ms per token,    20.00 tokens per second)\n"
            "      total time     =    1100.00 ms /    30 tokens\n"
            "llama_perf_context_print: prompt eval time =     100.00 ms /    10 tokens\n"
            "llama_perf_context_print:        eval time =    1000.00 ms /    20 runs\n"
        )
        found = figures(text)
        assert (found["prompt_tokens"], found["generation_tokens"]) == (10, 20)
        assert (found["prompt_tokens_per_second"], found["generation_tokens_per_second"]) == (100.0, 20.0)

    def test_no_time_at_all_is_no_speed(self) -> None:
        text = (
            "common_perf_print:        eval time =       0.00 ms /     1 runs   (    0.00 ms per token,      inf tokens"
        )
        assert figures(text) == {"generation_tokens": 1.0}

    @pytest.mark.parametrize(
        "text", ["a time = 5 ms", "eval time = x ms", "real time = 3", "retrieval time = 4 ms / 3 tokens"]
    )
    def test_what_is_no_timing(self, text: str) -> None:
        assert figures(text) == {}


def test_the_silent_fallback_is_noticed_whatever_is_measured() -> None:
    for name in ("llama-completion.err", "llama-server.stderr.txt"):
        reader = OutputParser([], clock=still)
        reader.feed(sample(name))
        assert reader.cpu_fallback
        assert reader.result() == []
    reader = parser()
    reader.feed(sample("llama-cli.out"))
    assert not reader.cpu_fallback
    for byte in b"ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected\n":
        reader.feed(bytes([byte]))
    assert reader.cpu_fallback


def test_only_what_is_asked_for_is_read() -> None:
    everything = sample("tqdm_raw.txt") + sample("llama-cli.out")
    assert set(figures(everything, "tqdm")) == set(measure_tqdm.TqdmReader.names)
    assert "iterations" not in figures(everything, "llama.cpp")
    assert set(figures(everything + sample("llama-completion.err"))) == {*BARS, *LLAMA} < RESERVED_NAMES
    with pytest.raises(ValueError, match="is not a measure"):
        OutputParser(["nvidia"])
    assert PARSERS == NAMES


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.lists(st.integers(1, 3000), min_size=1, max_size=12),
    st.none() | st.integers(-2, 2),
)
def test_how_output_is_cut_does_not_matter(parts: list[int], sizes: list[int], long_lines: int | None) -> None:
    names = ["tqdm_raw.txt", "tqdm_diffusers.txt", "llama-server.stderr.txt", "llama-completion.err", "llama-cli.out"]
    text = b"".join(sample(names[part]) for part in parts)
    if long_lines is not None:
        text = text.replace(b"\n", b"\n" + b"x" * (MAX_LINE_BYTES + long_lines) + b" it/s =\r", 2)
    whole, cut = parser(), parser()
    whole.feed(text)
    at = 0
    for count, size in enumerate(itertools.cycle(sizes)):
        if at >= len(text) or count > 500:
            break
        cut.feed(text[at : at + size])
        at += size
        cut.result()  # looking does not change what is seen
    cut.feed(text[at:])
    assert cut.result() == whole.result()
    assert cut.cpu_fallback == whole.cpu_fallback


def test_an_unfinished_line_counts_once() -> None:
    reader = parser()
    line = b"slot print_timing: id 0 | task 0 |        eval time =    1000.00 ms /    20 tokens (   50.00 ms per token"
    reader.feed(line)
    assert reader.result() == reader.result() != []
    before = reader.result()
    reader.feed(b", 20.00 tokens per second)\n")
    assert reader.result() == before


def test_binary_output_and_no_line_ends_stay_small() -> None:
    reader = parser()
    noise = random.Random(1).randbytes(1 << 20)
    for _ in range(2):
        reader.feed(noise)
        reader.feed(b"x" * (1 << 20))
        reader.feed(b"it/s =" * 100_000)
        reader.feed(b"it/s\r" * 100_000)
        assert len(reader._line) <= MAX_LINE_BYTES + 1
    reader.feed(b"\n" + bar(n="20", rate="7.00it/s").encode() + b"\n")
    assert reader.result()[0].value == 7.0


def test_of_a_long_line_the_beginning_is_read() -> None:
    early = bar(n="20").encode() + b" " * MAX_LINE_BYTES
    late = b" " * MAX_LINE_BYTES + bar(n="20").encode()
    for end in (b"", b"\n"):
        assert figures(early + end)
        assert not figures(late + end)
        assert figures(late + b"\n" + early + end)
    assert figures(b"a" * (PIECE_BYTES - 3) + b"\n" + early)


def test_reading_takes_its_share_of_time_and_no_more() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.1  # every block takes a tenth of a second
        return now

    reader = OutputParser(NAMES, clock=clock, cpu_share=0.0)
    line = bar(n="20").encode() + b"\n"
    blocks = int(BURST_SECONDS / 0.1)
    for _ in range(blocks + 5):
        reader.feed(line)
    assert 4 * len(line) <= reader.skipped_bytes <= 6 * len(line)
    assert reader.result()
    plain = reader.skipped_bytes
    reader.feed(b"nothing of interest\n")
    assert reader.skipped_bytes == plain

    rested = OutputParser(NAMES, clock=clock, cpu_share=0.5)
    for _ in range(blocks + 30):
        now += 0.2  # the job is quiet for twice as long as reading takes
        rested.feed(line)
    assert rested.skipped_bytes == 0
