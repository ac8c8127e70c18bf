"""What a daemon would have recorded: results, summaries, readings, a report; all made up, all the same each time."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from fake_daemon import UUIDS

#: 2026-11-20 00:00 UTC.
START = 1_795_132_800.0
SOURCE = "the owner's report this project starts from"


def at(seconds: float) -> str:
    """ISO 8601, ``seconds`` after START."""
    return datetime.fromtimestamp(START + seconds, UTC).isoformat(timespec="milliseconds")


def reference(percent: float | None = 99.2, value: float = 18.75, unit: str = "tokens/s") -> dict[str, Any]:
    return {"value": value, "unit": unit, "source": SOURCE, "percent": percent}


def result(number: int = 12, card: int | tuple[int, ...] | None = 0, **changes: Any) -> dict[str, Any]:
    cards = () if card is None else (card,) if isinstance(card, int) else card
    return {
        "at": at(3600.0 * number),
        "job_id": number,
        "attempt": 1,
        "name": "inference",
        "model": "Qwen2-7B-Coder Q8_0",
        "user": "anna",
        "cards": len(cards),
        "card_uuids": [UUIDS[index] for index in cards],
        "measure": "generation_tokens_per_second",
        "value": 18.6,
        "unit": "tokens/s",
        "seconds": 61.0,
        "driver": "535.183.01",
        "vbios": "86.04.7A.00.20",
        "reference": None,
        **changes,
    }


def summary(card: int | None = 0, **changes: Any) -> dict[str, Any]:
    return {
        "name": None,
        "model": "Qwen2-7B-Coder Q8_0",
        "card": None if card is None else UUIDS[card],
        "card_index": card,
        "card_name": None if card is None else "P104-100",
        "cards": 2 if card is None else 1,
        "measure": "generation_tokens_per_second",
        "unit": "tokens/s",
        "count": 12,
        "best": 18.93,
        "median": 18.6,
        "spread": 0.21,
        "last": 18.55,
        "first_at": at(0),
        "last_at": at(90_000),
        "reference": reference(),
        **changes,
    }


def many_results(count: int = 60) -> list[dict[str, Any]]:
    """Two works on three cards over five days, card 2 getting slower; newest first."""
    found = []
    for number in range(count):
        card = number % 3
        slower = 1.0 - (0.12 * number / count if card == 2 else 0.0)
        noise = math.sin(number * 12.9898) * 0.2
        found.append(result(number, card, at=at(number * 7200.0), value=(18.6 + noise) * slower, reference=reference()))
        if number % 4 == 0:
            picture = {"model": None, "name": "posters", "measure": "iterations_per_second", "unit": "it/s"}
            found.append(result(number, card, at=at(number * 7200.0 + 600), value=2.5 + noise / 8, **picture))
    return found[::-1]


def series(metric: str = "temperature_celsius", unit: str = "celsius", **changes: Any) -> dict[str, Any]:
    """A day at 144 s a point: three jobs, an hour in which nothing was read."""
    idle, load = {"temperature_celsius": (38.0, 71.0), "power_watts": (7.0, 165.0)}.get(metric, (139.0, 1733.0))
    times, low, mean, high = [], [], [], []
    level = idle
    for place in range(600):
        seconds = place * 144.0
        if 14 * 3600 <= seconds < 15 * 3600:
            continue
        busy = any(start <= seconds < end for _, start, end in JOBS)
        wish = load if busy else idle
        level += (wish - level) * (0.12 if metric == "temperature_celsius" else 0.9)
        noise = math.sin(place * 78.233) * (load - idle) * 0.015
        times.append(at(seconds))
        mean.append(level + noise)
        low.append(level + noise - (load - idle) * (0.05 if busy else 0.004))
        high.append(level + noise + (load - idle) * (0.03 if busy else 0.004))
    found = {"times": times, "minimum": low, "mean": mean, "maximum": high}
    return {"entity": UUIDS[0], "metric": metric, "unit": unit, "step_seconds": 144.0, **found, **changes}


#: Number, start and end of the jobs of that day.
JOBS = ((12, 7200.0, 25_200.0), (13, 27_000.0, 30_000.0), (14, 61_200.0, 82_800.0))


def span(number: int, start: float, end: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "job_id": number,
        "attempt": 1,
        "name": "inference",
        "outcome": "succeeded",
        "started_at": at(start),
        "ended_at": None if end is None else at(end),
        **changes,
    }


def readings(**changes: Any) -> dict[str, Any]:
    """What a picture of card 0 is made of."""
    return {
        "since": at(0),
        "until": at(86_400),
        "card": UUIDS[0],
        "card_index": 0,
        "card_name": "P104-100",
        "series": [series(), series("power_watts", "watts"), series("sm_clock_mhz", "mhz")],
        "jobs": [span(*job) for job in JOBS],
        "note": None,
        **changes,
    }


def group(name: str = "posters", **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "model": None,
        "jobs": 41,
        "succeeded": 38,
        "failed": 2,
        "cancelled": 1,
        "attempts": 44,
        "hours": 31.25,
        "energy_watt_hours": 4871.3,
        "cost": 1.46,
        "currency": "EUR",
        "tokens": None,
        "items": 1140.0,
        "speed": 2.49,
        "speed_unit": "it/s",
        "speed_measure": "iterations_per_second",
        "failures": [{"reason": "exit code 1", "count": 2}],
        **changes,
    }


def card_part(index: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "card": UUIDS[index],
        "index": index,
        "name": "P104-100",
        "state": "ready",
        "verdict": "proven",
        "hours": 29.5,
        "attempts": 40,
        "failed": 0,
        "energy_watt_hours": 4400.0,
        "drawn_watt_hours": 5311.0,
        "tests": 2,
        "tests_bad": 0,
        "failures": [],
        "warnings": [],
        **changes,
    }


def report(**changes: Any) -> dict[str, Any]:
    inference = {"model": "Qwen2-7B-Coder Q8_0", "tokens": 1_204_331.0, "items": None, "speed": 18.6}
    speed = {"speed_unit": "tokens/s", "speed_measure": "generation_tokens_per_second"}
    sick = {"failed": 4, "state": "suspect", "tests_bad": 1, "failures": [{"reason": "card lost", "count": 4}]}
    return {
        "since": at(0),
        "until": at(7 * 86_400),
        "groups": [
            group(),
            group("inference", failed=0, jobs=120, succeeded=119, failures=[], hours=12.5, **inference, **speed),
            group("train", jobs=4, succeeded=0, failed=4, cancelled=0, hours=0.02, energy_watt_hours=None, cost=None,
                  items=None, speed=None, speed_unit=None, failures=[{"reason": "card lost", "count": 4}]),
        ],
        "cards": [card_part(0), card_part(1, hours=0.0, energy_watt_hours=None, drawn_watt_hours=None),
                  card_part(3, **sick, warnings=["card 3 took itself out: XID 79 (fell off the bus); reboot"])],
        "failures": [{"reason": "card lost", "count": 4}, {"reason": "exit code 1", "count": 2}],
        "look_at": ["card 3 took itself out: XID 79 (fell off the bus); reboot", "job train: 4 of 4 failed"],
        "notes": [],
        **changes,
    }  # fmt: skip
