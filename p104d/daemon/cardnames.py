"""What people call cards: an index, a UUID or the beginning of one, a bus address, a name."""

from __future__ import annotations

from p104d.core.errors import NotFoundError
from p104d.daemon.cardfacts import names_of, short_name
from p104d.daemon.rig import Rig


def resolve(rig: Rig, text: str) -> str:
    """The UUID that ``text`` means: an index, a UUID or a prefix of one, a bus address, or a name that only one
    card has. Raises NotFoundError."""
    found = find(rig, text)
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotFoundError(f"there is no card {text!r}", mend="p104ctl cards lists them")
    raise NotFoundError(f"{text!r} means {len(found)} cards", mend="name one by index or UUID")


def name_of(rig: Rig, text: str) -> str | None:
    """The name under which placement knows the cards called ``text``; None where it is no card's name."""
    low = text.strip().casefold()
    return next((short_name(r.identity) for r in rig.records.values() if low in names_of(r.identity)), None)


def find(rig: Rig, text: str) -> list[str]:
    """Every card that ``text`` may mean."""
    wanted = text.strip()
    present = sorted(rig.records, key=lambda each: (each not in rig.sights, rig.records[each].identity.index))
    if wanted.isdigit():
        # An index names the card that has it now; a missing card's old index only where nobody took it over.
        return [each for each in present if rig.records[each].identity.index == int(wanted)][:1]
    low = wanted.casefold()
    if low.startswith("gpu-") or len(low) >= 8:
        by_uuid = [u for u in present if u.casefold().startswith(low) or u.casefold()[4:].startswith(low)]
        if by_uuid:
            return by_uuid
    by_bus = [u for u in present if (rig.records[u].identity.bus_id or "").casefold().endswith(low) and ":" in low]
    return by_bus or [u for u in present if low and low in names_of(rig.records[u].identity)]


class CardNames:
    """What ``only`` may name: resolved once at submission, an index or a prefix to its card's UUID."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig

    def resolve(self, text: str) -> str:
        """A UUID, or a name that one or more cards have. Raises ValueError."""
        found = find(self._rig, text)
        if not found:
            known = "p104ctl cards lists them" if self._rig.records else "no card is known yet"
            raise ValueError(f"there is no card {text!r}; {known}")
        by_name = name_of(self._rig, text)
        if by_name is not None:
            return by_name
        if len(found) > 1:
            raise ValueError(f"{text!r} means {len(found)} cards; give more of the UUID")
        return found[0]
