"""The process that tests one card's memory. It may be killed at any time: the card is then free again.

Started by ``tester`` with one inherited descriptor, a SOCK_SEQPACKET socket: first the configuration comes in, then
progress goes out, and at last a result or a failure. It ends when the daemon does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys

import msgspec

from p104d.memtest.messages import PACKET_BYTES, Failure, Packet, Progress, TestConfig

#: A result with a full map goes through in one packet; the kernel's default for a socket is just below that.
_SEND_BUFFER = 1 << 20


class _Voice:
    """Says packets to the daemon."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._encoder = msgspec.msgpack.Encoder()
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)

    def progress(self, progress: Progress) -> None:
        """Leaves it out where the daemon has not read the earlier ones: the test does not wait for it."""
        with contextlib.suppress(BlockingIOError):
            self._channel.send(self._encoder.encode(progress), socket.MSG_DONTWAIT)

    def last(self, packet: Packet) -> None:
        """A result or a failure, which must arrive."""
        self._channel.send(self._encoder.encode(packet))


def _name_process() -> None:
    """So that people find it in ps and top."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write("p104d-memtest")


def _prepare_environment(config: TestConfig) -> None:
    """What the driver's library reads when it is initialised: one card, and that by its own name."""
    os.environ |= {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": config.uuid,
        # The kernels are few: compiling them anew costs less than a cache in somebody's home folder.
        "CUDA_CACHE_DISABLE": "1",
        # A module loaded at its first launch would find no memory left to be loaded to.
        "CUDA_MODULE_LOADING": "EAGER",
    }


def _test(config: TestConfig, voice: _Voice) -> Packet:
    try:
        from p104d.memtest.run import attempt

        # Nothing is given back one by one: the process ends, and a card that fell off the bus cannot hold it up.
        return attempt(config, voice.progress, close=False)
    except (BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        # For the log: the daemon shows the last line only.
        import traceback

        traceback.print_exc()
        return Failure(text=f"the memory test went wrong: {type(error).__name__}: {error}")


def main() -> None:
    """The channel's descriptor is the only argument."""
    _name_process()
    # Ctrl-C at a terminal is for the daemon.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = socket.socket(fileno=int(sys.argv[1]))
    packet = channel.recv(PACKET_BYTES)
    if packet:
        config = msgspec.msgpack.decode(packet, type=TestConfig)
        _prepare_environment(config)
        voice = _Voice(channel)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the daemon is gone: nobody to tell
            voice.last(_test(config, voice))
    # Without the interpreter's farewell: an unloading driver library may take seconds or crash.
    os._exit(0)
