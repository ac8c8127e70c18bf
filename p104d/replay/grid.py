"""``python -m p104d.replay.grid``: the figures of docs/placement-figures.md, cells without gain too.

The seeds here are not those the policy was tuned on (0 to 19, and 200 to 203).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from statistics import fmean

import msgspec

from p104d.replay.bound import lower_bound
from p104d.replay.figures import POLICIES, flows, makespan, play, quantile
from p104d.replay.generate import Recipe, make

FIRST_SEED = 7000
#: More traces where a goal is judged: the tail of one long job moves a mean of few.
GOAL_SEEDS = 4
LENGTHS = {"short, 3-12 s": (3.0, 12.0), "mixed, 5-60 s": (5.0, 60.0), "long, 20-120 s": (20.0, 120.0)}
LOADS: tuple[float | None, ...] = (None, 0.4, 0.65, 0.85)
ZIPF = (0.0, 1.0, 1.5)
GANGS = (0.0, 0.2, 0.5)
OTHERS = ("fifo", "lru", "collate")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Means over the seeds, by policy: seconds until all is done, as parts of the bound too; flows, mean and 99th."""

    makespan: dict[str, float]
    of_bound: dict[str, float]
    worst_of_bound: float
    flow: dict[str, float]
    p99: dict[str, float]
    loads: dict[str, float]


def measure(recipe: Recipe, seeds: Sequence[int]) -> Cell:
    """All policies on the traces of ``recipe`` with ``seeds``."""
    spans: dict[str, list[float]] = {name: [] for name in POLICIES}
    ratios: dict[str, list[float]] = {name: [] for name in POLICIES}
    means: dict[str, list[float]] = {name: [] for name in POLICIES}
    tails: dict[str, list[float]] = {name: [] for name in POLICIES}
    loads: dict[str, list[float]] = {name: [] for name in POLICIES}
    for seed in seeds:
        trace = make(recipe, seed)
        bound = lower_bound(trace)
        for name in POLICIES:
            machine = play(trace, name)
            waits = flows(machine)
            spans[name].append(makespan(machine))
            ratios[name].append(makespan(machine) / bound)
            means[name].append(fmean(waits))
            tails[name].append(quantile(waits, 0.99))
            loads[name].append(float(machine.loads))
    return Cell(
        makespan=_means(spans),
        of_bound=_means(ratios),
        worst_of_bound=max(ratios["p104d"]),
        flow=_means(means),
        p99=_means(tails),
        loads=_means(loads),
    )


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    return {name: fmean(each) for name, each in values.items()}


def batch_row(cell: Cell) -> list[str]:
    """Of the bound, ours (and worst), then the others' makespans as multiples of ours."""
    ours = f"{cell.of_bound['p104d']:.3f} ({cell.worst_of_bound:.2f})"
    return [ours, *(f"{cell.makespan[name] / cell.makespan['p104d']:.2f}" for name in OTHERS)]


def open_row(cell: Cell) -> list[str]:
    """Our mean flow, as a part of the best other's, of each one's; our 99th percentile as a part of lru's."""
    ours = cell.flow["p104d"]
    best = min(cell.flow[name] for name in OTHERS)
    others = [f"{cell.flow[name]:.0f}" for name in OTHERS]
    return [f"{ours:.0f}", *others, f"{ours / best:.2f}", f"{cell.p99['p104d'] / cell.p99['lru']:.2f}"]


BATCH_HEAD = ["p104d of bound (worst)", "fifo", "lru", "collate"]
OPEN_HEAD = ["p104d s", "fifo s", "lru s", "collate s", "of the best other", "p99 of lru's"]

INTRODUCTION = """\
# Placement in figures

What the placement policy makes of random queues, beside three plain policies, in virtual time. Written by

    python -m p104d.replay.grid --seeds {seeds} > docs/placement-figures.md

The same command writes the same page on every machine. `python -m p104d.replay TRACE.json` plays a queue of your own.

- The policies: `fifo` (strict order of arrival; an idle warm copy, else the cards least recently used), `lru` (a router
  with one copy a model; the first that waits drains the copy least recently used), `collate` (a router with one copy a
  model that unloads only what nobody asks for), `p104d` (this one). All see a job when it arrives, and of run times
  the means of those that ended.
- The traces: models load in 10.5 s a card (7 GB over PCIe 1.0 x4), gangs are models on two cards that load in 21 s. A
  model's mean run is drawn between the bounds named, the run of a job is {lengths} about it. Popularity is
  Zipf's with the exponent named (0: all alike). Load is running time as a part of all the cards' time: loading comes
  on top.
- The policy was tuned on other seeds, mostly with models of 5-60 s and 8-20 s and exponents of 0.7 and 1.
- Batches: all jobs there at the start. Our makespan is given as a multiple of a bound that nobody can beat, the mean
  and the worst of the seeds; the others' as multiples of ours, more is better for us.
- Streams: the mean time from a job's arrival to its end, in seconds; ours as a part of the best other's, less is
  better; and our 99th percentile as a part of that of `lru`.
"""

