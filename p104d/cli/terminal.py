"""What standard output is: a terminal or not, how wide, in colour, in Unicode. ``--json`` needs it too."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Canvas(NamedTuple):
    """What text is made for where that is not standard output: columns (None: any number), Unicode or not."""

    columns: int | None
    unicode: bool


_canvas: Canvas | None = None


@contextmanager
def drawing_on(canvas: Canvas) -> Iterator[None]:
    """Make text for ``canvas``, in colour: a live screen cuts and colours for itself. One thread may do so."""
    global _canvas
    _canvas, before = canvas, _canvas
    try:
        yield
    finally:
        _canvas = before


def coloured() -> bool:
    """Whether standard output is a terminal that wants colour (https://no-color.org)."""
    if _canvas is not None:
        return True
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout is not None and sys.stdout.isatty()


def unicode_output() -> bool:
    """Whether standard output can show any character."""
    if _canvas is not None:
        return _canvas.unicode
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "") == "utf8"


def terminal_width() -> int | None:
    """Columns of the terminal; None where output goes elsewhere and nothing should be cut. ``COLUMNS`` overrides."""
    if _canvas is not None:
        return _canvas.columns
    wish = os.environ.get("COLUMNS", "")
    if wish.isdecimal() and int(wish) > 0:
        return int(wish)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return None
