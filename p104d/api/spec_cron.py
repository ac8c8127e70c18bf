"""Cron expressions: checked here, turned into APScheduler triggers.

The reading is Vixie cron's (``man 5 crontab``): five fields, names of months and days, 0 and 7 are Sunday, and where
day of month and day of week are both given (neither begins with ``*``) either one will do. APScheduler counts
weekdays from Monday and wants all fields to hold, so every field is given to it as a plain list of numbers.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

from p104d.core.job import Schedule

MAX_CRON_CHARS = 256
_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_PART = re.compile(
    r"(?:(?P<star>\*)|(?P<first>[0-9]{1,2}|[a-z]{3})(?:-(?P<last>[0-9]{1,2}|[a-z]{3}))?)(?:/(?P<step>[0-9]{1,2}))?"
)
_ALL_DAYS = frozenset(range(1, 32))
_ALL_WEEKDAYS = frozenset(range(7))
_TICK = timedelta(microseconds=1)
#: No zone changes its offset and back within a week.
_STRIDE = timedelta(days=7)
_LONGEST_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class _Kind(msgspec.Struct, frozen=True):
    """One of the five fields: its range, and the names its numbers go by (the first one stands for ``low``)."""

    title: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_FIELDS = (
    _Kind("minute", 0, 59),
    _Kind("hour", 0, 23),
    _Kind("day of month", 1, 31),
    _Kind("month", 1, 12, _MONTHS),
    _Kind("day of week", 0, 7, _DAYS),
)


class Cron(msgspec.Struct, frozen=True, kw_only=True):
    """An expression as sets of numbers; ``weekdays`` has 0 for Sunday, never 7. ``either_day``: day of month or day
    of week will do. ``every_hour``: the hour field begins with ``*``."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    every_hour: bool


def parse_cron(text: str) -> Cron:
    """The sets that ``text`` stands for. Raises ValueError, ``problem; mend``, for what is no cron expression or
    could never come true."""
    if len(text) > MAX_CRON_CHARS:
        raise ValueError(f"longer than {MAX_CRON_CHARS} characters; shorten it")
    words = _MACROS.get(text.strip().lower(), text).lower().split()
    if len(words) != len(_FIELDS):
        raise ValueError(
            f'{len(words)} fields instead of 5; write "minute hour day-of-month month day-of-week", such as "0 3 * * *"'
        )
    minutes, hours, days, months, weekdays = (_numbers(w, kind) for w, kind in zip(words, _FIELDS, strict=True))
    cron = Cron(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=frozenset(day % 7 for day in weekdays),
        either_day=not words[2].startswith("*") and not words[4].startswith("*"),
        every_hour=words[1].startswith("*"),
    )
    if not cron.either_day and not any(min(days) <= _LONGEST_MONTH[month - 1] for month in months):
        raise ValueError("such a day never comes; no month named has that many days")
    return cron


def _numbers(word: str, kind: _Kind) -> frozenset[int]:
    found: set[int] = set()
    for part in word.split(","):
        found.update(_range(part, kind))
    return frozenset(found)


def _range(part: str, kind: _Kind) -> range:
    match = _PART.fullmatch(part)
    if match is None:
        raise ValueError(f'"{part}" is not a {kind.title}; write a number, a-b, *, */n or a list of them')
    if match["star"]:
        first, last = kind.low, kind.high
    else:
        first = _number(match["first"], kind)
        last = first if match["last"] is None else _number(match["last"], kind, end=True)
    if match["step"] is not None and not match["star"] and match["last"] is None:
        raise ValueError(f'"{part}" has a step but no range; write {first}-{kind.high}/{match["step"]}')
    step = int(match["step"] or 1)
    if step == 0:
        raise ValueError(f'"{part}" has a step of 0; write 1 or more')
    if last < first:
        raise ValueError(f'"{part}" runs backwards; write {first}-{kind.high},{kind.low}-{last}')
    return range(first, last + 1, step)


