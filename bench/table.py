"""The table of budgets: what, ours, the peers', their ratio, the budget, met or not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

HEADINGS = ("what", "ours", "peers", "ratio", "budget", "met")


@dataclass(frozen=True)
class Row:
    """One line. ``met`` None: nothing to judge (a peer is missing, or the line is only for comparison)."""

    what: str
    ours: str
    peers: str = "-"
    ratio: str = "-"
    budget: str = "-"
    met: bool | None = None

    def cells(self) -> tuple[str, ...]:
        """The columns as text."""
        met = {True: "yes", False: "NO", None: "-"}[self.met]
        return (self.what, self.ours, self.peers, self.ratio, self.budget, met)


@dataclass
class Ratios:
    """Our figure against several peers', less is better: collects the text and the verdict of a row."""

    ours: float
    texts: list[str] = field(default_factory=list)
    verdicts: list[bool] = field(default_factory=list)

    def against(self, name: str, theirs: float | None, limit: float | None = None) -> None:
        """Compare with ``theirs`` (None: not measured); ``limit`` is the largest ratio the budget allows."""
        if theirs is None:
            return
        ratio = self.ours / theirs
        self.texts.append(f"{ratio:.2f}x {name}")
        if limit is not None:
            self.verdicts.append(ratio <= limit)

    @property
    def text(self) -> str:
        """The ratios as the table shows them."""
        return ", ".join(self.texts) or "-"

    @property
    def met(self) -> bool | None:
        """Whether all limits hold; None where there was nothing to hold against."""
        return all(self.verdicts) if self.verdicts else None


def milliseconds(seconds: float) -> str:
    """``2.81 ms``."""
    return f"{seconds * 1000:.2f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def seconds(value: float) -> str:
    """``1.30 s``."""
    return f"{value:.2f} s"


def mebibytes(size: float) -> str:
    """``61.2 MiB``."""
    return f"{size / 2**20:.1f} MiB"


def render(rows: Iterable[Row]) -> str:
    """The table as aligned text."""
    lines: Sequence[tuple[str, ...]] = [HEADINGS, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    texts.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(texts)
