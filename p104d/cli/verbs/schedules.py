"""p104ctl schedules: what is submitted again and again."""

from __future__ import annotations

from typing import Any

import click

from p104d.cli.common import ScheduleId, client, json_option, lines, out, print_json, unique
from p104d.cli.verbs import VERBS


@click.command("schedules", short_help=VERBS["schedules"])
@click.argument("action", metavar="[ACTION]", type=click.Choice(["list", "hold", "release", "cancel"]), default="list")
@click.argument("ids", metavar="[SCHEDULE]...", type=ScheduleId(), nargs=-1)
@json_option
def command(action: str, ids: tuple[int, ...], as_json: bool) -> None:
    """List schedules, or hold, release, cancel some: p104ctl schedules hold 3.

    ACTION is list (the default), hold, release or cancel. Jobs that a schedule has submitted are not touched.
    """
    if (action == "list") == bool(ids):
        wrong = "list takes no SCHEDULE" if ids else f"{action} needs a SCHEDULE"
        raise click.UsageError(wrong)
    if action == "list":
        answer = client().get("/v1/schedules")
    else:
        answer = client().post(f"/v1/schedules/{action}", {"ids": unique(ids)})
    if as_json:
        print_json(answer)
    elif action == "list":
        lines(_table(answer["schedules"]))
    else:
        for one in answer["schedules"]:
            out(f"schedule {one['id']} ({one['name']}): {one['state']}")


def _table(schedules: list[dict[str, Any]]) -> list[str]:
    from p104d.cli.text import Column, local, relative, state, table

    if not schedules:
        return ["no schedules"]
    columns = [
        Column("ID", right=True),
        Column("NAME", give=True),
        Column("STATE"),
        Column("CRON"),
        Column("ZONE", give=True),
        Column("NEXT", give=True, least=12),
        Column("LAST"),
        Column("LAST JOB", right=True),
        Column("USER"),
    ]
    rows = [
        [
            str(one["id"]),
            one["name"],
            state(one["state"]),
            one["cron"],
            one.get("timezone") or "host's",
            f"{local(one['next_run_at'])} ({relative(one['next_run_at'])})" if one.get("next_run_at") else "-",
            local(one.get("last_run_at")),
            str(one.get("last_job_id") or "-"),
            one.get("user") or "-",
        ]
        for one in schedules
    ]
    return table(columns, rows)
