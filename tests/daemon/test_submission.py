"""What of a submission is read on the loop, and what beside it."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from p104d.api.messages import SubmitRequest, SubmittedFile
from p104d.api.service import Caller
from p104d.daemon import submission
from p104d.daemon.submission import Intake

FILE = SubmittedFile("a", "command: x")


def on_the_loop(request: SubmitRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the loop waited while this was parsed."""
    threads: list[threading.Thread] = []

    def parse(*_: object) -> list[Any]:
        threads.append(threading.current_thread())
        return []

    async def check(_caller: Caller, parsed: list[Any]) -> tuple[list[Any], list[str]]:
        return parsed, []

    intake = Intake.__new__(Intake)
    intake._user_mode = True
    intake._loop = SimpleNamespace(rig=SimpleNamespace(counted=True))  # type: ignore[assignment]
    intake._engines = SimpleNamespace(check=check)  # type: ignore[assignment]
    monkeypatch.setattr(submission, "parse_submission", parse)
    asyncio.run(intake.read(Caller(1000, "anna", admin=False), request))
    [thread] = threads
    return thread is threading.main_thread()


@pytest.mark.parametrize(
    ("more", "inline"),
    [
        ({}, True),
        ({"set": ["cards=2"] * 20, "keep_env": {"HOME": "/home/anna"}}, True),
        ({"documents": [SubmittedFile("a", "x" * 9000)]}, False),
        ({"documents": [SubmittedFile("a", "")] * 1000}, False),
        ({"set": ["labels=[" + "1," * 8000 + "]"]}, False),
        ({"set": ["a="] * 256}, False),
        ({"keep_env": {"A": "x" * 9000}}, False),
        ({"keep_env": {f"A{n}": "" for n in range(256)}}, False),
        ({"set": ["engine=llama.cpp", "matrix.a=[1]"]}, False),
    ],
)
def test_what_is_large_is_parsed_beside_the_loop(
    more: dict[str, Any], inline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = SubmitRequest(**{"documents": [FILE], "cwd": "/", **more})
    assert on_the_loop(request, monkeypatch) is inline
