"""A child that speaks packets and may be killed at any time: what the keepers of the sensor and of a memory test share.

A process stuck in the driver may not even die of SIGKILL before the driver lets go. So nothing here blocks on one:
it is killed, left to itself, and reaped when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

#: The largest packet in either direction.
PACKET_BYTES = 1 << 20
#: After this the kernel is left to hold a process that does not die; it is reaped when the daemon ends.
_REAP_SECONDS = 600.0
#: How long after its death at most it is seen, as a part of the time it took to die.
_REAP_SLACK = 0.25
_STDERR_BYTES = 2000
_BOOT = (
    "import sys,ctypes,importlib;"
    # PR_SET_PDEATHSIG: the child dies with the daemon, also while a call hangs and it cannot see the socket close.
    "ctypes.CDLL(None).prctl(1,9,0,0,0);"
    "sys.path[:]=sys.argv.pop(1).split(':');"
    "importlib.import_module(sys.argv.pop(1)).main()"
)


def module_path() -> str:
    """Where this process finds its modules, so that a child finds the same, installed or in a source tree."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    entries = [os.path.abspath(entry) for entry in sys.path if entry]
    return ":".join(entries if root in entries else [root, *entries])


class ChildProcess:
    """One process that runs ``main()`` of ``module`` with the descriptors of its channel and of ``descriptors`` as its
    arguments. ``first`` is sent to it at once. ``on_packet`` and ``on_closed`` (it is dead, or has closed the channel)
    are called from the event loop; after ``finish`` no more.

    ``environment`` None means this process's own. Raises OSError where no process can be started.
    """

    def __init__(
        self,
        module: str,
        *,
        first: bytes,
        on_packet: Callable[[bytes], None],
        on_closed: Callable[[], None],
        descriptors: tuple[int, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._on_packet, self._on_closed = on_packet, on_closed
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self.reaped: asyncio.Task[bool] | None = None
        self._stderr = os.memfd_create(f"{module}-stderr")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.setblocking(False)
        try:
            with theirs:
                self._process = self._start(module, (theirs.fileno(), *descriptors), environment)
        except BaseException:
            self._channel.close()
            os.close(self._stderr)
            raise
        self.send(first)
        self._loop.add_reader(self._channel.fileno(), self._readable)

    def _start(
        self, module: str, descriptors: tuple[int, ...], environment: Mapping[str, str] | None
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # -S, with the daemon's own path: no site-packages hooks are run, so it starts fast and small.
            [sys.executable, "-I", "-S", "-c", _BOOT, module_path(), module, *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._stderr,
            env=environment,
            pass_fds=descriptors,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """As ``Popen.returncode``: None while it is not reaped, below 0 for a signal."""
        return self._process.returncode

    def send(self, packet: bytes) -> None:
        """Tell it; one that does not read any more is left to whoever watches it."""
        if not self._ended:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                self._channel.send(packet)

    def _readable(self) -> None:
        while not self._ended:
            try:
                packet = self._channel.recv(PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._loop.remove_reader(self._channel.fileno())  # a closed channel is readable for ever
                self._on_closed()
                return
            self._on_packet(packet)

    def last_words(self) -> str:
        """The last line it wrote to its standard error. Not to be asked after ``finish``."""
        size = os.fstat(self._stderr).st_size
        words = os.pread(self._stderr, _STDERR_BYTES, max(0, size - _STDERR_BYTES)).decode("utf-8", "replace")
        return words.strip().rpartition("\n")[2]

    def finish(self) -> None:
        """Kill it, hear no more of it, and have it reaped. To be called once."""
        self._ended = True
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        os.close(self._stderr)
        self.reaped = self._loop.create_task(self._reap())

    async def _reap(self) -> bool:
        """Take leave of the process when it is dead, however long the kernel holds it. False: it does not die."""
        wait, given_up = 0.005, time.monotonic() + _REAP_SECONDS
        while self._process.poll() is None and time.monotonic() < given_up:
            await asyncio.sleep(wait)
            wait = min(wait * (1 + _REAP_SLACK), 5.0)
        gone = self._process.returncode is not None
        self.abandon()
        return gone

    def abandon(self) -> None:
        """Stop waiting for a process that even SIGKILL does not end, and spare the log a warning about it."""
        if self._process.returncode is None:
            self._process.returncode = -signal.SIGKILL
