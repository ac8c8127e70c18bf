"""p104ctl doctor: what is wrong with this rig, and what to do about it."""

from __future__ import annotations

import os
from typing import Any

import click

from p104d.cli.common import client, json_option, lines, note, print_json
from p104d.cli.verbs import VERBS
from p104d.core.errors import UnreachableError


@click.command("doctor", short_help=VERBS["doctor"])
@json_option
def command(as_json: bool) -> None:
    """Check driver, permissions, cards, disk and clock; each fault with its mend.

    Works without a daemon too: then it looks at what keeps one from running here, and exits with 3. With one, it exits
    with 1 if a check fails.
    """
    trouble = None
    try:
        checks = client().get("/v1/doctor", timeout=60.0)["checks"]
    except UnreachableError as error:
        from p104d.cli.local_checks import local_checks

        trouble = error
        root = click.get_current_context().find_root()
        checks = local_checks(root.params.get("socket"), os.environ)
    if as_json:
        print_json({"checks": checks})
    else:
        lines(_page(checks))
    if trouble is not None:
        note(trouble.line())
        click.get_current_context().exit(trouble.exit_code)
    if any(check["ok"] is False for check in checks):
        click.get_current_context().exit(1)


def _page(checks: list[dict[str, Any]]) -> list[str]:
    from p104d.cli.terminal import terminal_width
    from p104d.cli.text import clean, paint, wrap

    marks = {True: paint("ok  ", "green"), False: paint("BAD ", "red"), None: paint("?   ", "yellow")}
    room = terminal_width() or 10_000
    names = max((len(check["name"]) for check in checks), default=0)
    margin = " " * (names + 6)
    page = []
    for check in checks:
        first, *rest = wrap(check["text"], room - len(margin), "")
        page.append(f"{marks[check['ok']]}{clean(check['name']):<{names}}  {first}")
        page += [margin + line for line in rest]
        if check["ok"] is not True and check.get("mend"):
            page += [margin + paint(line, "bold") for line in wrap(f"-> {check['mend']}", room - len(margin), "   ")]
    return page
