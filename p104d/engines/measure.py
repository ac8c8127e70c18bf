"""Figures read from what a job prints, while it prints it, at a bounded cost in memory and time.

Measurements and their units, stable names:

- ``tqdm``: ``iterations_per_second`` (it/s), ``seconds_per_iteration`` (s/it), ``iterations`` (it): see ``TqdmReader``.
- ``llama.cpp``: ``prompt_tokens_per_second``, ``generation_tokens_per_second`` (tokens/s), ``prompt_tokens``,
  ``generation_tokens`` (tokens), ``load_seconds`` (s), ``items`` (requests): see ``LlamaReader``.
- a user's pattern: its own name and unit, the last value seen: see ``PatternReader``. A pattern named ``items`` counts
  in place of what others take for an item; one named ``progress`` says how far the job is, in per cent.

Output is looked at in pieces of 64 KiB. A piece without any of the few words that matter costs a search for them and
nothing else. Lines end at ``\\n`` or ``\\r``; of a line longer than 4 KiB only the beginning is looked at. The time
spent on pieces that do matter is held to a share of the time that passes: output that prints faster than it can be
read loses lines (counted in ``skipped_bytes``), never the daemon. A log that is there already is read by ``read``, in a
given time; a user's patterns come last there, so that they take no time from what p104d itself reads.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence

from p104d.core.job import Measurement, UserPattern
from p104d.engines.measure_llama import LlamaReader
from p104d.engines.measure_names import BARS, ITEMS, LLAMA, PROGRESS, USAGE
from p104d.engines.measure_pattern import PatternReader, check_pattern
from p104d.engines.measure_tqdm import Progress, TqdmReader

__all__ = ["ITEMS", "PARSERS", "PROGRESS", "RESERVED_NAMES", "OutputParser", "Progress", "check_pattern"]

#: What ``measure:`` may name.
PARSERS = ("tqdm", "llama.cpp")
#: Names that a user's pattern may not take.
RESERVED_NAMES = frozenset(BARS + LLAMA + USAGE)

PIECE_BYTES = 64 * 1024
MAX_LINE_BYTES = 4096
#: Time that may be spent at once before the share begins to bind: a million lines or so.
BURST_SECONDS = 1.0

#: Of a log that there is no time for, the lines that are read all the same: the newest say most.
_NEWEST_LINES = 100

#: llama.cpp says the first when it was built without a GPU backend, the second when the driver gives it no card.
_FALLBACK = (b"no usable GPU found", b"failed to initialize CUDA")

Reader = TqdmReader | LlamaReader | PatternReader


class OutputParser:
    """Reads one attempt's output as it comes.

    ``names`` is JobSpec.measure. ``cpu_fallback`` becomes true when llama.cpp says that it runs without a GPU, whatever
    ``names`` has. ``clock`` gives seconds; ``cpu_share`` is the part of passing time that reading may take.
    Never raises for any input. Not for several threads at once.
    """

    def __init__(
        self,
        names: Sequence[str | UserPattern],
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_share: float = 0.2,
    ) -> None:
        """Raises ValueError for a name not in PARSERS. A pattern that ``check_pattern`` refuses (a job's of before it
        did) is left out."""
        self._readers = [reader for name in names if (reader := _reader(name, clock)) is not None]
        self._needles = tuple(needle for reader in self._readers for needle in reader.needles)
        self._reads_all = any(isinstance(reader, PatternReader) for reader in self._readers)
        self._line = b""
        self._overlong = False
        self._clock = clock
        self._share = cpu_share
        self._left = BURST_SECONDS
        self._last = clock()
        self.cpu_fallback = False
        self.skipped_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of output; any size, cut anywhere."""
        for start in range(0, len(chunk), PIECE_BYTES):
            self._piece(chunk[start : start + PIECE_BYTES])

    def read(self, text: bytes, *, seconds: float, pattern_seconds: float) -> bool:
        """Take output that is all there is, in so many seconds at most, and a line's; whether that was time enough.

        Where it was not, the newest lines are read nevertheless. A pattern has its value from the newest line that it
        matches: it begins there, and is done with the first.
        """
        lines = [line[:MAX_LINE_BYTES] for line in text.replace(b"\r", b"\n").split(b"\n") if line]
        if not self.cpu_fallback:
            self.cpu_fallback = any(words in text for words in _FALLBACK)
        patterns = [reader for reader in self._readers if isinstance(reader, PatternReader)]
        built_in = [reader for reader in self._readers if not isinstance(reader, PatternReader)]
        read = self._forward(built_in, lines, seconds)
        return self._backward(patterns, lines, pattern_seconds) and read

    def _forward(self, readers: Sequence[Reader], lines: list[bytes], seconds: float) -> bool:
        until, skipped = self._clock() + seconds, 0
        newest = max(0, len(lines) - _NEWEST_LINES)
        for number, line in enumerate(lines if readers else ()):
            if number < newest and _has_any(self._needles, line) and self._clock() > until:
                skipped += len(line)
                continue
            _read(readers, line)
        self.skipped_bytes += skipped
        return not skipped

    def _backward(self, readers: Sequence[PatternReader], lines: list[bytes], seconds: float) -> bool:
        until, left = self._clock() + seconds, readers
        for line in reversed(lines if readers else ()):
            for reader in left:
                if self._clock() > until:
                    return False
                reader.read_line(line)
            left = [reader for reader in left if not reader.given_up and not reader.result()]
            if not left:
                break
        return True

    def result(self) -> list[Measurement]:
        """What was read so far, the unfinished last line included; may be asked at any time, and again. Every name
        comes once; what a user's pattern calls ``items`` stands for what others call so."""
        found: dict[str, Measurement] = {}
        for reader in self._up_to_now():
            for measurement in reader.result():
                if isinstance(reader, PatternReader) or measurement.name not in found:
                    found[measurement.name] = measurement
        return list(found.values())

    def progress(self) -> Progress | None:
        """How far the job is: by a user's pattern of that name, else by its progress bars or a batch's own count; None:
        nobody says."""
        readers = self._up_to_now()
        for reader in readers:
            if isinstance(reader, PatternReader):
                for measurement in reader.result():
                    if measurement.name == PROGRESS and 0 <= measurement.value <= 100:
                        return Progress(measurement.value / 100, None)
        told = (reader.progress() for reader in readers if not isinstance(reader, PatternReader))
        return next((progress for progress in told if progress is not None), None)

    @property
    def model(self) -> str | None:
        """The model that the job said it loaded."""
        return next((reader.model for reader in self._up_to_now() if isinstance(reader, LlamaReader)), None)

    def _up_to_now(self) -> list[Reader]:
        if not self._line or self._overlong:
            return self._readers
        readers = copy.deepcopy(self._readers)
        _read(readers, self._line)
        return readers

    def _piece(self, piece: bytes) -> None:
        """Whole lines are read; what follows the last line end waits for the next piece."""
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if end == 0:
            self._keep(piece)
            return
        block = piece[:end] if self._overlong else self._line + piece[:end]
        if self._overlong:
            block = block[min(p for p in (block.find(b"\n"), block.find(b"\r")) if p >= 0) :]
        self._line, self._overlong = b"", False
        self._keep(piece[end:])
        self._block(block)

    def _keep(self, part: bytes) -> None:
        """Add to the unfinished line. One that grows too long is read as far as it is kept, and its rest dropped."""
        if self._overlong:
            return
        self._line += part
        if len(self._line) > MAX_LINE_BYTES:
            line, self._line, self._overlong = self._line, b"", True
            self._block(line)

    def _block(self, block: bytes) -> None:
        if not self.cpu_fallback:
            self.cpu_fallback = any(text in block for text in _FALLBACK)
        if not self._reads_all and not _has_any(self._needles, block):
            return
        began = self._clock()
        self._left = min(BURST_SECONDS, self._left + (began - self._last) * self._share)
        self._last = began
        if self._left <= 0:
            self.skipped_bytes += len(block)
            return
        for line in block.replace(b"\r", b"\n").split(b"\n"):
            if line:
                _read(self._readers, line[:MAX_LINE_BYTES])
        self._left -= self._clock() - began


def _read(readers: Sequence[Reader], line: bytes) -> None:
    for reader in readers:
        if not reader.needles or _has_any(reader.needles, line):
            reader.read_line(line)


def _has_any(needles: tuple[tuple[bytes, bytes], ...], text: bytes) -> bool:
    """Whether one of the words is in ``text``. The rare byte of each is looked for first: that is twenty times faster,
    and most output has neither."""
    return any(byte in text and word in text for byte, word in needles)


def _reader(name: str | UserPattern, clock: Callable[[], float]) -> Reader | None:
    if isinstance(name, UserPattern):
        try:
            return PatternReader(name, clock)
        except ValueError:
            return None
    if name == "tqdm":
        return TqdmReader()
    if name == "llama.cpp":
        return LlamaReader()
    raise ValueError(f"{name!r} is not a measure; the measures are {', '.join(PARSERS)}")
