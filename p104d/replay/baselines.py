"""What others do, to compare with: a plain queue, and two kinds of model router. Faithful, not weakened.

All three know nothing of run times. Ties are broken by the order of arrival, then by the order in the trace; cards and
copies by their numbers.
"""

from __future__ import annotations

from collections import deque

from p104d.replay.machine import Copy, Job, Machine


class Fifo:
    """Strict order of arrival. The head takes an idle copy of its model if there is one, else the free cards and then
    those of the idle copies least recently used; while there are not enough, nobody starts."""

    def __init__(self) -> None:
        self.queue: deque[Job] = deque()

    def arrived(self, _machine: Machine, job: Job) -> None:
        self.queue.append(job)

    def ended(self, _machine: Machine, copy: Copy, _job: Job) -> None:
        """Nothing to remember."""

    def act(self, machine: Machine) -> None:
        """Start from the head until it blocks."""
        while self.queue and self._head(machine, self.queue[0]):
            self.queue.popleft()

    def _head(self, machine: Machine, job: Job) -> bool:
        warm = [copy for copy in machine.idle_copies() if copy.model is not None and copy.family == job.family]
        if warm:
            machine.start(job, max(warm, key=lambda copy: (copy.last_used, -copy.id)))
            return True
        cards = machine.free_cards()
        idle = sorted(machine.idle_copies(), key=lambda copy: (copy.last_used, copy.id))
        cards += [card for copy in idle for card in copy.cards]
        if len(cards) < job.cards:
            return False
        taken = cards[: job.cards]
        for copy in idle:
            if not set(copy.cards).isdisjoint(taken):
                machine.unload(copy)
        machine.load(job, taken, start=True)
        return True


class _Router:
    """One copy a model, each with the requests that joined it; the others wait in order of arrival."""

    def __init__(self) -> None:
        self.joined: dict[int, deque[Job]] = {}
        self.draining: set[int] = set()
        self.others: deque[Job] = deque()

    def arrived(self, machine: Machine, job: Job) -> None:
        if not self._join(machine, job):
            self.others.append(job)

    def ended(self, _machine: Machine, copy: Copy, _job: Job) -> None:
        """A job without a model leaves nothing behind."""
        if copy.model is None:
            self.joined.pop(copy.id, None)
            self.draining.discard(copy.id)

    def act(self, machine: Machine) -> None:
        """Serve what joined; then make room for the head of the others, as often as that goes."""
        self._serve(machine)
        while self.others and self._head(machine, self.others[0]):
            self.others = deque(job for job in self.others if not self._join(machine, job))
            self._serve(machine)

    def _join(self, machine: Machine, job: Job) -> bool:
        if job.model is None:
            return False
        for copy in machine.copies.values():
            if copy.family == job.family and copy.id not in self.draining:
                self.joined[copy.id].append(job)
                copy.last_used = machine.now
                return True
        return False

    def _serve(self, machine: Machine) -> None:
        for copy in list(machine.idle_copies()):
            if self.joined[copy.id]:
                machine.start(self.joined[copy.id].popleft(), copy)

    def _head(self, machine: Machine, job: Job) -> bool:
        """Load for the head of the others, if there is room; True: it has left the queue."""
        if not self._make_room(machine, job.cards):
            return False
        self.others.popleft()
        copy = machine.load(job, machine.free_cards()[: job.cards], start=True)
        self.joined[copy.id] = deque()
        return True

    def _make_room(self, machine: Machine, cards: int) -> bool:
        raise NotImplementedError

    def _unload_unused(self, machine: Machine, cards: int) -> bool:
        """Free ``cards`` cards by unloading copies without requests, the least recently used first; or none at all."""
        unused = sorted(
            (copy for copy in machine.idle_copies() if self._unused(copy)), key=lambda copy: (copy.last_used, copy.id)
        )
        if len(machine.free_cards()) + sum(len(copy.cards) for copy in unused) < cards:
            return False
        for copy in unused:
            if len(machine.free_cards()) >= cards:
                break
            self._unload(machine, copy)
        return True

    def _unload(self, machine: Machine, copy: Copy) -> None:
        machine.unload(copy)
        del self.joined[copy.id]
        self.draining.discard(copy.id)

    def _unused(self, copy: Copy) -> bool:
        return copy.idle and not self.joined[copy.id]


class Lru(_Router):
    """The head of the others unloads the copy least recently used. One that is used is drained: it takes no more, ends
    what joined it, and goes; unless cards became free elsewhere meanwhile, for then it goes on as before."""

    def _make_room(self, machine: Machine, cards: int) -> bool:
        if self._unload_unused(machine, cards):
            self.draining.clear()
            return True
        used = sorted(machine.copies.values(), key=lambda copy: (not self._unused(copy), copy.last_used, copy.id))
        coming = len(machine.free_cards())
        for copy in sorted(used, key=lambda copy: copy.id not in self.draining):
            if coming >= cards:
                break
            coming += len(copy.cards)
            self.draining.add(copy.id)
        return False


class Collate(_Router):
    """A loaded model keeps all its requests, those to come too; only a copy that has none left is unloaded."""

    def _make_room(self, machine: Machine, cards: int) -> bool:
        return self._unload_unused(machine, cards)
