"""The real driver is put back after each test that put a simulated one under pynvml."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from p104d.hardware import nvml


@pytest.fixture(autouse=True)
def real_library() -> Iterator[None]:
    yield
    nvml.use_library(None)
