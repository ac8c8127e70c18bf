"""Traces for the tests of replay: builders, and a strategy of small ones where all kinds meet."""

from __future__ import annotations

from hypothesis import strategies as st

from p104d.replay.trace import Trace, TraceJob, TraceModel, check


def job(number: int, model: str | None, run: float, at: float = 0.0, **changes: int) -> TraceJob:
    return TraceJob(id=number, model=model, arrival_seconds=at, run_seconds=run, **changes)


def trace(cards: int, models: dict[str, tuple[int, float]], *jobs: TraceJob) -> Trace:
    known = {name: TraceModel(cards=width, load_seconds=load) for name, (width, load) in models.items()}
    made = Trace(cards=cards, models=known, jobs=list(jobs))
    check(made)
    return made


@st.composite
def traces(draw: st.DrawFn, *, most_jobs: int = 14, most_cards: int = 4, plain: bool = True) -> Trace:
    """Few models, short times: collisions (ends with arrivals, loads with ends) are common."""
    cards = draw(st.integers(1, most_cards))
    width = st.integers(1, cards)
    load = st.sampled_from([0.0, 1.0, 4.0, 10.0])
    models = {
        f"m{number}": TraceModel(cards=draw(width), load_seconds=draw(load))
        for number in range(draw(st.integers(1, 4)))
    }
    jobs = []
    for number in range(draw(st.integers(0, most_jobs))):
        model = draw(st.sampled_from([*models, *([None] if plain else [])]))
        jobs.append(
            TraceJob(
                id=number,
                model=model,
                arrival_seconds=draw(st.sampled_from([0.0, 0.0, 1.0, 5.0, 30.0, 200.0])),
                run_seconds=draw(st.sampled_from([0.0, 1.0, 5.0, 20.0])),
                cards=draw(width) if model is None else None,
                priority=draw(st.sampled_from([0, 0, 0, 3])) if plain else 0,
            )
        )
    made = Trace(cards=cards, models=models, jobs=jobs)
    check(made)
    return made
