"""How much of the daemon one user may have at a time: connections, large requests under way, answers nobody reads.

Nothing here is a quota on work. It keeps one user, by mistake or on purpose, from taking the descriptors and the memory
that the others' requests need; whoever is refused here may come again when what is under way is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator

from aiohttp import web

from p104d.api.acceptor import Acceptor
from p104d.api.access import peer
from p104d.core.errors import UnavailableError

#: A user's connections: every p104ctl that waits or follows a log has one. A quarter of the descriptors this process
#: may have, where that is less.
MOST_CONNECTIONS = 512
#: All users' but root's, as a part of the descriptors: the rest is for the daemon's own files, sensors and jobs.
_SHARE_OF_ONE, _SHARE_OF_ALL = 4, 2
#: Handlers of connections that are over are let go of when so many have come.
_TIDY_EVERY = 64
#: Requests of more than this wait for one another, so many of a user's under way at a time: a submission takes some
#: ten times its size while it is read.
LARGE_BYTES = 256 * 1024
_LARGE_AT_ONCE = 2
#: Answers larger than this are counted until they were read, and so many bytes of them a user may leave unread.
_COUNTED_BYTES = 64 * 1024
MOST_UNREAD_BYTES = 64 * 2**20

_FULL = (
    b'{"error":{"message":"too many connections to p104d are open","mend":"close some, or try again",'
    b'"exit_code":4,"retry":true}}'
)
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_FULL), _FULL)
)


def most_connections() -> tuple[int, int]:
    """How many connections one user, and all users but root, may have here."""
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptors == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS, 8 * MOST_CONNECTIONS
    return min(MOST_CONNECTIONS, descriptors // _SHARE_OF_ONE), min(8 * MOST_CONNECTIONS, descriptors // _SHARE_OF_ALL)


class Door:
    """Lets connections in, counted by the user the kernel names; ``handler`` makes what serves one."""

    def __init__(self, handler: Callable[[], web.RequestHandler]) -> None:
        self._handler = handler
        self._most_of_one, self._most_of_all = most_connections()
        self._inside: dict[int, set[web.RequestHandler]] = defaultdict(set)
        self._acceptor: Acceptor | None = None

    def open(self, listening: socket.socket) -> None:
        """Accept on a listening socket from now on."""
        self._acceptor = Acceptor(listening, lambda: _Comer(self))

    def close(self) -> None:
        """Accept nobody any more; who is inside stays."""
        if self._acceptor is not None:
            self._acceptor.close()

    def come(self, transport: asyncio.Transport) -> None:
        """Serve the connection, or turn it away with a line that p104ctl prints."""
        try:
            uid, _gid = peer(transport.get_extra_info("socket"))
        except OSError:  # gone already
            transport.abort()
            return
        if self._is_full(uid):
            transport.write(_REFUSAL)
            transport.close()
            return
        handler = self._handler()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        self._inside[uid].add(handler)
        if len(self._inside[uid]) % _TIDY_EVERY == 0:
            self._forget_gone(uid)

    def _is_full(self, uid: int) -> bool:
        if len(self._inside[uid]) < self._most_of_one and self._count() < self._most_of_all:
            return False
        for each in list(self._inside):
            self._forget_gone(each)
        return len(self._inside[uid]) >= self._most_of_one or (uid != 0 and self._count() >= self._most_of_all)

    def _count(self) -> int:
        return sum(len(handlers) for uid, handlers in self._inside.items() if uid != 0)

    def _forget_gone(self, uid: int) -> None:
        """Handlers whose connection is over; they are not asked to tell, so this is done now and then."""
        left = {handler for handler in self._inside[uid] if handler.transport is not None}
        self._inside[uid] = left
        if not left:
            del self._inside[uid]


class _Comer(asyncio.Protocol):
    """A connection of which it is not known yet whose it is."""

    def __init__(self, door: Door) -> None:
        self._door = door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._door.come(transport)


class Shares:
    """What each user has under way of large requests and of answers that were not read yet."""

    def __init__(self) -> None:
        self._large: dict[int, asyncio.Semaphore] = {}
        self._waiting: Counter[int] = Counter()
        self._unread: Counter[int] = Counter()
        self._begun: set[int] = set()
        self._queues: dict[int, deque[asyncio.Future[None]]] = {}

    async def turn(self, uid: int) -> None:
        """Wait until a request of this user may begin: one at each turn of the event loop, so that however many come
        together, everybody else's come in between."""
        loop = asyncio.get_running_loop()
        while uid in self._begun:
            turn = loop.create_future()
            self._queues.setdefault(uid, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._next(uid)  # it was this one's turn: the next one's now
                raise
        self._begun.add(uid)
        loop.call_soon(self._next, uid)

    def _next(self, uid: int) -> None:
        self._begun.discard(uid)
        queue = self._queues.get(uid, deque())
        while queue:
            turn = queue.popleft()
            if not turn.done():  # its caller has not gone meanwhile
                turn.set_result(None)
                return
        self._queues.pop(uid, None)

    @contextlib.asynccontextmanager
    async def asking(self, uid: int, request: web.Request) -> AsyncIterator[None]:
        """While a request is served: a large one waits until the user's others are done, unread as yet."""
        size = request.content_length
        if not request.body_exists or (size is not None and size <= LARGE_BYTES):
            yield
            return
        turn = self._large.setdefault(uid, asyncio.Semaphore(_LARGE_AT_ONCE))
        self._waiting[uid] += 1
        try:
            async with turn:
                yield
        finally:
            self._waiting[uid] -= 1
            if not self._waiting[uid]:
                del self._waiting[uid], self._large[uid]

    @contextlib.contextmanager
    def answering(self, uid: int, size: int) -> Iterator[bool]:
        """While an answer of ``size`` bytes waits to be read; whether it is large enough to be waited for. Raises
        UnavailableError where too many of them wait."""
        if size <= _COUNTED_BYTES:
            yield False
            return
        if self._unread[uid] and self._unread[uid] + size > MOST_UNREAD_BYTES:
            raise UnavailableError("too much of what p104d has answered is still to be read", mend="read it first")
        self._unread[uid] += size
        try:
            yield True
        finally:
            self._unread[uid] -= size
            if not self._unread[uid]:
                del self._unread[uid]


async def told(request: web.Request, response: web.Response, body: bytes) -> web.StreamResponse:
    """Send a large answer piece by piece, and return when the caller has taken it."""
    streamed = web.StreamResponse(status=response.status, headers=response.headers)
    streamed.content_length = len(body)
    await streamed.prepare(request)
    for start in range(0, len(body), LARGE_BYTES):
        await streamed.write(body[start : start + LARGE_BYTES])
    await streamed.write_eof()
    return streamed
