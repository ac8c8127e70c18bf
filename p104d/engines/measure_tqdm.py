"""Progress bars of tqdm (https://github.com/tqdm/tqdm): ``desc: 50%|█████| 10/20 [00:00<00:00, 21.28it/s, loss=1]``,
and those of stable-diffusion.cpp (https://github.com/leejet/stable-diffusion.cpp): ``|====>    | 10/20 - 2.69s/it``."""

from __future__ import annotations

import re
from typing import ClassVar

import msgspec

from p104d.core.job import Measurement
from p104d.engines.measure_names import BARS

#: Kinds of bars told apart in one job; the one with the fewest iterations goes first.
MAX_BARS = 64
#: With the whole seconds that a bar prints, 20 of them give a rate within 5 %.
_LONG_ENOUGH_SECONDS = 20

_BAR = re.compile(
    rb"(?P<percent>\d{1,3})%(?:\|[^|]{0,1024}\|)? {0,8}"
    rb"(?P<n>\d{1,15}(?:\.\d{1,6})?[kMGT]?)/(?P<total>\d{1,15}(?:\.\d{1,6})?[kMGT]?) "
    rb"\[(?P<elapsed>\d{1,6}(?::\d\d){1,2})<[^,\]]{1,20}, {0,8}"
    rb"(?P<rate>\d{1,12}(?:\.\d{1,6})?)(?P<scale>[kMGT]?)(?P<unit>it/s|s/it)[,\]]"
)
_PLAIN_BAR = re.compile(
    rb"\|[=>#\xe2\x96\x80-\x9f ]{1,400}\| (?P<n>\d{1,15})/(?P<total>\d{1,15}) - "
    rb"(?P<rate>\d{1,12}(?:\.\d{1,6})?)(?P<unit>it/s|s/it)"
)
_ESCAPE = re.compile(rb"\x1b\[[0-9;?]{0,16}[A-Za-z]")
_DIGITS = re.compile(rb"\d+")
_SCALES = {b"": 1.0, b"k": 1e3, b"M": 1e6, b"G": 1e9, b"T": 1e12}
#: Bars about getting ready, not about the work; they count only where there is no other.
_PREPARING = (b"loading", b"downloading", b"fetching", b"resolving", b"generating train", b"saving", b"unpacking")


class _Bar(msgspec.Struct):
    """Bars of one description and total, one after the other. ``done``: iterations of those before the present one;
    ``rate``: it/s of the last one that was complete, else of the present one."""

    order: int
    done: float = 0.0
    n: float = 0.0
    total: float = 0.0
    elapsed: float = 0.0
    speed: float = 0.0
    rate: float = 0.0
    complete: bool = False

    def iterations(self) -> float:
        return self.done + self.n

    def update(self, n: float, total: float, rate: float, elapsed: float) -> None:
        if n < self.n:
            self.done += self.n
        self.n, self.total, self.elapsed = n, total, elapsed
        # Of the present bar; `rate` may be that of a complete one before it.
        self.speed = n / elapsed if elapsed >= _LONG_ENOUGH_SECONDS else rate
        if n >= total:
            # The last line of a bar that ran to its end has the rate over all of it, as tqdm prints it on closing.
            self.rate, self.complete = rate, True
        elif not self.complete:
            self.rate = self.speed


class Progress(msgspec.Struct, frozen=True):
    """How far a bar is (0..1), and in how many seconds it ends at its present speed; None: nobody can tell."""

    fraction: float
    seconds_left: float | None


class TqdmReader:
    """The speed of a job's main progress bar.

    Bars that differ only in the digits of their description, and have the same total, are one kind of bar. The main
    bar is the kind with the most iterations over the whole job (the inner one of nested bars; bars about loading and
    downloading only where there is no other). ``iterations_per_second`` is the rate over the whole of the last
    complete bar of that kind; where none is complete, iterations by elapsed time once that is 20 s, before that the
    (smoothed) rate that the bar prints. ``seconds_per_iteration`` is its inverse, ``iterations`` the sum over all bars
    of the kind. ``?it/s`` is no rate. Bars in other units (bytes, say) are not read.
    """

    names: ClassVar[tuple[str, ...]] = BARS
    needles: ClassVar[tuple[tuple[bytes, bytes], ...]] = ((b"/", b"it/s"), (b"/", b"s/it"))

    def __init__(self) -> None:
        self._bars: dict[tuple[bytes, bytes], _Bar] = {}
        self._seen = 0

    def read_line(self, line: bytes) -> None:
        """Take one line; several bars that lost their line ends on the way are read one by one."""
        start = 0
        if b"| " in line and b" - " in line:
            self._read_plain(line)
        for match in _BAR.finditer(line):
            description = _DIGITS.sub(b"#", _ESCAPE.sub(b"", line[start : match.start()]).strip()[-200:])
            start = match.end()
            rate = float(match["rate"]) * _SCALES[match["scale"]]
            if rate <= 0:
                continue
            if match["unit"] == b"s/it":
                rate = 1 / rate
            self._bar((description, match["total"])).update(
                _number(match["n"]), _number(match["total"]), rate, _seconds(match["elapsed"])
            )

    def _read_plain(self, line: bytes) -> None:
        """A bar that prints the speed of its newest step, and no time."""
        for match in _PLAIN_BAR.finditer(line):
            rate = float(match["rate"])
            if rate > 0:
                rate = 1 / rate if match["unit"] == b"s/it" else rate
                bar = self._bar((b"", match["total"]))
                bar.update(float(match["n"]), float(match["total"]), rate, 0.0)

    def progress(self) -> Progress | None:
        """How far the job is, as its longest-running unfinished bar says: of nested bars that is the outer one. Where
        all are complete, the last one is; None without a bar."""
        bars = list(self._working().values())
        if not bars:
            return None
        going = [bar for bar in bars if bar.n < bar.total]
        if not going:
            return Progress(1.0, None)
        bar = max(going, key=lambda each: (each.elapsed, -each.order))
        left = (bar.total - bar.n) / bar.speed if bar.speed > 0 else None
        return Progress(bar.n / bar.total, left)

    def _working(self) -> dict[tuple[bytes, bytes], _Bar]:
        working = {key: bar for key, bar in self._bars.items() if not key[0].lower().startswith(_PREPARING)}
        return working or self._bars

    def result(self) -> list[Measurement]:
        """Nothing, or the three figures of the main bar."""
        if not self._bars:
            return []
        main = max(self._working().values(), key=lambda bar: (bar.iterations(), bar.order))
        return [
            Measurement(name="iterations_per_second", value=main.rate, unit="it/s"),
            Measurement(name="seconds_per_iteration", value=1 / main.rate, unit="s/it"),
            Measurement(name="iterations", value=main.iterations(), unit="it"),
        ]

    def _bar(self, key: tuple[bytes, bytes]) -> _Bar:
        bar = self._bars.get(key)
        if bar is None:
            if len(self._bars) >= MAX_BARS:
                del self._bars[min(self._bars, key=lambda other: self._bars[other].iterations())]
            self._seen += 1
            bar = self._bars[key] = _Bar(self._seen)
        return bar


def _number(text: bytes) -> float:
    scale = text[-1:] if text[-1:].isalpha() else b""
    return float(text.removesuffix(scale)) * _SCALES[scale]


def _seconds(text: bytes) -> float:
    seconds = 0
    for part in text.split(b":"):
        seconds = seconds * 60 + int(part)
    return float(seconds)
