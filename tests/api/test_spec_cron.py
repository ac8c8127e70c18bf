"""Cron expressions beside an evaluator of the tests' own, which tries every minute."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from p104d.api.spec import cron_trigger
from p104d.api.spec_cron import parse_cron
from p104d.core.job import Schedule

START = datetime(2027, 2, 25, 13, 37, 12, tzinfo=UTC)
DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
MONTHS = ["", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]


def holds(field: str, value: int, low: int, high: int, names: list[str]) -> bool:
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{low}-{high}" if span == "*" else span).partition("-")
        a = names.index(first) if first in names else int(first)
        b = a if not last else names.index(last) if last in names else int(last)
        if b == 0 and last == "sun":
            b = 7
        if a <= value <= b and (value - a) % int(step or 1) == 0:
            return True
    return False


def matches(expression: str, at: datetime) -> bool:
    """What crontab(5) says, put down as plainly as it can be."""
    minute, hour, day, month, weekday = expression.split()
    if not (holds(minute, at.minute, 0, 59, []) and holds(hour, at.hour, 0, 23, [])):
        return False
    if not holds(month, at.month, 1, 12, MONTHS):
        return False
    on_day = holds(day, at.day, 1, 31, [])
    sunday_first = (at.weekday() + 1) % 7
    on_weekday = any(
        holds(weekday, d, 0, 6 if "*" in weekday else 7, DAYS)
        for d in ({0, 7} if sunday_first == 0 else {sunday_first})
    )
    if day.startswith("*") or weekday.startswith("*"):
        return on_day and on_weekday
    return on_day or on_weekday


def next_by_trying(expression: str, start: datetime, limit: timedelta) -> datetime | None:
    at = start.replace(second=0, microsecond=0)
    if at < start:
        at += timedelta(minutes=1)
    while at < start + limit:
        if matches(expression, at):
            return at
        at += timedelta(minutes=1)
    return None


EXPRESSIONS = [
    "* * * * *", "0 3 * * *", "*/7 * * * *", "59 23 31 12 *", "0 0 * * 0", "0 0 * * 7", "0 0 * * 1", "0 0 * * 6",
    "0 0 * * sun", "30 4 * * mon-fri", "30 4 * * 1-5", "15 2 * * 5-7", "15 2 * * sat-sun", "15 2 * * 0-2",
    "0 0 * * */2", "0 0 */2 * *", "0 12 1,15 * *", "0 12 1 * 5", "0 12 13 * fri", "5 4 */10 * 1", "5 4 10 * */3",
    "1-59/2 0-6/3 * * *", "0 0 1 jan,jul *", "0 0 28-31 feb *", "10,20,30 8-17 * * 1-5", "0 0 29 2 *",
    "0 6 * mar-may 0",
    "0 0 1-7 * 7", "45 3 * * 3,7", "0-5 0 * * 2",
]  # fmt: skip


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_as_a_minute_by_minute_evaluator_has_it(expression: str) -> None:
    trigger = cron_trigger(Schedule(cron=expression, timezone="UTC"))
    now, previous = START, None
    for _ in range(6):
        expected = next_by_trying(expression, now, timedelta(days=70))
        fire = trigger.get_next_fire_time(previous, now)
        assert fire is not None
        if expected is None:
            assert fire >= now + timedelta(days=70)
            return
        assert fire == expected
        previous, now = fire, fire + timedelta(seconds=1)


def _random_field(rng: random.Random, low: int, high: int) -> str:
    parts = []
    for _ in range(rng.randint(1, 3)):
        a = rng.randint(low, high)
        b = rng.randint(a, high)
        parts.append(rng.choice([str(a), f"{a}-{b}", f"{a}-{b}/{rng.randint(1, 5)}"]))
    return rng.choice(["*", f"*/{rng.randint(1, 6)}", ",".join(parts)])


@pytest.mark.parametrize("seed", range(40))
def test_random_expressions(seed: int) -> None:
    rng = random.Random(seed)
    ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
    expression = " ".join(_random_field(rng, low, high) for low, high in ranges)
    start = START + timedelta(minutes=rng.randint(0, 60 * 24 * 365 * 4))
    try:
        trigger = cron_trigger(Schedule(cron=expression, timezone="UTC"))
    except ValueError as error:
        assert "never comes" in str(error)
        return
    fire = trigger.get_next_fire_time(None, start)
    expected = next_by_trying(expression, start, timedelta(days=40))
    assert fire == expected if expected is not None else fire is None or fire >= start + timedelta(days=40)


def fires(expression: str, zone: str, start: datetime, count: int) -> list[str]:
    trigger = cron_trigger(Schedule(cron=expression, timezone=zone))
    found: list[str] = []
    now, previous = start, None
    for _ in range(count):
        previous = trigger.get_next_fire_time(previous, now)
        assert previous is not None and previous.tzinfo == ZoneInfo(zone)
        now = previous.astimezone(UTC) + timedelta(seconds=1)
        found.append(previous.astimezone(UTC).strftime("%m-%d %H:%M"))
    return found


def test_the_change_to_summer_time_loses_no_run() -> None:
    """01:00 UTC on 28 March 2027 Berlin's clock goes from 02:00 to 03:00."""
    start = datetime(2027, 3, 27, 12, tzinfo=UTC)
    berlin = "Europe/Berlin"
    assert fires("30 0 * * *", berlin, start, 3) == ["03-27 23:30", "03-28 22:30", "03-29 22:30"]
    assert fires("0 0 * * *", berlin, start, 3) == ["03-27 23:00", "03-28 22:00", "03-29 22:00"]
    # 02:30 does not come on that day: it runs once when the clock has passed it.
    assert fires("30 2 * * *", berlin, start, 3) == ["03-28 01:30", "03-29 00:30", "03-30 00:30"]
    before = start.replace(day=28, hour=0, minute=45)
    assert fires("*/30 * * * *", berlin, before, 3) == ["03-28 01:00", "03-28 01:30", "03-28 02:00"]


