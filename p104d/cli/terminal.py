"""What standard output is: a terminal or not, how wide, in colour, in Unicode. ``--json`` needs it too."""

from __future__ import annotations

import os
import sys


def coloured() -> bool:
    """Whether standard output is a terminal that wants colour (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return sys.stdout is not None and sys.stdout.isatty()


def unicode_output() -> bool:
    """Whether standard output can show any character."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return encoding.lower().replace("-", "") == "utf8"


def terminal_width() -> int | None:
    """Columns of the terminal; None where output goes elsewhere and nothing should be cut. ``COLUMNS`` overrides."""
    wish = os.environ.get("COLUMNS", "")
    if wish.isdecimal() and int(wish) > 0:
        return int(wish)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError, AttributeError):
        return None
