"""Speeds on record for these cards (``reference_speeds.toml``), and which of them a result may be held against."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from pathlib import Path

import msgspec

from p104d.engines.measure_names import ITERATION_SECONDS, ITERATION_SPEED, LOAD_SECONDS

FILE = Path(__file__).with_name("reference_speeds.toml")

#: Figures of which less is better.
_LESS_IS_BETTER = frozenset({ITERATION_SECONDS, LOAD_SECONDS})
#: A figure and what it is of the other one.
_INVERSE = {ITERATION_SPEED: (ITERATION_SECONDS, "s/it"), ITERATION_SECONDS: (ITERATION_SPEED, "it/s")}
_WORDS = re.compile(r"\d+[a-z]+\d*|[a-z]+\d+(?:\.\d+)*[a-z]*|[a-z]+|\d+(?:\.\d+)*")
#: A makers' name and what is not of a card's own name.
_CARD_WORDS = frozenset({"nvidia", "geforce", "tesla", "graphics", "device"})


class ReferenceSpeed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One speed on record. ``match`` are the names that a result's model may go by, ``link`` is generation x lanes
    where it was told."""

    card: str
    cards: int
    model: str
    match: tuple[str, ...]
    measure: str
    value: float
    unit: str
    setup: str
    source: str
    link: str | None = None

    def percent(self, value: float) -> float:
        """What ``value`` is of it, as speed: 50 is half as fast, whether more of it is better or less."""
        part = self.value / value if self.measure in _LESS_IS_BETTER else value / self.value
        return 100 * part


class _File(msgspec.Struct, forbid_unknown_fields=True):
    speed: tuple[ReferenceSpeed, ...]


@lru_cache(maxsize=1)
def references() -> tuple[ReferenceSpeed, ...]:
    """All speeds on record, in the order of the file."""
    return msgspec.convert(tomllib.loads(FILE.read_text("utf-8")), _File).speed


def words(name: str) -> frozenset[str]:
    """The words that a model's name is made of: ``qwen2 7b coder q8 0`` of ``Qwen-2-7B-Coder-Q8_0``. A name and
    the number of its generation are one word, however they were written."""
    found: list[str] = []
    for word in _WORDS.findall(name.lower()):
        if word[0].isdigit() and word[-1].isdigit() and found and found[-1].isalpha() and len(found[-1]) > 2:
            found[-1] += word
        else:
            found.append(word)
    return frozenset(found)


@lru_cache(maxsize=1024)
def reference(name: str, card: str | None, cards: int, measure: str) -> ReferenceSpeed | None:
    """What a result is held against: the speed on record of this model (or job name), on so many cards of this name, by
    this measure; of several the one that says most of the model, then the fastest. None: there is none."""
    if card is None:
        return None
    has = words(name)
    found: list[tuple[int, float, ReferenceSpeed]] = []
    for each in references():
        told = _by(each, measure)
        if told is None or told.cards != cards or _card(told.card) != _card(card):
            continue
        said = max((len(words(match)) for match in told.match if words(match) <= has), default=0)
        if said:
            found.append((said, told.percent(0.001 if told.measure in _LESS_IS_BETTER else 1.0), told))
    # The smaller the part that a fixed speed is of it, the faster it is.
    return min(found, key=lambda one: (-one[0], one[1]))[2] if found else None


def against(reference: ReferenceSpeed, value: float) -> str:
    """``93 % of the 18.75 tokens/s on record``; of a time the same as a speed."""
    return f"{reference.percent(value):.0f} % of the {reference.value:g} {reference.unit} on record"


def _by(speed: ReferenceSpeed, measure: str) -> ReferenceSpeed | None:
    """The speed by this measure: it/s are the inverse of s/it. None: it was not measured so."""
    if speed.measure == measure:
        return speed
    inverse = _INVERSE.get(speed.measure)
    if inverse is None or inverse[0] != measure:
        return None
    return msgspec.structs.replace(speed, measure=measure, value=round(1 / speed.value, 3), unit=inverse[1])


def _card(name: str) -> str:
    return " ".join(word for word in re.split(r"[\s-]+", name.lower()) if word not in _CARD_WORDS)
