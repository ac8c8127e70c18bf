"""Random traces: models of several sizes, popularity after Zipf, a batch or an open stream of arrivals."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import msgspec

from p104d.replay.trace import Trace, TraceJob, TraceModel

#: Run times about a model's mean: memoryless; long-tailed; evenly spread; always the same.
LENGTHS = ("exponential", "lognormal", "uniform", "fixed")
_SIGMA = 0.7


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a random trace is like.

    ``load`` None: a batch, all there at the start. Else the part of all cards' time that runs alone take (loading comes
    on top), arrivals being Poisson, ``burst`` at a time. A gang's load takes as many times ``load_seconds`` as it has
    cards. ``run_seconds`` are the bounds of the models' means. ``gang_share`` of the jobs are gangs' (None: as their
    models' ranks fall).
    """

    jobs: int = 300
    cards: int = 6
    singles: int = 10
    gangs: int = 2
    gang_cards: int = 2
    zipf: float = 1.0
    load: float | None = None
    load_seconds: tuple[float, float] = (10.5, 10.5)
    run_seconds: tuple[float, float] = (5.0, 60.0)
    lengths: str = "exponential"
    gang_share: float | None = None
    burst: int = 1


def make(recipe: Recipe, seed: int) -> Trace:
    """The trace of ``recipe`` with this seed: the same each time."""
    dice = random.Random(seed)  # noqa: S311 - not for secrets
    models, means = _models(recipe, dice)
    weights = _popularity(recipe, dice)
    chosen = dice.choices(list(models), weights, k=recipe.jobs)
    runs = [_length(recipe.lengths, means[name], dice) for name in chosen]
    each = sum(models[name].cards * means[name] * weight for name, weight in zip(models, weights, strict=True))
    arrivals = _arrivals(recipe, each / sum(weights), dice)
    jobs = [
        TraceJob(id=number, model=name, arrival_seconds=at, run_seconds=run)
        for number, (name, at, run) in enumerate(zip(chosen, arrivals, runs, strict=True))
    ]
    return Trace(cards=recipe.cards, models=models, jobs=jobs)


def _models(recipe: Recipe, dice: random.Random) -> tuple[dict[str, TraceModel], dict[str, float]]:
    models: dict[str, TraceModel] = {}
    means: dict[str, float] = {}
    low, high = recipe.run_seconds
    for number in range(recipe.singles + recipe.gangs):
        cards = recipe.gang_cards if number >= recipe.singles else 1
        name = f"{'single' if number < recipe.singles else 'gang'}-{number}"
        models[name] = TraceModel(cards=cards, load_seconds=round(dice.uniform(*recipe.load_seconds) * cards, 3))
        means[name] = low * (high / low) ** dice.random()
    return models, means


def _popularity(recipe: Recipe, dice: random.Random) -> list[float]:
    ranks = list(range(1, recipe.singles + recipe.gangs + 1))
    dice.shuffle(ranks)
    weights: list[float] = [rank**-recipe.zipf for rank in ranks]
    if recipe.gang_share is None or not recipe.gangs or not recipe.singles:
        return weights
    singles, gangs = weights[: recipe.singles], weights[recipe.singles :]
    return [*_scaled(singles, 1 - recipe.gang_share), *_scaled(gangs, recipe.gang_share)]


def _scaled(weights: Sequence[float], total: float) -> list[float]:
    return [weight * total / sum(weights) for weight in weights]


def _length(kind: str, mean: float, dice: random.Random) -> float:
    if kind == "exponential":
        return dice.expovariate(1 / mean)
    if kind == "lognormal":
        return dice.lognormvariate(-(_SIGMA**2) / 2, _SIGMA) * mean
    return dice.uniform(0.5, 1.5) * mean if kind == "uniform" else mean


def _arrivals(recipe: Recipe, card_seconds: float, dice: random.Random) -> list[float]:
    """When each job arrives; ``card_seconds`` is what a job takes on average."""
    if recipe.load is None:
        return [0.0] * recipe.jobs
    gap = recipe.burst * card_seconds / (recipe.cards * recipe.load)
    at, arrivals = 0.0, list[float]()
    for number in range(recipe.jobs):
        if number % recipe.burst == 0:
            at += dice.expovariate(1 / gap)
        arrivals.append(at)
    return arrivals


def as_json(trace: Trace, note: Mapping[str, str] | None = None) -> bytes:
    """The trace as a file has it, with fields of your own."""
    return msgspec.json.encode({**msgspec.to_builtins(trace), **(note or {})})
