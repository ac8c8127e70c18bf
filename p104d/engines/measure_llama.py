"""Timing lines of llama.cpp (https://github.com/ggml-org/llama.cpp), of its older and newer programs and its server."""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec

from p104d.core.job import Measurement
from p104d.engines.measure_batch import BatchReader
from p104d.engines.measure_bench import BenchReader
from p104d.engines.measure_model import ModelReader
from p104d.engines.measure_names import ITEMS, LLAMA
from p104d.engines.measure_tqdm import Progress

_TIME = re.compile(
    rb"(?:^|[\s|:])(?P<what>prompt eval|generation eval|eval|load) time {0,8}= {0,16}(?P<ms>\d{1,12}(?:\.\d{1,6})?) ms"
    rb"(?: {0,8}/ {0,16}(?P<n>\d{1,12}) (?:tokens|runs)\b)?"
)
_RATES = re.compile(
    rb"\[ Prompt: (?P<prompt>\d{1,12}(?:\.\d{1,6})?) t/s \| Generation: (?P<generation>\d{1,12}(?:\.\d{1,6})?) t/s \]"
)


class _Total(msgspec.Struct):
    """Tokens and the milliseconds they took."""

    tokens: int = 0
    milliseconds: float = 0.0


class _Source(msgspec.Struct):
    """What one kind of lines adds up to."""

    prompt: _Total
    generation: _Total


class LlamaReader:
    """Speeds of prompt and generation, over all requests: tokens by the time that was spent on them.

    A server's lines (one set a request: ``slot print_timing: ...``, and the unprefixed ones of old servers) are taken
    where there are any, else those that a context prints when it ends (``llama_print_timings:``,
    ``llama_perf_context_print:``, ``common_perf_print:``), so that nothing counts twice. Requests in parallel slots
    each have their own time: the speed is that of one request, not of the server. Where neither is printed, the
    speeds are those of llama-bench, else those of llama-cli's last ``[ Prompt: ... t/s | Generation: ... t/s ]``, and
    tokens are unknown. ``load_seconds`` is the last load time printed, ``items`` the requests that a server answered.
    ``model`` is the model that was loaded. Where a batch runner counted (``BatchReader``), its figures stand for all.
    """

    names: ClassVar[tuple[str, ...]] = LLAMA
    needles: ClassVar[tuple[tuple[bytes, bytes], ...]] = (
        (b"=", b" time"),
        (b"/", b" t/s | "),
        *BatchReader.needles,
        *BenchReader.needles,
        *ModelReader.needles,
    )

    def __init__(self) -> None:
        self._server = _Source(_Total(), _Total())
        self._context = _Source(_Total(), _Total())
        self._rates: tuple[float, float] | None = None
        self._load_milliseconds: float | None = None
        self._requests = 0
        self._batch, self._bench, self._model = BatchReader(), BenchReader(), ModelReader()

    @property
    def model(self) -> str | None:
        """The model that was loaded, as far as it was printed."""
        return self._model.model

    def read_line(self, line: bytes) -> None:
        """Take one line; the time of day that may begin it does not matter."""
        rates = _RATES.search(line)
        if rates is not None:
            self._rates = float(rates["prompt"]), float(rates["generation"])
            return
        match = _TIME.search(line)
        if match is None:
            self._batch.read_line(line)
            self._bench.read_line(line)
            self._model.read_line(line)
            return
        milliseconds = float(match["ms"])
        if match["what"] == b"load":
            self._load_milliseconds = milliseconds
        elif match["n"] is not None:
            source = self._context if _is_context(line[: match.start("what")]) else self._server
            self._requests += source is self._server and match["what"] != b"prompt eval"
            total = source.prompt if match["what"] == b"prompt eval" else source.generation
            total.tokens += int(match["n"])
            total.milliseconds += milliseconds

    def progress(self) -> Progress | None:
        """How far a batch is; None where nobody counts."""
        return self._batch.progress()

    def result(self) -> list[Measurement]:
        """What is known, in the order of ``names``."""
        if counted := self._batch.result():
            return counted
        server = self._server.prompt.tokens + self._server.generation.tokens > 0
        source = self._server if server else self._context
        prompt, generation = self._rates or (0.0, 0.0)
        figures = (
            ("prompt_tokens_per_second", _rate(source.prompt) or self._bench.prompt_rate or prompt, "tokens/s"),
            (
                "generation_tokens_per_second",
                _rate(source.generation) or self._bench.generation_rate or generation,
                "tokens/s",
            ),
            ("prompt_tokens", float(source.prompt.tokens), "tokens"),
            ("generation_tokens", float(source.generation.tokens), "tokens"),
            ("load_seconds", (self._load_milliseconds or 0.0) / 1000, "s"),
            (ITEMS, float(self._requests), "requests"),
        )
        return [Measurement(name=name, value=value, unit=unit) for name, value, unit in figures if value > 0]


def _is_context(prefix: bytes) -> bool:
    return b"perf" in prefix or b"llama_print_timings" in prefix


def _rate(total: _Total) -> float:
    return total.tokens / total.milliseconds * 1000 if total.milliseconds > 0 else 0.0
