"""p104ctl report: a while on one page."""

from __future__ import annotations

import sys
from typing import Any

import click

from p104d.cli.common import client, json_option, lines, out, print_json
from p104d.cli.verbs import VERBS

#: A busy year takes the daemon seconds to add up.
_PATIENCE_SECONDS = 300.0


@click.command("report", short_help=VERBS["report"])
@click.option("--since", metavar="TIME", default="7d", help="From then on: 2h, 7d, or an ISO 8601 time. Default: 7d.")
@click.option("--until", metavar="TIME", help="Up to then. Default: now.")
@click.option("--html", "form", flag_value="html", help="As one HTML file that needs nothing else.")
@click.option("--markdown", "form", flag_value="markdown", help="As Markdown; so it is where no terminal reads it.")
@click.option("--output", metavar="FILE", type=click.Path(), help="Write to FILE, as HTML if it ends in .html.")
@json_option
def command(since: str, until: str | None, form: str | None, output: str | None, as_json: bool) -> None:
    """Show on one page what ran: by job name and model the jobs, hours, energy, cost, tokens and items; what each card
    did; why jobs failed; and which cards to look at.

    A job counts in the time in which it ended.
    """
    from p104d.cli.times import moment

    if as_json and (form or output):
        raise click.UsageError("--json goes with --since and --until only")
    query = {"since": moment(since), "until": None if until is None else moment(until, "--until")}
    report = client().get("/v1/report", query, timeout=_PATIENCE_SECONDS)
    if as_json:
        print_json(report)
        return
    text = _written(report, form or _form_of(output))
    if output is None:
        lines(text)
        return
    _write(output, "\n".join(text) + "\n")
    out(output)


def _form_of(output: str | None) -> str:
    if output is not None:
        return "html" if output.lower().endswith((".html", ".htm")) else "markdown"
    return "terminal" if sys.stdout is not None and sys.stdout.isatty() else "markdown"


def _written(report: dict[str, Any], form: str) -> list[str]:
    from p104d.cli.reportpage import html_lines, markdown_lines, page, terminal_lines

    write = {"html": html_lines, "markdown": markdown_lines, "terminal": terminal_lines}[form]
    return write(page(report))


def _write(path: str, text: str) -> None:
    """The report as a file, also while cron replaces it."""
    from p104d.cli.whole_file import replacing

    with replacing(path, ".p104-report-") as stream:
        stream.write(text.encode())
