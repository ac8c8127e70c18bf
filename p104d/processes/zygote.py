"""A warm process that forks shims: a Python start for each would cost 15 ms. Standard library only.

Every request, one datagram with the folder for the cgroups of jobs (``-``: none), is answered with ``PID`` and a
descriptor, the daemon's end of the shim's line, whose end of file tells the shim's death; or with ``!TEXT`` where no
process could be made. The zygote ends when the daemon's end of its socket closes; its shims live on. Killing it costs
nothing but a new start.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import socket

from p104d.processes import identity, native, shim

_REQUEST_BYTES = 8192


class Zygote:
    """Serves one daemon through the socket ``link``."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._signals = native.signal_descriptor(shim.SIGNALS)
        self._adjusted = shim.is_adjusted()
        identity.boot_id()  # read once, here, for all shims

    def serve(self) -> None:
        """Until the daemon's end closes."""
        poll = select.poll()
        poll.register(self._link, select.POLLIN)
        poll.register(self._signals, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._signals:
                    native.read_signals(descriptor)
                    self._reap()
                elif not self._answer():
                    return

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _answer(self) -> bool:
        try:
            request = self._link.recv(_REQUEST_BYTES)
            if not request:
                return False
            self._fork(None if request == b"-" else os.fsdecode(request))
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _fork(self, groups: str | None) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            try:
                pid = os.fork()
            except OSError as error:
                self._link.send(b"!" + str(error.strerror).encode())
                return
            if pid == 0:
                self._become_shim(ours, theirs, groups)
            socket.send_fds(self._link, [b"%d" % pid], [ours.fileno()])

    def _become_shim(self, daemons: socket.socket, own: socket.socket, groups: str | None) -> None:
        try:
            daemons.close()
            self._link.close()
            os.close(self._signals)
            shim.serve(own, groups, self._adjusted)
        finally:
            os._exit(0)


def main(descriptor: int) -> None:
    """Serve on the inherited ``descriptor``."""
    shim.take_signals()
    os.setsid()
    os.set_inheritable(descriptor, False)
    link = socket.socket(fileno=descriptor)
    # Nothing is collected any more, and what exists is out of the collector's sight: forks share more of their pages.
    gc.collect()
    gc.disable()
    gc.freeze()
    Zygote(link).serve()
