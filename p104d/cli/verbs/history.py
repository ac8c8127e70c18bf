"""p104ctl history: what was recorded over time: results of jobs, memory tests, readings of cards."""

from __future__ import annotations

import sys
from typing import Any

import click

from p104d.cli.common import CardName, JobId, client, json_option, lines, note, out, print_json
from p104d.cli.verbs import VERBS

#: A busy year of results takes the daemon seconds to add up.
_PATIENCE_SECONDS = 300.0
#: Pictures show as many results as the daemon lists at once.
_MOST = 1000
_DEFAULT_LAST = 20
_DEFAULT_SPAN = "1d"


@click.command("history", short_help=VERBS["history"])
@click.option("--card", metavar="CARD", type=CardName(), help="Only of this card, with its memory tests.")
@click.option("--job", metavar="JOB", type=JobId(), help="Only what this job measured.")
@click.option("--name", metavar="NAME", help="Only jobs of this name, result by result.")
@click.option("--model", metavar="MODEL", help="Only this model, result by result.")
@click.option("--measure", metavar="NAME", help="Only this measure. Without it: speeds.")
@click.option("--all", "every", is_flag=True, help="All measures, not only speeds.")
@click.option("--since", metavar="TIME", help="From then on: 2h, 7d, or an ISO 8601 time. Pictures of a card: 1d.")
@click.option("--until", metavar="TIME", help="Up to then. Default: now.")
@click.option("--last", metavar="N", type=click.IntRange(1, _MOST), help="At most so many results and tests: 20.")
@click.option("--tests", is_flag=True, help="The memory tests alone, of all cards or of CARD.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, for spreadsheets.")
@click.option("--plot", is_flag=True, help="Draw in the terminal: results, or with --card alone temperature and power.")
@click.option("--png", metavar="FILE", type=click.Path(), help="Draw the same to a PNG file. Needs matplotlib.")
@click.option("--svg", metavar="FILE", type=click.Path(), help="Draw the same to an SVG file. Needs matplotlib.")
@json_option
def command(**given: Any) -> None:
    """Show what was recorded: how fast each job or model ran on each card, beside the speed on record.

    With --job, --name or --model the single results, with --card also its memory tests, the newest first. --plot, --png
    and --svg draw results over time; with --card alone temperature, power, clock and speed, with its jobs below.
    """
    _check(given)
    wish = {"--png": given["png"], "--svg": given["svg"]}
    files = {option: path for option, path in wish.items() if path is not None}
    if files:
        from p104d.cli.plotting import require

        for option, path in files.items():
            require(path, option)
    if (given["plot"] or files) and _readings_wanted(given):
        _show_readings(given, files)
    else:
        _show_records(given, files)


def _check(given: dict[str, Any]) -> None:
    formats = [name for name, key in (("--json", "as_json"), ("--csv", "as_csv")) if given[key]]
    if len(formats) > 1:
        raise click.UsageError("--json and --csv do not go together")
    chosen = [f"--{key}" for key in ("job", "name", "model", "measure", "every") if given[key]]
    if given["tests"] and (chosen or given["as_csv"] or given["plot"] or given["png"] or given["svg"]):
        raise click.UsageError("--tests goes with --card, --since, --until, --last and --json only")
    if given["every"] and given["measure"]:
        raise click.UsageError("--all and --measure do not go together")


def _readings_wanted(given: dict[str, Any]) -> bool:
    """Of a card alone its readings are drawn; where results are chosen, these."""
    return given["card"] is not None and not any(given[key] for key in ("job", "name", "model", "measure", "every"))


def _while(given: dict[str, Any], since: str | None = None) -> dict[str, Any]:
    from p104d.cli.times import moment

    since = given["since"] or since
    return {
        "since": None if since is None else moment(since),
        "until": None if given["until"] is None else moment(given["until"], "--until"),
    }


# --- records ---------------------------------------------------------------------------------------------------------


def _show_records(given: dict[str, Any], files: dict[str, str]) -> None:
    drawing = bool(given["plot"] or files)
    shown = _shown(given, drawing)
    from p104d.cli.records import SHORT

    query = {key: given[key] for key in ("card", "job", "name", "model", "measure")}
    query["measure"] = SHORT.get(given["measure"], given["measure"])
    if shown != ["tests"]:
        # A job asked for by its number is shown with all that it measured.
        query["speeds"] = None if given["measure"] or given["every"] or given["job"] else 1
    query |= {"show": ",".join(shown), "limit": given["last"] or (_MOST if drawing else _DEFAULT_LAST), **_while(given)}
    asked = client()
    answer = asked.get("/v1/history", query, timeout=_PATIENCE_SECONDS)
    if given["as_json"]:
        print_json(answer)
    elif given["as_csv"]:
        _print_csv(answer, shown)
    elif not drawing:
        lines(_page(asked, answer, given))
    if drawing:
        _draw_results(asked, answer["results"], given, files)


