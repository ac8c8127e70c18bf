"""``p104d``: the daemon's command line."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time

import p104d
from p104d.core.errors import P104Error, UsageError
from p104d.daemon.config import load_config
from p104d.daemon.daemon import Daemon, Options
from p104d.daemon.paths import places
from p104d.hardware.rig import Rig, healthy_rig, load_rig
from p104d.processes import descriptors

#: A queue that is called damaged so often in a row, each time this soon, is, whatever a closer look says.
_MOST_DOUBTS, _SOON_SECONDS = 3, 60.0


def main(argv: list[str] | None = None) -> int:
    """Run the daemon; the exit code. Errors are one line on standard error."""
    arguments = _parser().parse_args(argv)
    _log_to_stderr()
    os.umask(0o077)
    descriptors.take_all()
    try:
        _run(_options(arguments))
    except P104Error as error:
        print(f"p104d: {error.line()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _run(options: Options) -> None:
    """One daemon, and where it finds its queue damaged, another one that restores it."""
    doubt, doubts = None, 0
    while True:
        began = time.monotonic()
        daemon = Daemon(options, doubt, insist=doubts > _MOST_DOUBTS)
        asyncio.run(daemon.run())
        doubt = daemon.damage
        if doubt is None:
            return
        doubts = doubts + 1 if time.monotonic() - began < _SOON_SECONDS else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> object:  # type: ignore[override]
        """One line, as every error."""
        self.exit(2, f"p104d: {message}; see p104d --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="p104d",
        description="Keeps a rig of NVIDIA cards busy: inventories them, schedules jobs over them, supervises these.",
        epilog="SIGTERM, SIGHUP and Ctrl-C stop the daemon and leave its jobs running; the next start has them again.",
    )
    parser.add_argument("--system", action="store_true", help="serve the whole host as root, jobs as their submitters")
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: /etc/p104d or the user's own)")
    parser.add_argument("--state-dir", metavar="DIR", help="where queue, logs and verdicts are kept")
    parser.add_argument("--socket", metavar="PATH", help="where p104ctl finds this daemon")
    parser.add_argument(
        "--simulate", metavar="N|RIG.toml", help="a simulated rig: N healthy unlocked P104-100, or a rig file"
    )
    parser.add_argument("--version", action="version", version=f"p104d {p104d.__version__}")
    return parser


def _options(arguments: argparse.Namespace) -> Options:
    if arguments.system and os.getuid() != 0:
        raise UsageError("--system needs root", mend="start it through systemd, or leave --system out")
    simulate = _simulated(arguments.simulate) if arguments.simulate is not None else None
    where = places(
        system=arguments.system,
        state=arguments.state_dir,
        socket=arguments.socket,
        config=arguments.config,
        simulated=simulate is not None,
    )
    return Options(system=arguments.system, places=where, settings=load_config(where.config), simulate=simulate)


def _simulated(text: str) -> Rig:
    return healthy_rig(int(text)) if text.isascii() and text.isdigit() else load_rig(text)


def _log_to_stderr() -> None:
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"{stamp}%(levelname)s %(message)s action=%(action)s", defaults=_NO_ACTION))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # It writes a traceback for every request that is not HTTP: anybody on the socket could fill the log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


#: Lines of libraries carry no action of ours.
_NO_ACTION = {"action": "log"}


if __name__ == "__main__":
    sys.exit(main())
