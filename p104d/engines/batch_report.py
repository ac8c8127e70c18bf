"""What a batch says while it runs: a line of progress now and then, the first failures, and the totals at the end.

The line is read again by ``measure_batch``: keep the two together. All its figures are totals so far, so that the
last line alone tells everything, however long the log is.
"""

from __future__ import annotations

import contextlib
import os

#: Further ones are in the output, all of them.
_MOST_FAILURES_TOLD = 20
#: A batch of days needs no line every two seconds: a hundredth of what has passed, but one a minute.
_MOST_WAIT_SECONDS = 60.0


class Report:
    """Counts what is done. ``total`` requests are in the batch, ``before`` of them were answered by an earlier run."""

    def __init__(self, total: int, before: int, every_seconds: float, now: float) -> None:
        self.total, self.before = total, before
        self.answered = self.failed = 0
        self._prompt, self._generated = [0, 0.0], [0, 0.0]
        self._began, self._every = now, every_seconds
        self._shown = -1
        self.next_at = now + every_seconds if every_seconds else None

    @property
    def done(self) -> int:
        """Of all, with or without an error."""
        return self.before + self.answered + self.failed

    def answer(self, tokens: list[tuple[int, float]]) -> None:
        """One more is answered: (tokens, milliseconds) of its prompt, and of what was generated."""
        self.answered += 1
        for total, (count, milliseconds) in zip((self._prompt, self._generated), tokens, strict=True):
            total[0] += count
            total[1] += milliseconds

    def failure(self, what: str) -> None:
        """One more ended in an error."""
        self.failed += 1
        if self.failed <= _MOST_FAILURES_TOLD:
            say(what, 2)
        elif self.failed == _MOST_FAILURES_TOLD + 1:
            say("more requests failed; the output has the error of each", 2)

    def show(self, now: float) -> None:
        """A line of progress where it is time for one and something happened."""
        if self.next_at is None or now < self.next_at:
            return
        self.next_at = now + min(_MOST_WAIT_SECONDS, max(self._every, (now - self._began) / 100))
        if self.done != self._shown:
            self._shown = self.done
            say(self.line(now))

    def line(self, now: float) -> str:
        """All figures, on one line."""
        seconds = max(now - self._began, 0.001)
        finished = self.answered + self.failed
        left = f"{(self.total - self.done) * seconds / finished:.0f}" if finished else "?"
        return (
            f"batch: {self.done}/{self.total} requests, {self.before} from before, {self.failed} failed; "
            f"prompt {self._prompt[0]} tokens, {_rate(self._prompt):.2f} tokens/s; "
            f"generation {self._generated[0]} tokens, {_rate(self._generated):.2f} tokens/s; "
            f"all together {self._generated[0] / seconds:.2f} tokens/s; {seconds:.1f} s, {left} s left"
        )


def _rate(total: list[float]) -> float:
    return total[0] / total[1] * 1000 if total[1] >= 0.001 else 0.0


def say(text: str, descriptor: int = 1) -> None:
    """One line. A reader that is gone must not end a batch."""
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{' '.join(text.split())}\n".encode(errors="backslashreplace"))
