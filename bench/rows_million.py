"""A queue of a million jobs: it must not be felt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.proc import memory_bytes
from bench.rig import Rig
from bench.rows_dispatch import started_after
from bench.setting import Setting, folder
from bench.stats import interleaved, median, timed
from bench.table import Ratios, Row, mebibytes, milliseconds
from bench.watch import FolderWatch

SMALL = 1_000
LARGE = 1_000_000
#: A submission's limit is 100,000 jobs.
BATCH = 100_000
LIMIT = 1.3
MEMORY_LIMIT = 120 * 2**20
CARDS = 4


@dataclass(frozen=True)
class Felt:
    """Medians in seconds with one queue length."""

    dispatch: float
    status: float


def occupy(rig: Rig) -> None:
    """A job on each card that does not end by itself: everything behind it waits, and really is looked at."""
    rig.submit_text(rig.matrix(["sleep", "infinity"], CARDS, cards=1, name="occupant"))


def fill(rig: Rig, count: int) -> None:
    """Queue ``count`` jobs for cards."""
    while count > 0:
        rig.submit_text(rig.matrix(["true"], min(count, BATCH), cards=1))
        count -= BATCH


def felt(rigs: dict[str, Rig], setting: Setting) -> dict[str, Felt]:
    """Dispatch of a job that needs no card, and ``status``, on both rigs in turn."""
    with folder() as place, FolderWatch(place) as watch:
        starts = {name: started_after(rig, name, watch) for name, rig in rigs.items()}
        dispatch = interleaved(starts, setting.rounds(100), warm_up=5)
    looks = {name: status_of(rig) for name, rig in rigs.items()}
    status = interleaved(looks, setting.rounds(100), warm_up=5)
    return {name: Felt(median(dispatch[name]), median(status[name])) for name in rigs}


def status_of(rig: Rig) -> Callable[[], float]:
    """Measures one ``status``."""
    return lambda: timed(lambda: rig.get("/v1/status"))


def measure(setting: Setting) -> list[Row]:
    """Two daemons side by side, one with a queue of a thousand, one with a million (a tenth when quick)."""
    large = setting.rounds(LARGE)
    with setting.rig(cards=CARDS) as few, setting.rig(cards=CARDS) as many:
        for rig, count in ((few, SMALL), (many, large)):
            occupy(rig)
            fill(rig, count)
        found = felt({"few": few, "many": many}, setting)
        resident = memory_bytes([many.pid], "Rss")
        resident_few = memory_bytes([few.pid], "Rss")
    rows = []
    for what, ours, base in (
        ("submit -> process started", found["many"].dispatch, found["few"].dispatch),
        ("status request", found["many"].status, found["few"].status),
    ):
        ratios = Ratios(ours)
        ratios.against(f"{SMALL:,}", base, LIMIT)
        text = f"a queue of {large:,}: {what}"
        peers = f"a queue of {SMALL:,}: {milliseconds(base)}"
        rows.append(Row(text, milliseconds(ours), peers, ratios.text, f"<= {LIMIT}x", ratios.met))
    rows.append(
        Row(
            f"a queue of {large:,}: daemon's resident memory",
            mebibytes(resident),
            f"a queue of {SMALL:,}: {mebibytes(resident_few)}",
            f"{resident / resident_few:.2f}x",
            f"< {mebibytes(MEMORY_LIMIT)}",
            resident < MEMORY_LIMIT,
        )
    )
    return rows
