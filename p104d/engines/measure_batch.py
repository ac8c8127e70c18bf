"""The line of progress that a batch runner (``batch_report``) prints now and then: all its figures are totals."""

from __future__ import annotations

import re
from typing import ClassVar

from p104d.core.job import Measurement
from p104d.engines.measure_names import GENERATION_SPEED, GENERATION_TOKENS, ITEMS, PROMPT_SPEED, PROMPT_TOKENS
from p104d.engines.measure_tqdm import Progress

_NUMBER = rb"(\d{1,15}(?:\.\d{1,6})?)"
_LINE = re.compile(
    rb"^batch: (\d{1,12})/(\d{1,12}) requests, (\d{1,12}) from before, (\d{1,12}) failed; "
    rb"prompt " + _NUMBER + rb" tokens, " + _NUMBER + rb" tokens/s; "
    rb"generation " + _NUMBER + rb" tokens, " + _NUMBER + rb" tokens/s; "
    rb"all together " + _NUMBER + rb" tokens/s; " + _NUMBER + rb" s, (\d{1,18}|\?) s left"
)


class BatchReader:
    """The newest line counts. Speeds are those of one request, as of other programs of llama.cpp; tokens and ``items``
    are of this run, without what an earlier one had answered."""

    needles: ClassVar[tuple[tuple[bytes, bytes], ...]] = ((b";", b"batch: "),)

    def __init__(self) -> None:
        self._figures: tuple[float, ...] = ()
        self._left: float | None = None

    def read_line(self, line: bytes) -> None:
        """Take one line."""
        match = _LINE.match(line)
        if match is not None:
            *figures, left = match.groups()
            self._figures = tuple(float(each) for each in figures)
            self._left = None if left == b"?" else float(left)

    def result(self) -> list[Measurement]:
        """Nothing, or what the newest line has."""
        if not self._figures:
            return []
        done, _total, before, failed, prompt, prompt_speed, generated, speed, *_ = self._figures
        found = (
            (PROMPT_SPEED, prompt_speed, "tokens/s"),
            (GENERATION_SPEED, speed, "tokens/s"),
            (PROMPT_TOKENS, prompt, "tokens"),
            (GENERATION_TOKENS, generated, "tokens"),
            (ITEMS, done - before - failed, "requests"),
        )
        return [Measurement(name=name, value=value, unit=unit) for name, value, unit in found if value > 0]

    def progress(self) -> Progress | None:
        """How far the batch is; None without a line."""
        if not self._figures or not self._figures[1]:
            return None
        return Progress(min(1.0, self._figures[0] / self._figures[1]), self._left)
