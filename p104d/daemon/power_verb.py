"""What ``p104ctl power`` asks and is answered: a person's wishes for cards' settings, all of a request or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from p104d.api.power import PowerCard, PowerCards, PowerRefusal, PowerRequest, PowerValues
from p104d.api.service import Caller
from p104d.core.card import CardIdentity, CardReading
from p104d.core.errors import NotAllowedError, NotFoundError, RefusedError
from p104d.daemon.cardfacts import short_name
from p104d.daemon.cardnames import resolve
from p104d.daemon.power import KEY, PowerKeeper
from p104d.daemon.power_words import bounds_refusal, mend, setting_text
from p104d.daemon.rig import Rig
from p104d.hardware.messages import FAN_AUTOMATIC, CardSettings, Refused

#: How long a request waits for the sensor to have done it: a cycle is made at once, a card takes milliseconds.
PATIENCE_SECONDS = 5.0
#: No clock of a graphics card is beyond; a larger number is a slip of the finger or another unit.
_MOST_MHZ = 50_000


def load_asked(settings: Mapping[str, str]) -> dict[str, CardSettings]:
    """Stored wishes by card UUID, from the store's settings whose keys begin with ``KEY``. One that cannot be read (it
    was written by a later release) is left out: a card that is not touched is the safe side."""
    found = {}
    for key, text in settings.items():
        if key.startswith(KEY):
            try:
                found[key.removeprefix(KEY)] = msgspec.json.decode(text, type=CardSettings)
            except msgspec.DecodeError:
                continue
    return found


async def set_power(
    rig: Rig,
    keeper: PowerKeeper,
    caller: Caller,
    request: PowerRequest,
    commit: Callable[[Mapping[str, str]], None],
    patience: float = PATIENCE_SECONDS,
) -> PowerCards:
    """Keep the named cards at what is asked, and say how they stand once it was tried.

    ``commit`` stores settings (key to text) in one transaction, and raises where it cannot. Raises NotAllowedError,
    NotFoundError or RefusedError; then nothing was changed, on no card.
    """
    if not caller.admin:
        raise NotAllowedError("changing cards' settings is for root and group p104-admin", mend="use sudo")
    if not request.cards:
        raise NotFoundError("no card named", mend="name cards by index or UUID")
    change = _change(request)
    uuids = list(dict.fromkeys(resolve(rig, text) for text in request.cards))
    for uuid in uuids:
        _check(rig.records[uuid].identity, change)
    wishes = {uuid: (CardSettings() if request.reset else keeper.asked(uuid)).merged(change) for uuid in uuids}
    commit({KEY + uuid: msgspec.json.encode(wish).decode() for uuid, wish in wishes.items()})
    for uuid, wish in wishes.items():
        keeper.ask(uuid, wish, anew=change)
    await keeper.settle(uuids, patience)
    found = {card.uuid: card for card in show_power(rig, keeper).cards}
    _drop_refused(keeper, uuids, change, commit)
    return PowerCards([_answered(found[uuid], change) for uuid in uuids])


def _answered(card: PowerCard, change: CardSettings) -> PowerCard:
    """What this request came to: what is refused of earlier ones is not its affair."""
    asked = {setting_text(name, value) for name, value in change.items().items()}
    mine = [one for one in card.refused if one.setting in asked]
    return msgspec.structs.replace(card, refused=mine)


def _drop_refused(
    keeper: PowerKeeper, uuids: Sequence[str], change: CardSettings, commit: Callable[[Mapping[str, str]], None]
) -> None:
    """A value that the card can never take is not kept as a wish; one that is not allowed today may be tomorrow."""
    kept: dict[str, CardSettings] = {}
    for uuid in uuids:
        never = {
            name
            for name, point in keeper.refusals(uuid).items()
            if name in change.items() and point.refused in (Refused.OUT_OF_BOUNDS, Refused.NOT_SUPPORTED)
        }
        if never:
            left = {name: value for name, value in keeper.asked(uuid).items().items() if name not in never}
            kept[uuid] = msgspec.structs.replace(CardSettings(), **left)
    if kept:
        commit({KEY + uuid: msgspec.json.encode(wish).decode() for uuid, wish in kept.items()})
        for uuid, wish in kept.items():
            keeper.ask(uuid, wish, anew=CardSettings())


def _change(request: PowerRequest) -> CardSettings:
    if request.fan_automatic and request.fan_percent is not None:
        raise RefusedError("the fan cannot be automatic and at a speed", mend="ask for one of them")
    if request.power_limit_watts is not None and not 0 < request.power_limit_watts < 10_000:
        raise RefusedError(f"a power limit of {request.power_limit_watts:g} W makes no sense", mend="give watts: 140W")
    if request.fan_percent is not None and not 0 <= request.fan_percent <= 100:
        raise RefusedError(f"a fan speed of {request.fan_percent} % makes no sense", mend="0 to 100, or auto")
    for clock in (request.sm_clock_mhz, request.memory_clock_mhz):
        if clock is not None and not 0 <= clock <= _MOST_MHZ:
            raise RefusedError(f"a clock of {clock} MHz makes no sense", mend="give MHz, or off")
    change = CardSettings(
        power_limit_watts=request.power_limit_watts,
        sm_clock_mhz=request.sm_clock_mhz,
        memory_clock_mhz=request.memory_clock_mhz,
        fan_percent=FAN_AUTOMATIC if request.fan_automatic else request.fan_percent,
        persistence=request.persistence,
    )
    if not change.items() and not request.reset:
        raise RefusedError("nothing to set", mend="ask for a limit, a clock, a fan speed, persistence or reset")
    return change


def _check(identity: CardIdentity, change: CardSettings) -> None:
    for name, value in change.items().items():
        text = bounds_refusal(identity, name, value)
        if text is not None:
            raise RefusedError(
                f"card {identity.index}: {setting_text(name, value)} is refused: {text}",
                mend="choose within its bounds; no card was changed",
            )


def show_power(rig: Rig, keeper: PowerKeeper) -> PowerCards:
    """Every card's settings, missing cards last."""
    order = sorted(rig.records, key=lambda uuid: (uuid not in rig.sights, rig.records[uuid].identity.index))
    return PowerCards([_card(rig, keeper, uuid) for uuid in order])


