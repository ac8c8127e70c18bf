"""What a model file needs, as JSON on standard output: what ``p104ctl models MODEL.gguf`` asks for.

A process of its own, because it reads a file of anybody's with the rights of who asks, and without a daemon:
``python -m p104d.engines.model_memory_report MODEL.gguf '{"context": 4096}'``. Always prints one object, with ``model``
or with ``error``. The standard library alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from p104d.core.errors import P104Error
from p104d.core.units import MIB
from p104d.engines.gguf import Model, read_model
from p104d.engines.model_memory import Ask, CardSum, check, spread
from p104d.engines.model_memory_shape import Shape, shape_of
from p104d.engines.model_memory_split import Placement, fewest, place

#: What an unlocked P104-100 of 8 GiB gives: the driver keeps 83 MiB for itself (an owner's record).
CARD_BYTES = 8109 * MIB
#: On how many cards it is tried, and for how many of them it is shown what fits.
MOST_CARDS, SHOWN = 16, (1, 2, 4)
#: Contexts that are shown: 2k to 128k, as far as the model was trained.
CONTEXTS = tuple(2**power for power in range(11, 18))
#: Half of f16, at nearly no loss: what is worth suggesting. Smaller ones cost quality.
SMALL_CACHE = "q8_0"


def report(model: Model, ask: Ask, *, card: int = CARD_BYTES, cards: int | None = None) -> dict[str, Any]:
    """What ``model`` needs, loaded as ``ask`` says on cards of ``card`` bytes each: on ``cards`` of them, or on the
    fewest. Raises RefusedError for what cannot be."""
    shape = shape_of(model)
    check(shape, ask)
    placed = _placed(shape, ask, card, cards)
    return {
        "model": _model(model, shape),
        "asked": _asked(ask, card),
        "sum": _sum(shape, ask),
        "placement": None if placed is None else _placement(placed),
        "fits": [_fits(shape, ask, card, count) for count in ((cards,) if cards else SHOWN)],
        "suggestion": _suggestion(shape, ask, card, cards, placed),
    }


def _placed(shape: Shape, ask: Ask, card: int, cards: int | None) -> Placement | None:
    if cards is None:
        return fewest(shape, ask, [card] * MOST_CARDS)
    sums = place(shape, ask, [card] * cards)
    return None if sums is None else Placement(tuple(range(cards)), sums)


def _model(model: Model, shape: Shape) -> dict[str, Any]:
    return {
        "path": model.path,
        "name": model.text("general.name"),
        "architecture": model.architecture,
        "file_type": model.file_type,
        "parameters": model.parameters,
        "file_bytes": model.size,
        "parts": len(model.parts),
        "layers": len(shape.layers),
        "context": shape.context or None,
        "host_bytes": shape.host,
        "notes": list(shape.notes),
    }


def _asked(ask: Ask, card: int) -> dict[str, Any]:
    return {
        "context": ask.context,
        "parallel": ask.parallel,
        "kv_cache": ask.kv_cache,
        "flash_attention": ask.flash_attention,
        "ubatch": ask.ubatch,
        "card_bytes": card,
    }


def _sum(shape: Shape, ask: Ask) -> dict[str, int]:
    """As if on one card, however large."""
    return _card(spread(shape, ask, [len(shape.layers) + 1])[0])


def _card(one: CardSum) -> dict[str, int]:
    return {
        "layers": one.layers,
        "weights_bytes": one.weights,
        "kv_bytes": one.kv,
        "compute_bytes": one.compute,
        "overhead_bytes": one.overhead,
        "total_bytes": one.total,
    }


def _placement(placed: Placement) -> dict[str, Any]:
    return {
        "split_mode": placed.split_mode,
        "tensor_split": list(placed.tensor_split),
        "cards": [_card(one) for one in placed.sums],
    }


# --- what fits ---


def _contexts(shape: Shape, ask: Ask) -> list[int]:
    """Those that are shown: round ones, the model's own and the one asked for."""
    own = {shape.context} if 0 < shape.context <= CONTEXTS[-1] else set()
    return sorted({one for one in CONTEXTS if one <= (shape.context or one)} | own | {ask.context})


