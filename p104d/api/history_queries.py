"""What the query strings of ``history``, ``series`` and ``report`` mean; all else is refused, naming the field."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Literal, cast

import msgspec

from p104d.core.errors import UsageError

Part = Literal["tests", "results", "summaries"]
PARTS: tuple[Part, ...] = ("tests", "results", "summaries")
MAX_LISTED = 1000
#: A picture is at most a few thousand dots wide.
MAX_POINTS = 5000
_LARGEST_ID = 2**53


class RecordQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records. ``limit`` is of results and of tests, each; ``speeds``: only measures that tell how fast."""

    show: tuple[Part, ...] = ("tests",)
    card: str | None = None
    job: int | None = None
    name: str | None = None
    model: str | None = None
    measure: str | None = None
    speeds: bool = False
    since: float | None = None
    until: float | None = None
    limit: int = 50
    map: bool = False


class SeriesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which readings: of ``card`` or, None, of the host; about ``points`` of them for each metric."""

    card: str | None = None
    metrics: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    points: int = 500


class WhileQuery(msgspec.Struct, frozen=True, kw_only=True):
    """From when until when."""

    since: float | None = None
    until: float | None = None


def parse_records(query: dict[str, str]) -> RecordQuery:
    """Filters of ``GET /v1/history``. Without ``show`` it is the memory tests alone. Raises UsageError."""
    _known(query, set(RecordQuery.__struct_fields__))
    shown = tuple(word for word in query.get("show", "tests").split(",") if word)
    for word in shown:
        if word not in PARTS:
            raise UsageError(f"show: {word[:40]!r} is none of {', '.join(PARTS)}")
    return RecordQuery(
        show=cast("tuple[Part, ...]", shown),
        card=query.get("card"),
        job=_number("job", query["job"], _LARGEST_ID) if query.get("job") else None,
        name=query.get("name"),
        model=query.get("model"),
        measure=query.get("measure"),
        speeds=query.get("speeds", "0") == "1",
        limit=_number("limit", query["limit"], MAX_LISTED) if query.get("limit") else 50,
        map=query.get("map", "0") == "1",
        **_while(query),
    )


def parse_series(query: dict[str, str]) -> SeriesQuery:
    """Filters of ``GET /v1/series``. Raises UsageError."""
    _known(query, {"card", "metric", "since", "until", "points"})
    return SeriesQuery(
        card=query.get("card"),
        metrics=tuple(dict.fromkeys(word for word in query.get("metric", "").split(",") if word)),
        points=_number("points", query["points"], MAX_POINTS) if query.get("points") else 500,
        **_while(query),
    )


def parse_while(query: dict[str, str]) -> WhileQuery:
    """``since`` and ``until`` of ``GET /v1/report``. Raises UsageError."""
    _known(query, {"since", "until"})
    return WhileQuery(**_while(query))


def _known(query: dict[str, str], names: set[str]) -> None:
    unknown = sorted(set(query) - names)
    if unknown:
        raise UsageError(f"unknown filter {unknown[0][:40]!r}")


def _while(query: dict[str, str]) -> dict[str, float | None]:
    found = {name: _time(name, query[name]) if query.get(name) else None for name in ("since", "until")}
    if found["since"] is not None and found["until"] is not None and found["until"] <= found["since"]:
        raise UsageError("until is not after since", mend="give an earlier --since")
    return found


def _number(name: str, text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 16 or not 1 <= int(text) <= most:
        raise UsageError(f"{name}: {text[:40]!r} is not a whole number from 1 to {most}")
    return int(text)


def _time(name: str, text: str) -> float:
    try:
        seconds = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UsageError(f"{name}: {text[:40]!r} is not a time", mend="write 2026-11-23T12:00:00+01:00")
    return seconds