def _number(word: str, kind: _Kind, *, end: bool = False) -> int:
    """The number of one end of a range. ``sun`` at its end is 7, so that ``sat-sun`` can be said."""
    if word in kind.names:
        number = kind.names.index(word) + kind.low
        return 7 if end and kind.names == _DAYS and number == 0 else number
    if not word.isdigit() or not kind.low <= int(word) <= kind.high:
        raise ValueError(f'"{word}" is not a {kind.title}; write a number from {kind.low} to {kind.high}')
    return int(word)


def cron_trigger(schedule: Schedule) -> CivilTrigger:
    """The APScheduler trigger of ``schedule``; its zone is the host's where none is named.

    Raises ValueError for a bad expression and zoneinfo.ZoneInfoNotFoundError for an unknown zone; both are refused at
    submission already.
    """
    cron = parse_cron(schedule.cron)
    # A CronTrigger asked for no zone finds the host's, by whatever way this kind of host names it.
    zone = CronTrigger(second=0).timezone if schedule.timezone is None else ZoneInfo(schedule.timezone)
    if not cron.either_day:
        return CivilTrigger(_calendar(cron, cron.days, cron.weekdays), zone, every_hour=cron.every_hour)
    either = OrTrigger([_calendar(cron, cron.days, _ALL_WEEKDAYS), _calendar(cron, _ALL_DAYS, cron.weekdays)])
    return CivilTrigger(either, zone, every_hour=cron.every_hour)


class CivilTrigger(BaseTrigger):  # type: ignore[misc]  # APScheduler 3 is untyped
    """A calendar that knows no zone (it is kept in UTC), read in the civil time of ``zone``.

    APScheduler's own CronTrigger loses the run after a change to summer time (00:30 daily in Europe/Berlin does not
    run on the day after the change) and runs twice at the change back. Here, as in Vixie cron: a time that is skipped
    runs once when the clock has passed it, a time that comes twice runs the first time; schedules whose hour begins
    with ``*`` follow the clock hand, neither skipping nor repeating.
    """

    def __init__(self, calendar: Any, zone: tzinfo, *, every_hour: bool) -> None:
        self.calendar = calendar
        self.zone = zone
        self.every_hour = every_hour

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime | None:
        """The first time to run that is neither before ``now`` nor, where there was one, before or at
        ``previous_fire_time``, in the schedule's zone; a run missed since then comes first. Both are aware."""
        start = now.astimezone(UTC)
        if previous_fire_time is not None:
            start = min(start, previous_fire_time.astimezone(UTC) + _TICK)
        while True:
            offset = self._offset(start)
            wall = self.calendar.get_next_fire_time(None, start + offset)
            if wall is None:
                return None
            fire: datetime = wall - offset
            change = self._next_change(start, fire)
            if change is None:
                local = fire.astimezone(self.zone)
                if self.every_hour or not local.fold:
                    return local
                start = fire + _TICK
            elif not self.every_hour and wall < change + self._offset(change):
                return fire.astimezone(self.zone)  # in the hour that the clock skips
            else:
                start = change

    def _offset(self, at: datetime) -> timedelta:
        return at.astimezone(self.zone).utcoffset() or timedelta()

    def _next_change(self, start: datetime, end: datetime) -> datetime | None:
        """The first instant after ``start``, up to ``end``, at which the zone's offset is another."""
        offset = self._offset(start)
        known = start
        while known < end:
            ahead = min(end, known + _STRIDE)
            if self._offset(ahead) != offset:
                while ahead - known > timedelta(seconds=1):
                    middle = known + (ahead - known) / 2
                    known, ahead = (middle, ahead) if self._offset(middle) == offset else (known, middle)
                return ahead.replace(microsecond=0)
            known = ahead
        return None


def _calendar(cron: Cron, days: frozenset[int], weekdays: frozenset[int]) -> Any:
    return CronTrigger(
        minute=_listed(cron.minutes, 60),
        hour=_listed(cron.hours, 24),
        day=_listed(days, 31),
        month=_listed(cron.months, 12),
        day_of_week=_listed(frozenset((day - 1) % 7 for day in weekdays), 7),
        second=0,
        timezone=UTC,
    )


def _listed(numbers: frozenset[int], count: int) -> str:
    return "*" if len(numbers) == count else ",".join(map(str, sorted(numbers)))
