"""Giving memory back: after a large request the C library keeps what was freed, and a daemon lives for months."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

#: Jobs in one submission or listing from which on it is worth the few milliseconds.
LARGE = 2000


def _trimmer() -> Callable[[int], int] | None:
    """malloc_trim(3) of the GNU C library; None where the library is another."""
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


_trim = _trimmer()


def give_back() -> None:
    """Collect what is garbage and return free pages to the kernel."""
    gc.collect()
    if _trim is not None:
        _trim(0)
