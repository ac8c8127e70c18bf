"""How much of a long test is done: a short form with the other tests, the long one with ``make torture``."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

#: Set by ``make torture``.
LONG = os.environ.get("P104_TORTURE", "") not in ("", "0")


def amount(short: T, long: T) -> T:
    """``short`` with the other tests, ``long`` in torture."""
    return long if LONG else short
