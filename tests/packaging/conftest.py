"""These tests compare the repository's documents and scripts with the code."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# ``demo`` and ``bench`` are not installed; they are run from the checkout.
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))


@pytest.fixture
def root() -> Path:
    """The top of the checkout."""
    return ROOT


@pytest.fixture
def environment() -> dict[str, str]:
    """For child processes: this Python's commands and the checkout are found, no daemon of the user's is."""
    found = {key: value for key, value in os.environ.items() if not key.startswith(("P104_", "XDG_", "MAKE", "MFLAGS"))}
    found["PYTHONPATH"] = str(ROOT)
    found["PATH"] = os.path.dirname(sys.executable) + os.pathsep + found.get("PATH", os.defpath)
    found["NO_COLOR"] = "1"
    return found
