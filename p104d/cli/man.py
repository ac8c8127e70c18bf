"""``python -m p104d.cli.man FOLDER`` writes the man pages, made of the same texts as ``--help``."""

from __future__ import annotations

import os
import sys

from p104d.cli.describe import OptionText, VerbText, describe_program, describe_verbs
from p104d.cli.verbs import SECTIONS

_EXITS = {
    "0": "Done.",
    "1": "The job waited for did not succeed, a card of verify is not proven, or a check of doctor failed."
    " (run: see there.)",
    "2": "The command line is wrong, or a file cannot be read.",
    "3": "The daemon cannot be reached.",
    "4": "Refused: a bad job, not allowed, impossible now.",
    "5": "No such job, card or schedule.",
    "74": "The output cannot be written; what was asked for is done.",
    "130": "Interrupted; jobs waited for go on, tests that verify asked for are stopped.",
    "141": "Whoever read the output went away.",
}
_FILES = {
    "$XDG_RUNTIME_DIR/p104d/p104d.sock": "Your own daemon's socket; without that folder in ~/.local/state/p104d/run.",
    "/run/p104d/p104d.sock": "The socket of the system's daemon, for root and the group p104.",
}
_VARIABLES = {
    "P104_SOCKET": "The daemon's socket, as --socket.",
    "NO_COLOR": "If set, nothing is coloured.",
    "COLUMNS": "The width of tables, instead of the terminal's.",
}


def escape(text: str) -> str:
    """``text`` as troff prints it back: no escapes, no requests, hyphens that can be copied."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("~", "\\(ti").replace("^", "\\(ha")
    return f"\\&{text}" if text.startswith(".") else text


def verb_page(verb: VerbText) -> str:
    """The page ``p104ctl-<verb>(1)``."""
    name = f"p104ctl-{verb.name}"
    parts = [
        _title(name),
        _section("NAME", [f"{escape(name)} \\- {escape(_start_small(verb.short))}"]),
        _section("SYNOPSIS", [f".B p104ctl {escape(verb.name)}", escape(verb.usage)]),
        _section("DESCRIPTION", _paragraphs(verb.help)),
        _section("OPTIONS", [line for option in verb.options for line in _option(option)]),
        _section("SEE ALSO", [".BR p104ctl (1)"]),
    ]
    return "".join(parts)


def program_page() -> str:
    """The page ``p104ctl(1)``."""
    program = describe_program()
    verbs: list[str] = []
    for heading, section in SECTIONS.items():
        verbs.append(f".SS {escape(heading)}")
        for name, text in section.items():
            verbs += [".TP", f".BR p104ctl\\-{escape(name)} (1)", escape(text)]
    parts = [
        _title("p104ctl"),
        _section("NAME", ["p104ctl \\- ask the p104d daemon what the rig does, and tell it what to do"]),
        _section("SYNOPSIS", [".B p104ctl", "[\\-\\-socket PATH] VERB [ARGUMENT]..."]),
        _section("DESCRIPTION", _paragraphs(program.help)),
        _section("OPTIONS", [line for option in program.options for line in _option(option)]),
        _section("VERBS", verbs),
        _section("EXIT STATUS", _terms(_EXITS)),
        _section("ENVIRONMENT", _terms(_VARIABLES)),
        _section("FILES", _terms(_FILES)),
    ]
    return "".join(parts)


def _title(name: str) -> str:
    return f'.TH "{escape(name.upper())}" 1 "" p104d "p104d manual"\n'


def _section(heading: str, lines: list[str]) -> str:
    return "\n".join([f".SH {heading}", *lines]) + "\n"


def _paragraphs(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [".PP", escape(" ".join(paragraph.split()))]
    return lines


def _option(option: OptionText) -> list[str]:
    names = ", ".join(f"\\fB{escape(name)}\\fR" for name in option.names)
    value = f" \\fI{escape(option.value)}\\fR" if option.value else ""
    return [".TP", names + value, escape(option.help)]


def _terms(terms: dict[str, str]) -> list[str]:
    return [line for term, text in terms.items() for line in (".TP", f"\\fB{escape(term)}\\fR", escape(text))]


def _start_small(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def write_pages(folder: str) -> list[str]:
    """Write all pages into ``folder`` (made if absent) and return their paths."""
    os.makedirs(folder, exist_ok=True)
    pages = {"p104ctl.1": program_page()}
    pages |= {f"p104ctl-{verb.name}.1": verb_page(verb) for verb in describe_verbs()}
    written = []
    for name, text in pages.items():
        path = os.path.join(folder, name)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        written.append(path)
    return written


def main(arguments: list[str]) -> int:
    """Write the pages into the folder named on the command line."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m p104d.cli.man FOLDER\n")
        return 2
    write_pages(arguments[0])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
