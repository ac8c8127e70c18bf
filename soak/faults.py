"""What goes wrong with the cards meanwhile: faults one after the other, as many in a minute as in an hour."""

from __future__ import annotations

import msgspec

CARDS = 12
#: In turn. A driver that is loaded again takes all cards along.
_KINDS = ("hang", "lost", "xid", "unknown", "hot", "slow", "driver_reload")
#: A run has about as many faults; between two are that many seconds, least and most.
_IN_A_RUN, _LEAST_STEP, _MOST_STEP = 20, 6.0, 60.0
#: A sensor that hangs is replaced after 2 s, a card is missed after 3 s: a shorter fault would hardly be one.
_LEAST_SECONDS, _MOST_SECONDS = 4.0, 15.0
#: The daemon comes to its feet first.
_FIRST_AT = 5.0
_XID = 31


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds are counted from the daemon's start; ``card`` None: all of them."""

    at: float
    seconds: float
    kind: str
    card: int | None

    def toml(self) -> str:
        """As a rig file has it."""
        lines = [f'at = "{self.at:g}s"', f'kind = "{self.kind}"']
        lines.append(f"code = {_XID}" if self.kind == "xid" else f'for = "{self.seconds:g}s"')
        if self.card is not None:
            lines.append(f"card = {self.card}")
        return "[[fault]]\n" + "\n".join(lines) + "\n"


def planned(seconds: float, until: float) -> list[Fault]:
    """The faults of a run of so many seconds, up to ``until``: nobody knows beforehand when it can begin."""
    step = min(_MOST_STEP, max(_LEAST_STEP, seconds / _IN_A_RUN))
    length = min(_MOST_SECONDS, max(_LEAST_SECONDS, step / 2))
    found: list[Fault] = []
    while (at := _FIRST_AT + step * len(found)) < until:
        number = len(found)
        kind = _KINDS[number % len(_KINDS)]
        card = None if kind == "driver_reload" else number % CARDS
        found.append(Fault(at=at, seconds=length, kind=kind, card=card))
    return found


def rig_file(faults: list[Fault]) -> str:
    """Twelve cards with these faults."""
    cards = '[[card]]\nname = "P104-100"\nmemory = "8GiB"\n' * CARDS
    return f"speedup = 200\n{cards}{''.join(fault.toml() for fault in faults)}"