def _fits(shape: Shape, ask: Ask, card: int, cards: int) -> dict[str, Any]:
    rows = [_row(shape, ask._replace(context=context), card, cards) for context in _contexts(shape, ask)]
    return {"cards": cards, "contexts": rows, "largest_context": largest(shape, ask, card, cards)}


def _row(shape: Shape, ask: Ask, card: int, cards: int) -> dict[str, Any]:
    """The fullest card; where it does not fit, what it would be on cards that are large enough."""
    sums = place(shape, ask, [card] * cards)
    fits = sums is not None
    if sums is None:
        # Twice the whole each: enough for any share, and not so large that how it is shared makes no difference.
        sums = place(shape, ask, [2 * _sum(shape, ask)["total_bytes"]] * cards)
    small = not fits and _smaller(shape, ask) is not None and _fit_small(shape, ask, card, cards)
    return {
        "context": ask.context,
        "fits": fits,
        "fits_with_kv_cache": ask.kv_cache if fits else SMALL_CACHE if small else None,
        "card_bytes": max(one.total for one in sums) if sums else None,
    }


def _smaller(shape: Shape, ask: Ask) -> Ask | None:
    """The same with a small cache; None where the model cannot have one. (Where it was asked for a smaller one still,
    this one fits nowhere that the asked one does not.)"""
    small = ask._replace(kv_cache=SMALL_CACHE)
    try:
        check(shape, small)
    except P104Error:
        return None
    return small


def _fit_small(shape: Shape, ask: Ask, card: int, cards: int) -> bool:
    return place(shape, ask._replace(kv_cache=SMALL_CACHE), [card] * cards) is not None


def largest(shape: Shape, ask: Ask, card: int, cards: int) -> int:
    """The largest context, in steps that llama.cpp makes, up to the model's own; 0 where not even one fits."""
    step = Ask(context=1).slot
    low, high = 0, max(1, (shape.context or CONTEXTS[-1]) // step)
    while low < high:
        middle = (low + high + 1) // 2
        if place(shape, ask._replace(context=middle * step), [card] * cards) is None:
            high = middle - 1
        else:
            low = middle
    return low * step


def _suggestion(shape: Shape, ask: Ask, card: int, cards: int | None, placed: Placement | None) -> str | None:
    """What to change where it does not fit, or fits on fewer cards with a smaller cache."""
    small = _smaller(shape, ask)
    better = _placed(shape, small, card, cards) if small is not None else None
    if better is not None and (placed is None or len(better.cards) < len(placed.cards)):
        return f"with kv_cache: {SMALL_CACHE} it fits on {_cards(len(better.cards))}"
    if placed is not None:
        return None
    count = cards or MOST_CARDS
    found = largest(shape, ask, card, count)
    if found:
        return f"on {_cards(count)} a context of {found} fits"
    return "a smaller quantisation, or larger cards" if cards is None else "more cards, or a smaller quantisation"


def _cards(count: int) -> str:
    return "one card" if count == 1 else f"{count} cards"


# --- the process ---


def answer(arguments: Sequence[str]) -> dict[str, Any]:
    """The object to print for a command line: a path, and what is asked for as JSON."""
    try:
        asked: Mapping[str, Any] = json.loads(arguments[1])
        ask = Ask(**{key: one for key, one in asked.items() if key in Ask._fields})
        return report(read_model(arguments[0]), ask, card=asked.get("card_bytes", CARD_BYTES), cards=asked.get("cards"))
    except P104Error as error:
        told = {"message": error.message, "mend": error.mend, "exit_code": error.exit_code, "retry": error.retry}
        return {"error": told}


def main() -> None:
    """Print what ``sys.argv`` asks for."""
    # Names may hold bytes that are no text; JSON's escapes carry those too.
    print(json.dumps(answer(sys.argv[1:])))


if __name__ == "__main__":
    main()
