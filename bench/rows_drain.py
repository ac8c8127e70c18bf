"""Running 1,000 jobs that do nothing, eight at a time."""

from __future__ import annotations

from bench.queues import Queue
from bench.setting import Setting, spread
from bench.stats import median, timed
from bench.table import Ratios, Row, seconds

SLOTS = 8
#: tsp's table is full at 993 jobs, and it starts jobs while it takes them in, so 1,000 pass.
COUNT = 1000
BUDGETS = {"HyperQueue": 1.0, "tsp": 2.0}


def measure(setting: Setting) -> list[Row]:
    """From the first request to the last end, interleaved."""
    count = setting.rounds(COUNT)
    taken: dict[str, list[float]] = {}
    with setting.peers(SLOTS) as peers, setting.rig(SLOTS) as rig:
        queues: dict[str, Queue] = {rig.name: rig, **peers}
        for queue in queues.values():
            queue.drain(["true"], 20)
        for _ in range(1 if setting.quick else 3):
            for name, queue in queues.items():
                taken.setdefault(name, []).append(timed(lambda queue=queue: queue.drain(["true"], count)))  # type: ignore[misc]
    medians = {name: median(values) for name, values in taken.items()}
    ratios = Ratios(medians.pop("p104d"))
    for name, theirs in medians.items():
        ratios.against(name, theirs, BUDGETS.get(name))
    return [
        Row(
            f"drain of {count:,} `true`, {SLOTS} slots (durable)",
            seconds(ratios.ours),
            spread(medians, seconds),
            ratios.text,
            "<= 1x HyperQueue, <= 2x tsp",
            ratios.met,
        )
    ]
