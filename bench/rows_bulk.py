"""Submitting 10,000 jobs at once."""

from __future__ import annotations

import subprocess

from bench.queues import Queue
from bench.rig import Rig, executable
from bench.setting import Setting, spread
from bench.stats import median, timed
from bench.table import Ratios, Row, seconds

COUNT = 10_000
LIMIT_SECONDS = 0.5


def by_command(rig: Rig) -> float:
    """The same through p104ctl: reading the file and printing 10,000 ids included."""
    path = f"{rig.folder}/matrix.yaml"
    with open(path, "w") as file:
        file.write(rig.matrix(["true"], COUNT))
    command = [*executable("p104ctl", "p104d.cli.main"), "submit", path]
    return timed(lambda: subprocess.run(command, env=rig.env, check=True, stdout=subprocess.DEVNULL))


def per_all(queue: Queue) -> float | None:
    """Seconds that ``queue`` takes for COUNT jobs, scaled where it was given a part; None where it cannot."""
    handed: list[int | None] = []
    took = timed(lambda: handed.append(queue.bulk(["true"], COUNT)))
    return took * COUNT / handed[0] if handed[0] else None


def measure(setting: Setting) -> list[Row]:
    """Three times each, interleaved, with nothing running."""
    ours: list[float] = []
    called: list[float] = []
    theirs: dict[str, list[float]] = {}
    # Peers get slots all the same; what they start meanwhile is their own choice of order.
    with setting.peers(slots=1) as peers, setting.rig() as rig:
        rig.post("/v1/pause", {})
        for _ in range(setting.rounds(30) // 10 or 1):
            took = per_all(rig)
            assert took is not None
            ours.append(took)
            called.append(by_command(rig))
            for name, queue in peers.items():
                value = per_all(queue)
                if value is not None:
                    theirs.setdefault(name, []).append(value)
    medians = {name: median(values) for name, values in theirs.items()}
    rows = []
    for what, taken in (("request", ours), ("p104ctl submit", called)):
        ratios = Ratios(median(taken))
        for name, value in medians.items():
            ratios.against(name, value)
        rows.append(
            Row(
                f"submit of a {COUNT:,}-job matrix (durable), {what}",
                seconds(ratios.ours),
                spread(medians, seconds),
                ratios.text,
                f"<= {LIMIT_SECONDS} s",
                ratios.ours <= LIMIT_SECONDS,
            )
        )
    return rows
