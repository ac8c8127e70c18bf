"""What the query strings of requests mean: numbers, times, states. Everything else is refused, naming the field."""

from __future__ import annotations

import math
from datetime import datetime

from p104d.api.service import EXPORTED, Exported, LogQuery
from p104d.core.errors import UsageError
from p104d.core.job import ENDED, JobState
from p104d.store.lists import JobFilter

#: Far beyond any id given, and what both SQLite and JSON readers hold exactly.
LARGEST_ID = 2**53
#: A page of a listing: nobody else is answered while it is made, so it is a fraction of a second. p104ctl asks for
#: as many pages as it was told to list.
MAX_LISTED = 5_000
#: Jobs that one forecast tells of, and cards that it may imagine: more than a rig has ever held.
MAX_FORECAST_JOBS = 1_000
MAX_FORECAST_CARDS = 64
_STATE_NAMES = frozenset(state.value for state in JobState)


def _number(name: str, text: str, least: int, most: int) -> int:
    # Sixteen digits are enough for all; reading thousands of them is refused by int() itself.
    if not text.isascii() or not text.isdigit() or len(text) > 16 or not least <= int(text) <= most:
        raise UsageError(f"{name}: {text[:40]!r} is not a whole number from {least} to {most}")
    return int(text)


def parse_log_query(job: str, query: dict[str, str]) -> LogQuery:
    """The numbers in a log request. Raises UsageError."""
    return LogQuery(
        job_id=_number("job", job, 1, LARGEST_ID),
        follow=query.get("follow", "0") == "1",
        tail=_number("tail", query["tail"], 0, 10**9) if query.get("tail") else None,
        attempt=_number("attempt", query["attempt"], 1, 2**31) if query.get("attempt") else None,
    )


def parse_export_query(query: dict[str, str]) -> Exported:
    """What ``GET /v1/export`` shall copy; the queue unless it says something else. Raises UsageError."""
    wanted = query.get("what", "queue")
    found = next((each for each in EXPORTED if each == wanted), None)
    if found is None or set(query) - {"what"}:
        raise UsageError(f"export: {wanted[:40]!r} is none of {', '.join(EXPORTED)}")
    return found


def parse_plan_query(query: dict[str, str]) -> tuple[int | None, int]:
    """How many cards the forecast shall imagine (None: this rig's own), and the most jobs to tell of. Raises
    UsageError."""
    unknown = set(query) - {"cards", "limit"}
    if unknown:
        raise UsageError(f"plan: unknown field {sorted(unknown)[0][:40]!r}")
    cards = _number("cards", query["cards"], 1, MAX_FORECAST_CARDS) if query.get("cards") else None
    limit = _number("limit", query["limit"], 1, MAX_FORECAST_JOBS) if query.get("limit") else MAX_FORECAST_JOBS
    return cards, limit


def parse_list_query(query: dict[str, str]) -> JobFilter:
    """The filters of a list request. Raises UsageError, naming the filter."""
    unknown = set(query) - {"state", "name", "user", "label", "card", "since", "limit", "before", "order"}
    if unknown:
        raise UsageError(f"unknown filter {sorted(unknown)[0][:40]!r}")
    label = query.get("label")
    if label is not None and "=" not in label:
        raise UsageError(f"label: {label[:80]!r} is not key=value", mend="write --label project=posters")
    key, _, value = (label or "").partition("=")
    order = query.get("order", "newest")
    if order not in ("newest", "next"):
        raise UsageError(f"order: {order[:40]!r} is neither newest nor next")
    return JobFilter(
        states=_states(query.get("state", "")),
        name=query.get("name"),
        user=query.get("user"),
        label=(key, value) if label is not None else None,
        card=query.get("card"),
        since=_time(query["since"]) if query.get("since") else None,
        before=_number("before", query["before"], 0, LARGEST_ID) if query.get("before") else None,
        limit=_number("limit", query["limit"], 1, MAX_LISTED) if query.get("limit") else 50,
        next_first=order == "next",
    )


def _states(text: str) -> tuple[JobState, ...]:
    words = [word for word in text.split(",") if word]
    found: list[JobState] = []
    for word in words:
        if word == "all":
            found += JobState
        elif word == "active":
            found += [s for s in JobState if s not in ENDED]
        elif word == "ended":
            found += [s for s in JobState if s in ENDED]
        elif word in _STATE_NAMES:
            found.append(JobState(word))
        else:
            known = ", ".join(state.value for state in JobState)
            raise UsageError(f"state: {word[:40]!r} is none of {known}", mend="or all, active, ended")
    return tuple(dict.fromkeys(found))


def _time(text: str) -> float:
    try:
        try:
            seconds = float(text)
        except ValueError:
            seconds = datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise UsageError(f"since: {text[:40]!r} is not a time", mend="write 2026-11-23T12:00:00+01:00")
    return seconds
