"""Results of llama-bench (https://github.com/ggml-org/llama.cpp/tree/master/tools/llama-bench): its JSON, its JSON
lines, and the table that it prints otherwise."""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec

#: JSON is read key by key, so that neither line ends nor the length of a line matter. A test's keys come before its
#: speed in every release.
_KEY = re.compile(
    rb'"(?P<key>n_prompt|n_gen|n_depth|avg_ts)"\s{0,8}:\s{0,8}(?P<value>\d{1,12}(?:\.\d{1,9})?)(?=[,\s}]|$)'
)
_ROW = re.compile(
    rb"\| {0,64}(?P<kind>pp|tg)(?P<n>\d{1,9})(?: @ d(?P<depth>\d{1,9}))? {0,64}"
    rb"\| {0,64}(?P<speed>\d{1,12}(?:\.\d{1,6})?) \xc2\xb1 \S{1,32} {0,64}\|"
)


class _Speeds(msgspec.Struct):
    """Tests of one kind: their tokens, and the seconds that these took."""

    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, speed: float) -> None:
        if speed > 0:
            self.tokens += tokens
            self.seconds += tokens / speed

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


class BenchReader:
    """Speeds of prompt and generation over all tests of a run: tokens by time. Tests of both at once are left out;
    tests into an already long context (``n_depth``) count only where there are no others."""

    needles: ClassVar[tuple[tuple[bytes, bytes], ...]] = (
        (b'"', b'"n_'),
        (b'"', b'"avg_ts"'),
        (b"\xb1", b" \xc2\xb1 "),
    )

    def __init__(self) -> None:
        self._prompt = (_Speeds(), _Speeds())
        self._generation = (_Speeds(), _Speeds())
        self._keys: dict[bytes, float] = {}

    def read_line(self, line: bytes) -> None:
        """Take one line."""
        if b"|" in line:
            for row in _ROW.finditer(line):
                deep = bool(int(row["depth"] or 0))
                kind = self._prompt if row["kind"] == b"pp" else self._generation
                kind[deep].add(int(row["n"]), float(row["speed"]))
            return
        for match in _KEY.finditer(line):
            if match["key"] == b"avg_ts":
                self._test(float(match["value"]))
                self._keys = {}
            else:
                self._keys[match["key"]] = float(match["value"])

    def _test(self, speed: float) -> None:
        prompt, generated = int(self._keys.get(b"n_prompt", 0)), int(self._keys.get(b"n_gen", 0))
        deep = self._keys.get(b"n_depth", 0.0) > 0
        if prompt and not generated:
            self._prompt[deep].add(prompt, speed)
        elif generated and not prompt:
            self._generation[deep].add(generated, speed)

    @property
    def prompt_rate(self) -> float:
        """Tokens a second, 0 for none."""
        return self._prompt[0].rate or self._prompt[1].rate

    @property
    def generation_rate(self) -> float:
        """Tokens a second, 0 for none."""
        return self._generation[0].rate or self._generation[1].rate
