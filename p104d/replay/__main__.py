"""``python -m p104d.replay TRACE.json``: what a policy makes of a trace, in virtual time.

A trace: {"cards": 6, "models": {"NAME": {"cards": 1, "load_seconds": 10.5}},
"jobs": [{"id": 1, "model": "NAME", "arrival_seconds": 0, "run_seconds": 30}]}.
A job may have a "priority"; with "model" null it takes "cards" cards and loads nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from p104d.core.errors import P104Error, UsageError
from p104d.replay.figures import POLICIES, Figures, figures
from p104d.replay.trace import MOST_BYTES, Trace, decode


class _Parser(argparse.ArgumentParser):
    """One line on stderr, as all of the house's commands do."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, mend="see python -m p104d.replay --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the trace; 0, or the exit code of the error."""
    try:
        args = _parser().parse_args(arguments)
        trace = decode(_read(args.trace), "standard input" if args.trace == "-" else args.trace)
        names = args.policy or (["p104d"] if args.json else list(POLICIES))
        found = [figures(trace, name) for name in names]
        sys.stdout.write(_json(found) if args.json else _table(trace, found))
        sys.stdout.flush()
    except P104Error as error:
        sys.stderr.write(f"p104d.replay: {error.line()}\n")
        return error.exit_code
    except BrokenPipeError:
        # The reader has gone; nor must the interpreter's own flush at its end complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m p104d.replay", description=__doc__)
    parser.add_argument("trace", metavar="TRACE.json", help="the trace; - for standard input")
    parser.add_argument(
        "--policy",
        action="append",
        choices=list(POLICIES),
        metavar="NAME",
        help=f"{', '.join(POLICIES)}; several for a comparison (default: all of them, or p104d with --json)",
    )
    parser.add_argument(
        "--json", action="store_true", help="one object, or one a line where several policies are named"
    )
    return parser


def _read(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror or error}", mend="name a file that can be read, or -") from None
    if len(data) > MOST_BYTES:
        raise UsageError(f"{name}: more than {MOST_BYTES >> 20} MiB", mend="replay a part of it")
    return data


def _json(found: Sequence[Figures]) -> str:
    return "".join(f"{msgspec.json.encode(each).decode()}\n" for each in found)


def _table(trace: Trace, found: Sequence[Figures]) -> str:
    """The figures for people: one line a policy, seconds, and how far from the bound."""
    bound = found[0].lower_bound_seconds
    head = (
        f"{len(trace.jobs)} jobs, {len(trace.models)} models, {trace.cards} cards; no policy ends before {bound:.0f} s"
    )
    rows: list[tuple[str, ...]] = [
        ("policy", "makespan s", "of bound", "mean flow s", "p95 flow s", "max flow s", "loads")
    ]
    for each in found:
        ratio = f"{each.makespan_seconds / bound:.2f}x" if bound else "-"
        flow = (each.mean_flow_seconds, each.p95_flow_seconds, each.max_flow_seconds)
        rows.append(
            (each.policy, f"{each.makespan_seconds:.0f}", ratio, *(f"{value:.1f}" for value in flow), str(each.loads))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([head, "", *lines, ""])


if __name__ == "__main__":
    sys.exit(main())
