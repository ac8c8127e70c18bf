"""Placement of models on cards: our policy beside three plain ones, in virtual time (p104d.replay)."""

from __future__ import annotations

import msgspec

from bench.setting import Setting
from bench.stats import mean
from bench.table import Row
from p104d.replay.figures import figures
from p104d.replay.generate import Recipe, make

#: Other seeds than those that docs/placement-figures.md and the tuning of the policy used.
FIRST_SEED = 7_000
OTHERS = ("lru", "fifo", "collate")
#: 300 jobs, 6 cards, ten models on one card and two on two; a load is 7 GB over PCIe 1.0 x4.
BATCH = Recipe(lengths="lognormal", run_seconds=(8.0, 25.0), load_seconds=(8.0, 13.0))
STREAM = msgspec.structs.replace(BATCH, load=0.65)
BOUND_LIMIT, LRU_LEAST, FIFO_LEAST, FLOW_LIMIT = 1.06, 1.3, 1.6, 0.75


def measure(setting: Setting) -> list[Row]:
    """A batch against the lower bound and the others' makespans, a stream against their mean flows."""
    seeds = range(FIRST_SEED, FIRST_SEED + setting.rounds(20))
    return [_batch(seeds), _stream(seeds)]


def _batch(seeds: range) -> Row:
    of_bound: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in OTHERS}
    for seed in seeds:
        trace = make(BATCH, seed)
        ours = figures(trace, "p104d")
        of_bound.append(ours.makespan_seconds / ours.lower_bound_seconds)
        for name in OTHERS:
            times[name].append(figures(trace, name).makespan_seconds / ours.makespan_seconds)
    factors = {name: mean(values) for name, values in times.items()}
    return Row(
        f"placement, 300-job batch, 6 cards, {len(of_bound)} traces",
        f"{mean(of_bound):.3f}x the bound (worst {max(of_bound):.2f})",
        ", ".join(OTHERS),
        ", ".join(f"{name} takes {factor:.2f}x" for name, factor in factors.items()),
        f"<= {BOUND_LIMIT}x bound, lru >= {LRU_LEAST}x, fifo >= {FIFO_LEAST}x",
        mean(of_bound) <= BOUND_LIMIT and factors["lru"] >= LRU_LEAST and factors["fifo"] >= FIFO_LEAST,
    )


def _stream(seeds: range) -> Row:
    ours: list[float] = []
    flows: dict[str, list[float]] = {name: [] for name in OTHERS}
    for seed in seeds:
        trace = make(STREAM, seed)
        ours.append(figures(trace, "p104d").mean_flow_seconds)
        for name in OTHERS:
            flows[name].append(figures(trace, name).mean_flow_seconds)
    best = min(flows, key=lambda name: mean(flows[name]))
    ratio = mean(ours) / mean(flows[best])
    return Row(
        f"placement, stream at load 0.65, {len(ours)} traces, mean flow",
        f"{mean(ours):.1f} s",
        ", ".join(f"{name} {mean(values):.0f} s" for name, values in flows.items()),
        f"{ratio:.2f}x {best}",
        f"<= {FLOW_LIMIT}x the best",
        ratio <= FLOW_LIMIT,
    )