READING = """\
Where there is nothing to gain: with all models alike (Zipf 0) one copy each is about right, and a router has that too;
with long jobs and no gangs loading hardly matters, and plain order does as well. In streams of short jobs where all
models are alike, more time goes into loading than into running and the rig is close to its limit: there the routers are
as good, in the mean and at the 99th percentile. How far behind `fifo` is depends on how long jobs are against loads.

Where the bound is far: at the end of a batch somebody has the last job. Nobody knows beforehand that it is a long one,
and where a card has few jobs in all (50 jobs on 6 cards, 300 on 12) or run times vary much, that is a large part of the
whole. The bound knows nothing of it either way: even the best schedule may be that far from it.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the page."""
    parser = argparse.ArgumentParser(prog="python -m p104d.replay.grid", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="traces a cell (default 6)")
    parser.add_argument("--jobs", type=int, default=300, help="jobs a trace (default 300)")
    args = parser.parse_args(arguments)
    for line in page(range(FIRST_SEED, FIRST_SEED + max(1, args.seeds)), max(1, args.jobs)):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return 0


def page(seeds: Sequence[int], jobs: int) -> Iterator[str]:
    """The lines of the page."""
    yield INTRODUCTION.format(seeds=len(seeds), lengths="lognormal, sigma 0.7,")
    yield f"{jobs} jobs a trace, {len(seeds)} traces a cell.\n\n## What was to be reached\n"
    count = GOAL_SEEDS * len(seeds)
    yield f"Six cards, ten models on one card and two on two, loads of 8-13 s a card; {count} traces a row.\n"
    yield from _goals(range(FIRST_SEED, FIRST_SEED + count), jobs)
    yield "\n## Batches\n"
    yield from _table(["gangs' share", "Zipf", "job length", *BATCH_HEAD], _cells(None, seeds, jobs))
    for load in LOADS[1:]:
        yield f"\n## A stream at load {load}\n"
        yield from _table(["gangs' share", "Zipf", "job length", *OPEN_HEAD], _cells(load, seeds, jobs))
    yield "\n## Rigs and batches of other sizes\n\nPopularity after Zipf 1, jobs of 5-60 s, a fifth of them gangs'.\n"
    yield from _table(["cards", "jobs", "gangs on", *BATCH_HEAD], _sizes(seeds))
    yield f"\n## Reading it\n\n{READING}".rstrip()


def _goals(seeds: Sequence[int], jobs: int) -> Iterator[str]:
    rows, streams = [], []
    for zipf, bounds, lengths in product((0.8, 1.0, 1.2), ((5.0, 60.0), (8.0, 25.0)), ("exponential", "lognormal")):
        base = Recipe(jobs=jobs, zipf=zipf, run_seconds=bounds, lengths=lengths, load_seconds=(8.0, 13.0))
        named = [f"{zipf}", f"{bounds[0]:.0f}-{bounds[1]:.0f} s", lengths]
        rows.append([*named, *batch_row(measure(base, seeds))])
        stream = msgspec.structs.replace(base, load=0.65)
        streams.append([*named, *open_row(measure(stream, seeds))])
    yield from _table(["Zipf", "job length", "run times", *BATCH_HEAD], iter(rows))
    yield "\nA stream at load 0.65:\n"
    yield from _table(["Zipf", "job length", "run times", *OPEN_HEAD], iter(streams))


def _cells(load: float | None, seeds: Sequence[int], jobs: int) -> Iterator[list[str]]:
    for share, zipf, (name, bounds) in product(GANGS, ZIPF, LENGTHS.items()):
        gangs = 2 if share else 0
        recipe = Recipe(
            jobs=jobs,
            singles=12 - gangs,
            gangs=gangs,
            gang_share=share or None,
            zipf=zipf,
            run_seconds=bounds,
            load=load,
            lengths="lognormal",
        )
        cell = measure(recipe, seeds)
        yield [f"{share:.0%}", f"{zipf:g}", name, *(batch_row(cell) if load is None else open_row(cell))]


def _sizes(seeds: Sequence[int]) -> Iterator[list[str]]:
    for cards, jobs, gang_cards in (
        (2, 50, 2),
        (2, 300, 2),
        (4, 300, 2),
        (6, 50, 2),
        (6, 2000, 4),
        (12, 300, 4),
        (12, 2000, 4),
    ):
        recipe = Recipe(jobs=jobs, cards=cards, gang_cards=gang_cards, gang_share=0.2, lengths="lognormal")
        yield [f"{cards}", f"{jobs}", f"{gang_cards} cards", *batch_row(measure(recipe, seeds))]


def _table(head: Sequence[str], rows: Iterator[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    sys.exit(main())
