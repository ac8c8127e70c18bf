"""p104ctl run: one command as a job, as if it ran here."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from p104d.api.client import Client
from p104d.cli.common import CardName, client, json_option, note, out, print_json, warn
from p104d.cli.sending import envelope, pairs, yaml_text
from p104d.cli.verbs import VERBS
from p104d.core.errors import NotFoundError, P104Error

if TYPE_CHECKING:
    from p104d.cli.waiting import Watch

#: Options that are keys of job.yaml as they are, in its order.
_KEYS = ("cards", "vram", "ram", "priority", "retries", "time_limit", "not_before", "cwd")


def job_options(function: Callable[..., None]) -> Callable[..., None]:
    """The keys of job.yaml that make sense on a command line; the daemon checks their values."""
    options = [
        click.option("--name", metavar="NAME", help="The job's name. Default: the command's."),
        click.option("--cards", type=int, metavar="N", help="How many cards, all at once; 0: none. Default: 1."),
        click.option("--vram", metavar="SIZE", help="Memory to reserve on each card, 7500MiB. Default: whole cards."),
        click.option("--ram", metavar="SIZE", help="Host memory to reserve."),
        click.option(
            "--only", metavar="CARD", type=CardName(), multiple=True, help="Only this card: index, UUID, name."
        ),
        click.option("--priority", type=int, metavar="N", help="-1000 to 1000, higher first. Default: 0."),
        click.option("--after", metavar="JOB", type=int, multiple=True, help="Start only when this job has succeeded."),
        click.option("--retries", type=int, metavar="N", help="Try again so often after a failure. Default: 0."),
        click.option("--idempotent", is_flag=True, help="The job may run again after its host died."),
        click.option("--time-limit", metavar="DURATION", help="End the job after 90s, 5m, 2h, 1d."),
        click.option("--not-before", metavar="TIME", help="Start no earlier than this ISO 8601 time."),
        click.option("--env", metavar="KEY=VALUE", multiple=True, help="Set a variable in the job's environment."),
        click.option("--cwd", metavar="DIR", help="The job's folder. Default: this one."),
        click.option("--label", metavar="KEY=VALUE", multiple=True, help="Label the job."),
        click.option("--gpu-required", is_flag=True, help="Fail the job if it never appears on its card."),
        click.option(
            "--keep-env", metavar="NAME", multiple=True, help="Give the job this variable of your environment."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command("run", short_help=VERBS["run"], context_settings={"allow_interspersed_args": False})
@job_options
@click.option("--detach", is_flag=True, help="Do not wait: print the job's id and end.")
@json_option
@click.argument("words", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(words: tuple[str, ...], detach: bool, as_json: bool, keep_env: tuple[str, ...], **options: Any) -> None:
    """Run a command as a job, show its output as it comes, end with its exit code.

    A command ended by a signal gives 128 and the signal's number; a job that ended otherwise without success gives 1.
    Ctrl-C ends the waiting (130); the job goes on. --json is for --detach.
    """
    if as_json and not detach:
        raise click.UsageError("--json prints the job's id, so it needs --detach")
    text = yaml_text(document(words, options))
    asked = client()
    submitted = asked.post("/v1/submit", envelope([{"file": "command line", "text": text}], (), keep_env))
    job = int(submitted["jobs"][0]["id"])
    if not as_json:
        warn(submitted)
    if detach:
        print_json(submitted) if as_json else out(str(job))
        return
    click.get_current_context().exit(_watch(asked, job))


def document(words: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    """The job.yaml of this command line. Raises UsageError for a ``K=V`` that is none."""
    made: dict[str, Any] = {"name": options["name"] or default_name(words[0]), "command": list(words)}
    made |= {key: options[key] for key in _KEYS if options[key] is not None}
    made |= {key: list(options[key]) for key in ("only", "after") if options[key]}
    made |= {key: True for key in ("idempotent", "gpu_required") if options[key]}
    mappings = {"env": pairs("--env", options["env"]), "labels": pairs("--label", options["label"])}
    return made | {key: value for key, value in mappings.items() if value}


def default_name(program: str) -> str:
    """The last part of the program's path, without what a name may not hold."""
    stem = os.path.basename(program.rstrip("/"))
    return "".join(char for char in stem if char.isprintable())[:64].strip() or "run"


def _watch(asked: Client, job: int) -> int:
    from p104d.cli.waiting import Watch, describe_end, goes_on, interruptible

    talkative = sys.stderr is not None and sys.stderr.isatty()
    with interruptible(goes_on([job])):
        ended = _end(Watch(asked), job, (lambda: _say_why(asked, job)) if talkative else None)
        if ended["state"] == "succeeded":
            return 0
        if sys.stdout is not None:
            sys.stdout.flush()
        note(describe_end(ended))
        return exit_code(asked, ended)


def _end(watch: Watch, job: int, while_silent: Callable[[], None] | None) -> dict[str, Any]:
    try:
        return watch.follow(job, {}, while_silent)
    except NotFoundError:
        # Cancelled before it ever ran: no log to follow, but an end to tell.
        return watch.wait([job])[0]


def exit_code(asked: Client, ended: dict[str, Any]) -> int:
    """The exit code that stands for the end of ``ended``: its own, 128 and its signal, or 1."""
    code = ended.get("exit_code")
    if code:
        return int(code) if code > 0 else 128 - int(code)
    if ended.get("signal"):
        return 128 + int(ended["signal"])
    attempts = asked.post("/v1/jobs/show", {"ids": [ended["id"]]})["jobs"][0].get("attempts") or [{}]
    signal = attempts[-1].get("signal")
    return 128 + int(signal) if signal else 1


def _say_why(asked: Client, job: int) -> None:
    """Tell a person in front of a silent terminal what their job waits for."""
    try:
        shown = asked.post("/v1/jobs/show", {"ids": [job]})["jobs"][0]
    except P104Error:
        return
    if shown.get("waiting_because"):
        note(f"job {job}: {shown['waiting_because']}")