def test_the_change_back_runs_a_fixed_time_once_and_follows_the_hand_otherwise() -> None:
    """01:00 UTC on 31 October 2027 Berlin's clock goes from 03:00 to 02:00."""
    start = datetime(2027, 10, 30, 12, tzinfo=UTC)
    berlin = "Europe/Berlin"
    assert fires("30 2 * * *", berlin, start, 3) == ["10-31 00:30", "11-01 01:30", "11-02 01:30"]
    assert fires("0 0 * * *", berlin, start, 3) == ["10-30 22:00", "10-31 23:00", "11-01 23:00"]
    before = start.replace(day=31, hour=0, minute=15)
    assert fires("30 * * * *", berlin, before, 3) == ["10-31 00:30", "10-31 01:30", "10-31 02:30"]


def test_a_missed_run_comes_first() -> None:
    trigger = cron_trigger(Schedule(cron="0 3 * * *", timezone="UTC"))
    last = datetime(2027, 1, 1, 3, tzinfo=UTC)
    assert trigger.get_next_fire_time(last, datetime(2027, 1, 10, 12, tzinfo=UTC)) == datetime(
        2027, 1, 2, 3, tzinfo=UTC
    )


def test_without_a_zone_it_is_the_hosts() -> None:
    fire = cron_trigger(Schedule(cron="0 3 * * *")).get_next_fire_time(None, START)
    assert fire is not None
    assert fire.hour == 3
    assert fire.utcoffset() == fire.replace(tzinfo=None).astimezone().utcoffset()


def test_a_leap_day_after_a_century_without_one() -> None:
    trigger = cron_trigger(Schedule(cron="0 0 29 2 *", timezone="UTC"))
    assert trigger.get_next_fire_time(None, datetime(2096, 3, 1, tzinfo=UTC)) == datetime(2104, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize("macro", ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"])
def test_macros(macro: str) -> None:
    assert parse_cron(macro).minutes == {0}


@pytest.mark.parametrize(
    "text",
    [
        "", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 0 *", "* * * 13 *",
        "* * * * 8", "*/0 * * * *", "5/15 * * * *", "20-10 * * * *", "a * * * *", "1,,2 * * * *", "1- * * * *",
        "* * * * fri-mon", "mon * * * *", "* * * mon *", "-1 * * * *", "1.5 * * * *", "@reboot", "١ * * * *",
        "0 0 30 2 *", "0 0 31 4,6,9,11 *", "* * * * " + "1," * 200 + "1", "*" * 300,
    ],
)  # fmt: skip
def test_not_cron(text: str) -> None:
    with pytest.raises(ValueError, match="; ") as error:
        parse_cron(text)
    assert "\n" not in str(error.value)
