"""p104ctl submit: job files in, ids out."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from p104d.cli.common import client, json_option, note, out, print_json, warn
from p104d.cli.sending import envelope, read_documents
from p104d.cli.verbs import VERBS


@click.command("submit", short_help=VERBS["submit"])
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@click.option("--wait", is_flag=True, help="Wait until all jobs have ended; exit with 1 if any did not succeed.")
@click.option("--name", metavar="NAME", help="Name the job so, instead of as its file says.")
@click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a key of every document; dotted keys, YAML values.",
)
@click.option("--keep-env", metavar="NAME", multiple=True, help="Give the jobs this variable of your environment.")
@json_option
def command(
    files: tuple[str, ...],
    wait: bool,
    name: str | None,
    settings: tuple[str, ...],
    keep_env: tuple[str, ...],
    as_json: bool,
) -> None:
    """Submit the jobs of YAML files (- for standard input), all of them or none.

    Prints one id a line: a job's number, or "schedule" and its number for a document with a schedule.
    """
    if name is not None:
        settings = (*settings, f"name={json.dumps(name)}")
    body = envelope(read_documents(files), settings, keep_env)
    asked = client()
    submitted = asked.post("/v1/submit", body)
    if not (as_json and wait):
        _show_surely(submitted, as_json)
    if wait:
        _wait(asked, submitted, as_json)


def _show_surely(submitted: dict[str, Any], as_json: bool) -> None:
    """Where the ids cannot be written they are told with the error: the jobs are in the queue, and whoever believes
    that they are not submits them again."""
    try:
        _show(submitted, as_json)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        ids = [*(str(job["id"]) for job in submitted["jobs"]), *_schedules(submitted)]
        raise OSError(error.errno, f"{error.strerror}; submitted all the same: {', '.join(ids)}") from None


def _schedules(submitted: dict[str, Any]) -> list[str]:
    return [f"schedule {schedule['id']}" for schedule in submitted.get("schedules", ())]


def _show(submitted: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(submitted)
        return
    for job in submitted["jobs"]:
        out(str(job["id"]))
    for schedule in _schedules(submitted):
        out(schedule)
    warn(submitted)


def _wait(asked: Any, submitted: dict[str, Any], as_json: bool) -> None:
    from p104d.cli.waiting import Watch, describe_end, goes_on, interruptible

    names = {job["id"]: job["name"] for job in submitted["jobs"]}
    if sys.stdout is not None:
        sys.stdout.flush()
    ended = []
    if names:
        with interruptible(goes_on(list(names))):
            ended = Watch(asked).wait(list(names))
    if as_json:
        print_json({**submitted, "jobs": [{"name": names.get(job["id"]), **job} for job in ended]})
    failed = [job for job in ended if job["state"] != "succeeded"]
    for job in failed:
        note(describe_end(job))
    if failed:
        click.get_current_context().exit(1)
