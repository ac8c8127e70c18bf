"""What a row needs: a folder of its own, the peers that are installed, how much to measure."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.peers.huey import Huey
from bench.peers.hyperqueue import HyperQueue
from bench.peers.tsp import TaskSpooler
from bench.queues import Queue, Unavailable
from bench.rig import Rig
from bench.table import Row

PEERS: tuple[Callable[[str, int], Queue], ...] = (TaskSpooler, HyperQueue, Huey)


@dataclass(frozen=True)
class Setting:
    """``quick`` measures a tenth, to see that everything works; its figures are not to be quoted."""

    quick: bool = False

    def rounds(self, full: int) -> int:
        """How many rounds to take where ``full`` is the proper number."""
        return max(3, full // 10) if self.quick else full

    @contextlib.contextmanager
    def rig(self, slots: int = 8, *, cards: int = 4, card_jobs: bool = False) -> Iterator[Rig]:
        """Our daemon for the length of a block."""
        with folder() as place:
            rig = Rig(place, slots, cards=cards, card_jobs=card_jobs)
            try:
                yield rig
            finally:
                rig.close()

    @contextlib.contextmanager
    def peers(self, slots: int = 8) -> Iterator[dict[str, Queue]]:
        """Every peer that is installed, started, for the length of a block."""
        with contextlib.ExitStack() as stack:
            started: dict[str, Queue] = {}
            for peer in PEERS:
                try:
                    queue = peer(stack.enter_context(folder()), slots)
                except Unavailable as error:
                    print(f"bench: going on without a peer: {error}", file=sys.stderr)
                    continue
                stack.callback(queue.close)
                started[queue.name] = queue
            yield started


#: A row module's product: it measures and returns lines of the table.
Measure = Callable[[Setting], list[Row]]


@contextlib.contextmanager
def folder() -> Iterator[str]:
    """A temporary folder with a path short enough for a Unix socket in it."""
    place = tempfile.mkdtemp(prefix="p104d-bench-", dir="/tmp")
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def spread(values: dict[str, float], show: Callable[[float], str]) -> str:
    """Peers' figures in one cell."""
    return ", ".join(f"{name} {show(value)}" for name, value in values.items()) or "-"
