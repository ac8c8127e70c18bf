"""Submission request sent -> the job's process started, on an idle rig."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

from bench.queues import Queue
from bench.setting import Setting, folder, spread
from bench.stats import interleaved, median, p95
from bench.table import Ratios, Row, milliseconds
from bench.watch import FolderWatch

#: HyperQueue without its journal, tsp without any: both budgets are against queues that forget.
BUDGETS = {"HyperQueue": 1.0, "tsp": 2.0}


def started_after(queue: Queue, label: str, watch: FolderWatch) -> Callable[[], float]:
    """Measures one start: seconds from before the request to the file that the job's process makes."""
    numbers = itertools.count()

    def once() -> float:
        name = f"{label}-{next(numbers)}"
        sent = time.perf_counter()
        queue.submit(["touch", f"{watch.folder}/{name}"])
        started = watch.wait_for(name) - sent
        # Let the queue note the end before the next one: an idle rig is measured, not a busy one.
        time.sleep(0.02)
        return started

    return once


def measure(setting: Setting) -> list[Row]:
    """Interleaved, one job at a time; ours takes a whole card each."""
    with folder() as place, FolderWatch(place) as watch, setting.peers() as peers, setting.rig(card_jobs=True) as rig:
        queues: dict[str, Queue] = {rig.name: rig, **peers}
        acts = {name: started_after(queue, name, watch) for name, queue in queues.items()}
        taken = interleaved(acts, setting.rounds(200), warm_up=5)
    medians = {name: median(values) for name, values in taken.items()}
    tails = {name: p95(values) for name, values in taken.items()}
    ratios = Ratios(medians.pop("p104d"))
    for name, theirs in medians.items():
        ratios.against(name, theirs, BUDGETS.get(name))
    ours_tail = tails.pop("p104d")
    tail_ratios = Ratios(ours_tail)
    for name, theirs in tails.items():
        tail_ratios.against(name, theirs)
    return [
        Row(
            "submit -> process started, median (durable)",
            milliseconds(ratios.ours),
            spread(medians, milliseconds),
            ratios.text,
            "<= 1x HyperQueue, <= 2x tsp",
            ratios.met,
        ),
        Row("submit -> process started, p95", milliseconds(ours_tail), spread(tails, milliseconds), tail_ratios.text),
    ]
