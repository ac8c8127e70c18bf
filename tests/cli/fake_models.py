"""What a daemon with models on its cards would tell: copies, pins, load times, a forecast; all made up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fake_daemon import GIB, UUIDS, card

NAME = "qwen2-7b-coder-q8_0"
PATH = f"/models/{NAME}.gguf"


def at(seconds: float) -> str:
    """ISO 8601, ``seconds`` from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def copy(number: int = 1, *cards: int, **changes: Any) -> dict[str, Any]:
    """A copy that is idle on ``cards``, used three minutes ago."""
    return {
        "id": number,
        "name": NAME,
        "path": PATH,
        "state": "ready",
        "cards": [UUIDS[index] for index in cards or (0,)],
        "memory_reserved_bytes": int(7.6 * GIB),
        "context": 4096,
        "parallel": 4,
        "kv_cache": "f16",
        "tensor_split": None,
        "job": None,
        "user": None,
        "shared": True,
        "pinned": False,
        "loaded_at": at(-3600),
        "load_seconds": 10.5,
        "ready_at": None,
        "last_used_at": at(-185),
        "unload_at": None,
        "pid": 4711,
        "embeddings": False,
        **changes,
    }


def pin(path: str | None = PATH, **changes: Any) -> dict[str, Any]:
    return {"model": path, "name": NAME, "by": "anna", "at": "2026-11-23T12:00:00.000+00:00", **changes}


def residents(*models: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"models": list(models), "pins": [], "load_times": [], **changes}


def loaded_rig() -> list[dict[str, Any]]:
    """Two cards with a model, the second busy with it."""
    return [card(0, models=[NAME]), card(1, models=[NAME], state="busy", jobs=[12]), card(2)]


def planned(number: int, start: float | None, end: float | None, *cards: int, **changes: Any) -> dict[str, Any]:
    """A job of the forecast, in seconds from now."""
    return {
        "id": number,
        "name": "answers",
        "model": NAME,
        "state": "queued",
        "starts_at": None if start is None else at(start),
        "ends_at": None if end is None else at(end),
        "cards": [UUIDS[index] for index in cards],
        "places": [],
        "waits_for": None,
        "guessed": False,
        **changes,
    }


def forecast(*jobs: dict[str, Any], seconds: float | None = 7800.0, **changes: Any) -> dict[str, Any]:
    return {
        "at": at(0),
        "cards": 4,
        "hypothetical": False,
        "done_at": None if seconds is None else at(seconds),
        "makespan_seconds": seconds,
        "loads": 3,
        "jobs": list(jobs),
        "never": [],
        "left_out": 0,
        "notes": [],
        **changes,
    }