def _card(rig: Rig, keeper: PowerKeeper, uuid: str) -> PowerCard:
    identity, sight = rig.records[uuid].identity, rig.sights.get(uuid)
    reading = sight.report.reading if sight is not None else CardReading()
    return PowerCard(
        # A missing card's old index may be another's by now.
        index=identity.index if sight is not None else None,
        uuid=uuid,
        name=identity.name,
        catalog_name=short_name(identity),
        bus_id=identity.bus_id,
        wished=_values(keeper.wished(identity)),
        configured=_values(keeper.configured(identity)),
        asked=_values(keeper.asked(uuid)),
        actual=PowerValues(
            power_limit_watts=reading.power_limit_watts,
            sm_clock_mhz=reading.sm_clock_mhz,
            memory_clock_mhz=reading.memory_clock_mhz,
            fan_percent=reading.fan_percent,
            fan_automatic=None if reading.fan_manual is None else not reading.fan_manual,
            persistence=reading.persistence,
        ),
        power_watts=reading.power_watts,
        power_limit_min_watts=identity.power_limit_min_watts,
        power_limit_max_watts=identity.power_limit_max_watts,
        power_limit_default_watts=identity.power_limit_default_watts,
        pending=keeper.pending(uuid),
        refused=[
            PowerRefusal(
                setting=setting_text(name, point.value),
                reason=point.refused.value if point.refused else "failed",
                text=point.text or "refused",
                mend=mend(name, point.refused),
            )
            for name, point in keeper.refusals(uuid).items()
        ],
    )


def _values(settings: CardSettings) -> PowerValues:
    fan = settings.fan_percent
    return PowerValues(
        power_limit_watts=settings.power_limit_watts,
        sm_clock_mhz=settings.sm_clock_mhz,
        memory_clock_mhz=settings.memory_clock_mhz,
        fan_percent=None if fan == FAN_AUTOMATIC else fan,
        fan_automatic=None if fan is None else fan == FAN_AUTOMATIC,
        persistence=settings.persistence,
    )
