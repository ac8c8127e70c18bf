"""The loop of a batch: requests go out over as many connections as the server has slots for us, answers go to the
file, and what fails by no fault of its own is tried again. One thread, one poll.

A server is judged by what it does for requests in a row: after three failed tries without an answer in between it is
asked for one token. Only when even that fails is the batch given up, to be run again on another.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator

from p104d.engines import batch_answer as verdicts
from p104d.engines.batch_answer import Answer, judge
from p104d.engines.batch_http import AwayError, BrokenError, Connection, FullError
from p104d.engines.batch_input import PLAIN, Junk, Request
from p104d.engines.batch_ledger import Ledger, Try
from p104d.engines.batch_orders import Orders

#: Failed tries without an answer in between, until the server itself is in doubt.
_DOUBT_AFTER = 3
#: One token, though the slots may be full of somebody else's requests.
_PROBE_SECONDS = 60.0
_PROBE_TRIES = 2
_PROBE = b'{"prompt":"1","n_predict":1,"stream":false,"cache_prompt":false}'
_CONNECT_AGAIN_SECONDS = 0.1
_LOADING_AGAIN_SECONDS = 0.5
_MOST_RETRY_SECONDS = 30.0


class GiveUpError(Exception):
    """The server cannot be used; nothing is lost, and another one may do. For a person; exit code 75."""


class Batch:
    """One run over what is left to do. ``entries`` are the lines to be done; ``stopped`` tells that somebody wants the
    end, ``wakeup`` is a descriptor that becomes readable then."""

    def __init__(
        self,
        orders: Orders,
        entries: Iterator[Request | Junk],
        ledger: Ledger,
        *,
        wakeup: int,
        stopped: Callable[[], bool],
    ) -> None:
        self._orders, self._entries, self._ledger, self._stopped = orders, entries, ledger, stopped
        self._flying: dict[int, tuple[Connection, Try, float]] = {}
        self._idle: dict[int, Connection] = {}
        self._again: list[Try] = []
        self._probe: Try | None = None
        self._exhausted = False
        self._failures = 0
        self._connect_at = 0.0
        self._away_since: float | None = None
        self._loading_since: float | None = None
        self._poll = select.poll()
        self._poll.register(wakeup, select.POLLIN)

    def run(self) -> None:
        """Until everything has its line, or somebody wants the end. Raises GiveUpError, LostError, OrdersError; what
        was answered is on file whatever happens."""
        try:
            while not self._stopped():
                now = time.monotonic()
                self._expire(now)
                self._fill(now)
                self._ledger.flush()
                self._ledger.report.show(now)
                if self._exhausted and not self._flying and not self._again and self._probe is None:
                    return
                self._wait(self._patience(now))
            self._wait(0.0)  # what has arrived by now
        finally:
            self._ledger.flush()
            for connection in [*self._idle.values(), *(each[0] for each in self._flying.values())]:
                connection.close()

    # --- what goes out ---

    def _fill(self, now: float) -> None:
        while now >= self._connect_at and len(self._flying) < self._orders.parallel:
            chosen = self._choose(now)
            if chosen is None:
                return
            if not self._start(chosen, now):
                chosen.due = now
                self._keep(chosen)

    def _keep(self, chosen: Try) -> None:
        if chosen is not self._probe:
            self._again.append(chosen)

    def _choose(self, now: float) -> Try | None:
        """A question of whether the server lives, a retry whose time has come, or the next line."""
        if any(attempt.alone for _connection, attempt, _deadline in self._flying.values()):
            return None
        if self._probe is not None and not self._is_flying(self._probe) and self._probe.due <= now:
            return self._probe
        due = min((each for each in self._again if each.due <= now), key=lambda each: each.due, default=None)
        if due is not None:
            if due.alone and self._flying:
                return None
            self._again.remove(due)
            return due
        # Each of them holds its words: while none succeeds, no more are taken up.
        if self._exhausted or len(self._again) >= 2 * self._orders.parallel:
            return None
        request = self._next()
        return Try(request) if request is not None else None

    def _is_flying(self, attempt: Try) -> bool:
        return any(each[1] is attempt for each in self._flying.values())

    def _next(self) -> Request | None:
        """The next line that can be sent; those that cannot are answered on the way."""
        for entry in self._entries:
            if isinstance(entry, Request):
                return entry
            self._ledger.junk(entry)
            if self._stopped():
                return None
        self._exhausted = True
        return None

    def _start(self, attempt: Try, now: float) -> bool:
        """Whether it is on its way, or has had its failure; False: the server takes nobody at the moment."""
        while True:
            connection = self._connection(attempt, now)
            if connection is None:
                return False
            try:
                connection.send("POST", attempt.request.url, attempt.request.body)
            except BrokenError as error:
                connection.close()
                if connection.used:
                    continue
                self._failed(attempt, now, "connection", str(error), reset=True)
                return True
            attempt.began = now
            seconds = self._orders.request_timeout_seconds
            deadline = now + (min(_PROBE_SECONDS, seconds) if attempt is self._probe else seconds)
            self._flying[connection.fileno()] = connection, attempt, deadline
            self._poll.register(connection.fileno(), _events(connection))
            return True

    def _connection(self, attempt: Try, now: float) -> Connection | None:
        # After a stale connection a new one: the others may be as stale, and that would not be excused again.
        if self._idle and not attempt.stale:
            fd, connection = self._idle.popitem()
            self._poll.unregister(fd)
            return connection
        try:
            connection = Connection(self._orders.socket)
        except FullError:
            # Somebody listens, only not fast enough: what it does for requests tells whether it lives.
            self._connect_at = now + _CONNECT_AGAIN_SECONDS
            return None
        except AwayError as error:
            self._connect_at = now + _CONNECT_AGAIN_SECONDS
            self._away_since = now if self._away_since is None else self._away_since
            if now - self._away_since >= self._orders.server_wait_seconds:
                raise GiveUpError(f"the model server is gone ({error}: {self._orders.socket})") from None
            return None
        self._away_since = None
        return connection

    # --- what comes back ---

    def _patience(self, now: float) -> float:
        """Seconds until something is to be done by the clock."""
        times = [deadline for _connection, _attempt, deadline in self._flying.values()]
        times += [each.due for each in self._again]
        times += [self._connect_at, self._ledger.report.next_at or 0.0, self._probe.due if self._probe else 0.0]
        # What could have been done by now waits for something else: a free connection, or to be alone.
        return min((each for each in times if each > now), default=now + _MOST_RETRY_SECONDS) - now

    def _wait(self, seconds: float) -> None:
        # Rounded up: a wait that ends before its time would only be followed by another.
        for fd, event in self._poll.poll(int(seconds * 1000) + 1 if seconds else 0):
            if fd in self._idle:
                self._poll.unregister(fd)
                self._idle.pop(fd).close()
            elif fd in self._flying:
                self._event(fd, event)

    def _event(self, fd: int, event: int) -> None:
        connection, attempt, _deadline = self._flying[fd]
        now = time.monotonic()
        try:
            if event & select.POLLOUT:
                connection.flush()
                self._poll.modify(fd, _events(connection))
            response = connection.receive() if event & ~select.POLLOUT else None
        except BrokenError as error:
            self._drop(fd)
            if error.silent and connection.used and not attempt.stale:
                attempt.stale, attempt.due = True, now
                self._keep(attempt)
            else:
                self._failed(attempt, now, "connection", str(error), reset=True)
            return
        if response is not None:
            del self._flying[fd]
            self._poll.unregister(fd)
            if response.keep:
                self._idle[fd] = connection
                self._poll.register(fd, select.POLLIN)
            else:
                connection.close()
            self._judge(attempt, judge(response.status, bytes(response.body)), now)

    def _drop(self, fd: int) -> None:
        connection, _attempt, _deadline = self._flying.pop(fd)
        self._poll.unregister(fd)
        connection.close()

    def _expire(self, now: float) -> None:
        for fd, (_connection, attempt, deadline) in list(self._flying.items()):
            if deadline <= now:
                self._drop(fd)
                self._failed(attempt, now, "timeout", f"no answer within {deadline - attempt.began:g} s")

    def _judge(self, attempt: Try, answer: Answer, now: float) -> None:
        if answer.kind == verdicts.LOADING:
            self._loading(attempt, now)
            return
        self._loading_since = None
        if answer.kind == verdicts.FAILED:
            self._failed(attempt, now, answer.code, answer.message, answer=answer)
            return
        self._failures = 0
        if attempt is self._probe:
            self._probe = None
        else:
            self._ledger.finish(attempt, answer, now)

    def _loading(self, attempt: Try, now: float) -> None:
        """Not the request's failure, and no reason to hurry."""
        self._loading_since = now if self._loading_since is None else self._loading_since
        if now - self._loading_since >= self._orders.loading_wait_seconds:
            raise GiveUpError(f"the model server has been loading for {now - self._loading_since:.0f} s")
        self._connect_at = now + _LOADING_AGAIN_SECONDS
        attempt.due = self._connect_at
        self._keep(attempt)

    def _failed(
        self, attempt: Try, now: float, code: str, message: str, *, reset: bool = False, answer: Answer | None = None
    ) -> None:
        attempt.attempts += 1
        self._failures += 1
        if attempt is self._probe:
            if not reset or attempt.attempts >= _PROBE_TRIES:
                raise GiveUpError(f"the model server does not give a single token: {message}")
            attempt.due = now + self._orders.retry_wait_seconds
            return
        if attempt.attempts > self._orders.retries:
            self._ledger.finish(attempt, answer or Answer(verdicts.FAILED, 0, None, code, message), now)
        else:
            wait = self._orders.retry_wait_seconds * 2 ** (attempt.attempts - 1)
            attempt.due = now + min(wait, _MOST_RETRY_SECONDS)
            attempt.alone = reset and attempt.attempts == self._orders.retries
            self._again.append(attempt)
        if self._failures >= _DOUBT_AFTER and self._probe is None:
            self._probe = Try(Request(0, "", PLAIN, _PROBE))


def _events(connection: Connection) -> int:
    return select.POLLIN | select.POLLOUT if connection.writing else select.POLLIN