def _shown(given: dict[str, Any], drawing: bool) -> list[str]:
    if given["tests"]:
        return ["tests"]
    if drawing or given["job"]:
        return ["results"]
    found = ["summaries"]
    # CSV is one table: of the summaries or, where single results are asked for, of these.
    if given["name"] or given["model"]:
        found = ["results"] if given["as_csv"] else ["summaries", "results"]
    if given["card"] and not given["as_csv"]:
        found = [*dict.fromkeys([*found, "results"]), "tests"]
    return found


def _page(asked: Any, answer: dict[str, Any], given: dict[str, Any]) -> list[str]:
    from p104d.cli.jobs import card_indexes
    from p104d.cli.records import result_table, summary_table
    from p104d.cli.text import paint

    parts: list[tuple[str, list[str]]] = []
    if answer.get("summaries"):
        parts.append(("on the whole", summary_table(answer["summaries"])))
    if answer.get("results"):
        indexes = card_indexes(asked, [{"cards": one["card_uuids"]} for one in answer["results"]])
        parts.append(("results", result_table(answer["results"], indexes)))
    if answer["tests"]:
        parts.append(("memory tests", _tests(answer["tests"], of_one_card=given["card"] is not None)))
    if len(parts) == 1:
        return parts[0][1]
    if not parts:
        return ["no memory test recorded" if given["tests"] else "nothing recorded"]
    found: list[str] = []
    for heading, part in parts:
        found += [*([""] if found else []), paint(heading.upper(), "bold"), *part]
    return found


def _tests(tests: list[dict[str, Any]], *, of_one_card: bool) -> list[str]:
    from p104d.cli.proof import history_table, label

    of_one_card = of_one_card and len({test["card"] for test in tests}) == 1
    return [*([label(tests[0])] if of_one_card else []), *history_table(tests, of_one_card=of_one_card)]


def _print_csv(answer: dict[str, Any], shown: list[str]) -> None:
    from p104d.cli.records import write_results, write_summaries

    if sys.stdout is None:
        return
    if "results" in shown:
        write_results(sys.stdout, answer["results"])
    else:
        write_summaries(sys.stdout, answer["summaries"])


# --- pictures --------------------------------------------------------------------------------------------------------


def _draw_results(asked: Any, results: list[dict[str, Any]], given: dict[str, Any], files: dict[str, str]) -> None:
    from p104d.cli.jobs import card_indexes

    if not results:
        note("nothing recorded to draw")
        return
    indexes = card_indexes(asked, [{"cards": one["card_uuids"]} for one in results])
    if given["plot"] and not (given["as_json"] or given["as_csv"]):
        from p104d.cli.drawing import result_charts

        lines(result_charts(results, indexes))
    if files:
        from p104d.cli.figures import draw_results

        for option, path in files.items():
            draw_results(results, indexes, path, option.removeprefix("--"))
    _tell(files, given)


def _show_readings(given: dict[str, Any], files: dict[str, str]) -> None:
    from p104d.cli.terminal import terminal_width

    asked = client()
    over = _while(given, _DEFAULT_SPAN)
    # Two dots a column in the terminal; a file has as many as can be told apart.
    points = 1500 if files else max(100, 2 * (terminal_width() or 100))
    query = {"card": given["card"], "points": points, **over}
    answer = asked.get("/v1/series", query, timeout=_PATIENCE_SECONDS)
    if given["as_json"]:
        print_json(answer)
    elif given["as_csv"] and sys.stdout is not None:
        from p104d.cli.records import write_series

        write_series(sys.stdout, answer["series"])
    speeds = {"card": given["card"], "show": "results", "speeds": 1, "limit": given["last"] or _MOST, **over}
    results = asked.get("/v1/history", speeds, timeout=_PATIENCE_SECONDS).get("results") or []
    if given["plot"] and not (given["as_json"] or given["as_csv"]):
        from p104d.cli.drawing import card_charts

        lines(card_charts(answer, results))
    if files:
        from p104d.cli.figures import draw_card

        for option, path in files.items():
            draw_card(answer, results, path, option.removeprefix("--"))
    _tell(files, given)


def _tell(files: dict[str, str], given: dict[str, Any]) -> None:
    if given["as_json"] or given["as_csv"]:
        return
    for path in files.values():
        out(path)
