"""``p104ctl doctor``: what is wrong with this rig, each with its mend. Looks only; changes nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

from p104d.api import messages as m
from p104d.core.card import Verdict
from p104d.core.units import format_size
from p104d.daemon.cardviews import messages
from p104d.daemon.loop import Loop
from p104d.daemon.paths import Places
from p104d.store import instances, reads

#: Below this the queue and the logs of running jobs may soon find the disk full.
_LOW_DISK_BYTES = 2 * 2**30
_GOOD_OR_NEW = frozenset({Verdict.UNVERIFIED.value, Verdict.PROVEN.value, Verdict.LOCKED.value})
#: No card of this project is older; a clock before it has lost its battery.
_NO_EARLIER = 1_704_067_200.0  # 2024-01-01


def checks(loop: Loop, places: Places, *, simulated: bool) -> list[m.Check]:
    """Every check, in the order in which a person would mend them."""
    with loop.database.read() as conn:
        cards = messages(loop.rig, loop.proofs, reads.open_attempts(conn), instances.open_instances(conn))
    return [
        *_driver(loop, simulated),
        *_devices(simulated),
        *_cards(cards),
        *_proofs(cards),
        *_persistence(cards, simulated),
        *_links(cards),
        *_disk(places),
        *_clock(),
        *_memory(loop),
        *_models(loop),
    ]


def _driver(loop: Loop, simulated: bool) -> Iterator[m.Check]:
    problem = loop.rig.problem
    if problem is not None:
        yield m.Check("driver", False, problem.message, problem.mend)
    elif not loop.rig.counted:
        yield m.Check("driver", None, "the cards are still being counted", "ask again in a few seconds")
    else:
        kind = "simulated driver" if simulated else "driver"
        yield m.Check("driver", True, f"{kind} {loop.rig.driver or 'of unknown version'}", None)


def _devices(simulated: bool) -> Iterator[m.Check]:
    if simulated:
        yield m.Check("permissions", True, "a simulated rig needs no device files", None)
        return
    try:
        names = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia"))
    except OSError as error:
        yield m.Check("permissions", None, f"/dev cannot be read: {error.strerror}", None)
        return
    closed = [name for name in names if name[6:].isdigit() and not os.access(f"/dev/{name}", os.R_OK | os.W_OK)]
    if closed:
        mend = "put the daemon's user into the group that owns them (often video), or run it as root"
        yield m.Check("permissions", False, f"/dev/{', /dev/'.join(closed)} may not be opened", mend)
    elif names:
        yield m.Check("permissions", True, f"{len(names)} device files may be opened", None)


def _cards(cards: list[m.Card]) -> Iterator[m.Check]:
    if not cards:
        yield m.Check("cards", None, "no card is known", "check the driver, then power and risers")
    for card in cards:
        if card.state == "missing":
            yield m.Check("cards", False, f"card {card.index} ({card.uuid}) is missing", "check its riser and power")
        elif card.state == "suspect":
            bad = card.verdict in (Verdict.ALIASED.value, Verdict.FAULTY.value)
            mend = "docs/verification.md says what to do" if bad else "look into the cause, then"
            mend += "" if bad else f" p104ctl verify {card.index} --depth full"
            yield m.Check("cards", False, f"card {card.index} took itself out: {card.note}", mend)
    locked = [card for card in cards if card.verdict == Verdict.LOCKED.value]
    for card in locked:
        size = format_size(card.memory_total_bytes)
        mend = "it takes jobs that declare vram; an unlock is a reflash with a signed 8 GB ROM (keep a copy of its own)"
        yield m.Check("locked cards", False, f"card {card.index} is locked at {size}", mend)
    if cards and not locked:
        yield m.Check("locked cards", True, "no card is locked at its stock size", None)


def _proofs(cards: list[m.Card]) -> Iterator[m.Check]:
    """Whether every card's memory is proven. A bad one is told among the cards already."""
    present = [card for card in cards if card.state != "missing"]
    waiting = [card for card in present if card.verdict in _GOOD_OR_NEW and card.memory_proven_bytes is None]
    due = [card for card in present if card.test_due is not None and card not in waiting]
    for card in waiting:
        text = f"card {card.index} has not proven its memory yet ({card.test_due or 'its test is under way'})"
        yield m.Check("memory", None, text, f"wait, or see p104ctl verify {card.index}")
    for card in due:
        text = f"card {card.index} is to be tested again: {card.test_due}"
        yield m.Check("memory", None, text, f"it begins when the card is idle, or p104ctl verify {card.index}")
    if present and not waiting and all(card.verdict in _GOOD_OR_NEW for card in present):
        text = "every card holds what was written to it"
        yield m.Check("memory", True, text, None)


