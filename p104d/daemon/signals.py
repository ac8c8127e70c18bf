"""Which signals end the daemon, and which do nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def heed(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Call ``stop`` at SIGTERM, SIGINT and SIGHUP: a terminal that closes is no kill -9. After nohup it is nothing."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, stop)
    # They mean nothing here, and would end it. Not SIG_IGN, which every child would inherit.
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, lambda: None)
