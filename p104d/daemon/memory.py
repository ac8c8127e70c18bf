"""Giving memory back: after a large request the C library keeps what was freed, and a daemon lives for months."""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

#: Jobs in one submission or listing from which on it is worth the few milliseconds.
LARGE = 2000
_AFTER_SECONDS = 1.0


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


def give_back_later(jobs: int) -> None:
    """Once the answer to a large request (of so many jobs) is on its way, what it took is given back."""
    if jobs >= LARGE:
        asyncio.get_running_loop().call_later(_AFTER_SECONDS, give_back)