def _persistence(cards: list[m.Card], simulated: bool) -> Iterator[m.Check]:
    known = [card for card in cards if card.persistence is not None and card.state != "missing"]
    off = [str(card.index) for card in known if not card.persistence]
    if off:
        text = f"persistence mode is off on card {', '.join(off)}: the driver reloads with every first job"
        # Nothing is slow on a simulated rig, and nothing there is to be set.
        mend = "sudo nvidia-smi -pm 1, or enable nvidia-persistenced"
        yield m.Check("persistence", None if simulated else False, text, mend)
    elif known:
        yield m.Check("persistence", True, "persistence mode is on", None)


def _links(cards: list[m.Card]) -> Iterator[m.Check]:
    narrow = [
        card
        for card in cards
        if card.link_width is not None and card.link_width_max is not None and card.link_width < card.link_width_max
    ]
    for card in narrow:
        text = f"card {card.index} is linked x{card.link_width} of x{card.link_width_max}: models load slower"
        yield m.Check("link width", False, text, "use a wider slot or riser, or reseat it")
    if not narrow and any(card.link_width for card in cards):
        yield m.Check("link width", True, "every link is as wide as its card", None)


def _disk(places: Places) -> Iterator[m.Check]:
    try:
        usage = shutil.disk_usage(places.state)
    except OSError as error:
        yield m.Check("disk", None, f"{places.state}: {error.strerror}", None)
        return
    text = f"{format_size(usage.free)} free for {places.state}"
    low = usage.free < _LOW_DISK_BYTES
    yield m.Check("disk", not low, text, "free space, or lower keep_logs in config.toml" if low else None)


def _clock() -> Iterator[m.Check]:
    if time.time() < _NO_EARLIER:
        text = f"the clock says {time.strftime('%Y-%m-%d', time.gmtime())}"
        yield m.Check("clock", False, text, "set it, and enable systemd-timesyncd")
        return
    if os.path.isdir("/run/systemd/timesync"):
        synchronized = os.path.exists("/run/systemd/timesync/synchronized")
        mend = None if synchronized else "check the network, or timedatectl set-ntp true"
        text = "the clock is synchronized" if synchronized else "the clock is not synchronized"
        yield m.Check("clock", synchronized, text, mend)
    else:
        yield m.Check("clock", None, "whether the clock is synchronized is not known here", None)


def _memory(loop: Loop) -> Iterator[m.Check]:
    total = loop.settings.host_ram_bytes
    yield m.Check("host memory", True, f"jobs may reserve {format_size(total)} of host memory", None)


def _models(loop: Loop) -> Iterator[m.Check]:
    """Whether there is a program for ``engine: llama.cpp`` jobs; a rig without any is none the worse."""
    program = loop.settings.models.llama_server
    found = shutil.which(program)
    if found is not None:
        yield m.Check("llama-server", True, f"engine: llama.cpp jobs run on {found}", None)
    else:
        mend = "for engine: llama.cpp jobs install it, or set models.llama_server in config.toml"
        yield m.Check("llama-server", None, f"there is no program {program}", mend)
