"""p104ctl models: what is resident on the cards and what shall stay there; or what a model's file needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from p104d.cli.common import ParamType, client, complete, json_option, lines, print_json
from p104d.cli.verbs import VERBS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

#: What can be done to models. A file of such a name is reached as ./pin.
_ACTS = {
    "pin": "Keep its copies on their cards.",
    "unpin": "Let its copies be unloaded again.",
    "unload": "End its idle copies now.",
}
#: As in job.yaml. The reader knows more kinds; these are what llama.cpp's CUDA build keeps on a card by itself.
_CACHES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


class Word(ParamType):
    """A model's file; or one of the acts, and then what the daemon knows models by."""

    name = "model"

    def convert(self, value: Any, _param: click.Parameter | None, _ctx: click.Context | None) -> str:
        return str(value)

    def shell_complete(self, ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        before = ctx.params.get("words") or ()
        files = [CompletionItem(incomplete, type="file")]
        if not before:
            acts = [CompletionItem(act, help=text) for act, text in _ACTS.items() if act.startswith(incomplete)]
            return acts or files
        if before[0] not in _ACTS or len(before) > 1:
            return []
        key, told = ("pins", ("by",)) if before[0] == "unpin" else ("models", ("state", "id"))
        return complete(ctx, "/v1/models", key, "name", told, incomplete) or files


class Size(ParamType):
    """A size with its unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from p104d.core.units import parse_size

        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("models", short_help=VERBS["models"])
@click.argument("words", metavar="[MODEL.gguf | pin MODEL | unpin MODEL | unload MODEL]", type=Word(), nargs=-1)
@click.option("--context", metavar="N", type=click.IntRange(1, 2**26), help="Tokens that each request may have: 4096.")
@click.option("--parallel", metavar="N", type=click.IntRange(1, 256), help="Requests at a time: 1.")
@click.option(
    "--kv-cache", metavar="KIND", type=click.Choice(_CACHES), help="How keys and values are kept: f16, q8_0, ..."
)
@click.option("--no-flash-attention", is_flag=True, help="As if flash attention were off.")
@click.option("--cards", metavar="N", type=click.IntRange(1, 16), help="Share it among N cards, not the fewest.")
@click.option("--memory", metavar="SIZE", type=Size(), help="Memory of a card. Default: a P104-100's 7.9GiB.")
@json_option
def command(words: tuple[str, ...], as_json: bool, **asked: Any) -> None:
    """Show which models are on the cards, which are pinned, and how long each takes to load.

    With pin, unpin or unload: keep a model's copies on their cards, let them be unloaded again, end those that are idle
    now. MODEL is a file's path, the number of a copy, or a name as listed. For root and group p104-admin.

    With MODEL.gguf: work out from the file what memory it needs, and which contexts fit on one, two and four cards.
    Needs no daemon; the other options are for this alone. Of a split model name the first part. Weights and cache are
    exact, the rest is an estimate.
    """
    if len(words) == 1 and words[0] not in _ACTS:
        _file(words[0], asked, as_json)
        return
    given = [name for name, value in asked.items() if value]
    if given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} goes with a model's file: p104ctl models MODEL.gguf")
    if not words:
        _list(as_json)
    elif words[0] not in _ACTS:
        raise click.UsageError(f"one MODEL.gguf at a time; before a MODEL goes {', '.join(_ACTS)}, not {words[0]!r}")
    elif len(words) != 2:
        raise click.UsageError(f"{words[0]} needs one MODEL; a file of that name is ./{words[0]}")
    else:
        _act(words[0], words[1], as_json)


def _file(path: str, asked: dict[str, Any], as_json: bool) -> None:
    from p104d.cli.modelling import page, read

    wish = {("card_bytes" if key == "memory" else key): value for key, value in asked.items() if value is not None}
    wish["flash_attention"] = not wish.pop("no_flash_attention")
    answer = read(path, wish)
    if as_json:
        print_json(answer)
    else:
        lines(page(answer))


def _list(as_json: bool) -> None:
    asked = client()
    answer = asked.get("/v1/models")
    if as_json:
        print_json(answer)
        return
    from p104d.cli.jobs import card_indexes
    from p104d.cli.residents import page

    lines(page(answer, card_indexes(asked, answer["models"])))


def _act(act: str, model: str, as_json: bool) -> None:
    asked = client()
    answer = asked.post(f"/v1/models/{act}", {"model": meant(model)})
    from p104d.cli.residents import refuse_busy, told

    if as_json:
        print_json(answer)
    else:
        from p104d.cli.jobs import card_indexes

        lines(told(act, answer, card_indexes(asked, answer["models"])))
    if act == "unload":
        refuse_busy(answer["models"])


def meant(model: str) -> str:
    """MODEL as the daemon takes it: ``#3`` for a copy, an absolute path for a file, anything else as a name."""
    number = model.removeprefix("#")
    if number.isascii() and number.isdecimal():
        return f"#{number}"
    if "/" in model or model.endswith(".gguf") or os.path.isfile(model):
        return os.path.abspath(model)
    if not model.strip():
        raise click.UsageError("a model is named by its path, its number or its name")
    return model
