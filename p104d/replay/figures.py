"""A trace under a policy, summed up."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from statistics import fmean

import msgspec

from p104d.replay.baselines import Collate, Fifo, Lru
from p104d.replay.bound import lower_bound
from p104d.replay.machine import Machine, Policy
from p104d.replay.ours import P104d
from p104d.replay.trace import Trace

POLICIES: dict[str, type[P104d] | type[Fifo] | type[Lru] | type[Collate]] = {
    "p104d": P104d,
    "fifo": Fifo,
    "lru": Lru,
    "collate": Collate,
}


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How the trace went. Times count from 0 of the trace; flow is from a job's arrival to its end."""

    policy: str
    makespan_seconds: float
    lower_bound_seconds: float
    mean_flow_seconds: float
    p95_flow_seconds: float
    max_flow_seconds: float
    loads: int


def play(trace: Trace, policy: str) -> Machine:
    """The machine after the whole trace."""
    machine = Machine(trace)
    chosen: Policy = POLICIES[policy]()
    machine.run(chosen)
    return machine


def figures(trace: Trace, policy: str) -> Figures:
    """The trace played and summed up; rounded to microseconds, so that the text is the same on every machine."""
    machine = play(trace, policy)
    waits = flows(machine)
    return Figures(
        policy=policy,
        makespan_seconds=round(makespan(machine), 6),
        # Down, or the bound could exceed what is bounded.
        lower_bound_seconds=int(lower_bound(trace) * 1e6) / 1e6,
        mean_flow_seconds=round(fmean(waits), 6) if waits else 0.0,
        p95_flow_seconds=round(quantile(waits, 0.95), 6),
        max_flow_seconds=round(waits[-1], 6) if waits else 0.0,
        loads=machine.loads,
    )


def makespan(machine: Machine) -> float:
    """When the last job had ended."""
    return max((job.ended for job in machine.jobs if job.ended is not None), default=0.0)


def flows(machine: Machine) -> list[float]:
    """Each job's time from arrival to end, shortest first."""
    return sorted(job.ended - job.arrival for job in machine.jobs if job.ended is not None)


def quantile(values: Sequence[float], part: float) -> float:
    """The smallest of ``values`` (sorted) that this part of them does not exceed; 0 of none."""
    return values[max(0, ceil(part * len(values)) - 1)] if values else 0.0
