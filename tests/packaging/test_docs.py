"""The documents say what the code does."""

from __future__ import annotations

import ast
import io
import json
import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from packaging_support import ROOT, code, document, fenced, table_rows

from p104d.api import spec_fields
from p104d.api.spec import Context, Document, parse_submission
from p104d.cli.describe import VerbText, describe_verbs
from p104d.cli.main import NOT_WRITTEN
from p104d.cli.verbs import VERBS
from p104d.core.errors import BY_EXIT_CODE
from p104d.core.job import ENDED
from p104d.core.lifecycle import diagram
from p104d.core.units import format_size
from p104d.daemon.config import Config, load_config, settle
from p104d.engines import batch_input
from p104d.engines.batch_input import Request
from p104d.engines.batch_output import line_of
from p104d.engines.gguf_types import CACHE_KINDS
from p104d.engines.measure import ITEMS, PARSERS, RESERVED_NAMES
from p104d.hardware import rigfile
from p104d.hardware.rig import FAULT_KINDS
from p104d.store.tables import metadata

DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def section(text: str, heading: str) -> str:
    """The part of ``text`` below ``heading``."""
    return re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_architecture_shows_the_transition_table() -> None:
    assert diagram() in [block.strip() for block in fenced(document("docs/architecture.md"), "mermaid")]


def test_architecture_lists_the_rooms_in_the_order_of_the_contract() -> None:
    contracts = tomllib.loads(document("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = [layer.removeprefix("p104d.") for layer in contracts[0]["layers"]]
    rooms = [code(row[0])[0] for row in table_rows(section(document("docs/architecture.md"), "The house"))]
    assert rooms == layers


def tortured(path: Path) -> str:
    """How much of a test file has the mark ``torture``: "all", "some" or "none"; read, for a collection takes long."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    marks = [ast.unparse(node.value) for node in body if isinstance(node, ast.Assign) and "pytestmark" in names(node)]
    if any("mark.torture" in mark for mark in marks):
        return "all"
    tests = [node for node in body if isinstance(node, ast.FunctionDef)]
    return (
        "some" if any("mark.torture" in ast.unparse(each) for test in tests for each in test.decorator_list) else "none"
    )


def names(node: ast.Assign) -> list[str]:
    return [ast.unparse(target) for target in node.targets]


def test_make_torture_runs_what_is_said_of_it() -> None:
    rows = [row for row in table_rows(section(document("docs/reliability.md"), "How it is tested")) if len(row) == 4]
    told = {(where, row[3]) for row in rows for where in code(row[1]) if row[3]}
    assert len(told) >= 10
    for where, how in told:
        path = ROOT / where
        wanted = {"all"} if how.startswith("all") else {"all", "some"}
        for file in [path] if path.is_file() else path.glob("test_*.py"):
            assert tortured(file) in wanted, f"{file.name}: docs/reliability.md says that make torture runs: {how}"


def test_every_key_of_a_job_is_documented() -> None:
    rows = table_rows(section(document("docs/job-yaml.md"), "Keys"))
    assert {code(row[0])[0] for row in rows} == set(spec_fields.READERS)


def test_ends_and_measurements_are_documented() -> None:
    text = document("docs/job-yaml.md")
    assert {code(row[0])[0] for row in table_rows(section(text, "How a job ends"))} == set(ENDED)
    part = section(text, "Measurements")
    read, added_up = (table_rows(table) for table in part.split("Of every attempt that used cards"))
    measures = {code(row[0])[0]: set(code(row[1])) for row in read}
    assert set(PARSERS) < set(measures)
    named = set().union(*(measures[name] for name in PARSERS), *(code(row[0]) for row in added_up))
    assert named == RESERVED_NAMES | {ITEMS}


def job_examples() -> list[tuple[str, str]]:
    """Every YAML block of the documents that is a job."""
    blocks = [(name, block) for name in DOCUMENTS for block in fenced(document(name), "yaml")]
    starts = ("command:", "engine:")
    return [(name, block) for name, block in blocks if any(key in block.split("notify:")[0] for key in starts)]


@pytest.mark.parametrize(("name", "text"), job_examples())
def test_every_example_of_a_job_is_accepted(name: str, text: str) -> None:
    parsed = parse_submission([Document(name, text)], Context(cwd="/home/me", now=1.7e9))
    assert parsed


def test_lines_of_a_batch_are_as_documented() -> None:
    """Both examples of a request can be sent; the example of an answer has the keys that answers have."""
    lines, [answer] = (block.splitlines() for block in fenced(document("docs/job-yaml.md"), "json"))
    found = [*batch_input.requests(io.BytesIO("\n".join(lines).encode()))]
    assert [(type(each), each.custom_id) for each in found] == [(Request, "page-1"), (Request, "2")]
    assert [*json.loads(answer)] == [*json.loads(line_of("x", custom_id="a", line=1))]
    assert json.loads(answer)["id"].startswith("batch_req_")


def test_kinds_of_cache_are_as_documented() -> None:
    row = next(line for line in document("docs/job-yaml.md").splitlines() if line.startswith("| `kv_cache`"))
    assert set(re.findall("`([a-z0-9_]+)`", row.split("|")[3])) == set(CACHE_KINDS)


def test_there_are_examples() -> None:
    assert len(job_examples()) >= 4


def test_notify_example_is_accepted() -> None:
    text = next(block for block in fenced(document("docs/job-yaml.md"), "yaml") if block.startswith("notify:"))
    assert parse_submission([Document("x", f"command: [x]\n{text}")], Context(cwd="/", now=1.7e9))[0].spec.notify


def test_caps_are_as_documented() -> None:
    from p104d.api.spec_matrix import MAX_JOBS
    from p104d.api.yaml_nodes import MAX_DOCUMENT_BYTES, MAX_SUBMISSION_BYTES

    caps = f"{MAX_DOCUMENT_BYTES // 1024} KiB, a submission {MAX_SUBMISSION_BYTES // 2**20} MiB and {MAX_JOBS:,} jobs"
    assert caps in document("docs/job-yaml.md")


def config_defaults() -> dict[str, object]:
    """Every key of the configuration with its default, nested ones dotted."""
    flat: dict[str, object] = {}
    for key, value in msgspec.structs.asdict(Config()).items():
        if isinstance(value, msgspec.Struct):
            flat |= {f"{key}.{inner}": default for inner, default in msgspec.structs.asdict(value).items()}
        else:
            flat[key] = value
    return flat


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    rows = table_rows(document("docs/configuration.md").split("\n## ")[0])
    documented = {code(row[0])[0]: json.loads(code(row[1])[0]) if row[1] else None for row in rows}
    assert documented == config_defaults()


def test_example_configuration_lists_every_default() -> None:
    lines = document("systemd/config.toml").splitlines()
    uncommented = "\n".join(line.removeprefix("# ") for line in lines if re.match(r"# (\w+ = |\[)", line))
    assert msgspec.convert(tomllib.loads(uncommented), Config) == Config()
    # `card` has no default to show; its example, as those of `power`, is behind `#:`.
    assert {key.partition(".")[0] for key in config_defaults()} - {"card"} == set(tomllib.loads(uncommented))


def test_example_configuration_shows_what_cards_can_be_set_to() -> None:
    lines = document("systemd/config.toml").splitlines()
    shown = "\n".join(line.removeprefix("#: ") for line in lines if line.startswith("#: "))
    assert msgspec.convert(tomllib.loads("[power]\n" + shown), Config).card[0].match == "P104-100"


def test_example_configuration_is_accepted(tmp_path: Path) -> None:
    examples = fenced(document("docs/configuration.md"), "toml")
    for number, text in enumerate([document("systemd/config.toml"), *examples]):
        path = tmp_path / f"{number}.toml"
        path.write_text(text)
        load_config(path)


def test_figures_in_prose_are_the_configured_ones() -> None:
    settings = settle(Config())
    kept = format_size(settings.log_limit_bytes).replace(".0", "")
    assert f"the last {kept} are kept (`log_limit`)" in document("docs/job-yaml.md")
    assert f"SIGTERM, {settings.stop_grace_seconds:.0f} s later SIGKILL" in document("docs/job-yaml.md")


def documented_verbs() -> dict[str, str]:
    """Each verb with its whole row in docs/p104ctl.md."""
    found: dict[str, str] = {}
    text = document("docs/p104ctl.md")
    for heading in ("Jobs", "The rig", "Care"):
        for row in table_rows(section(text, heading)):
            for command in code(row[0]):
                found[command.split()[0]] = " ".join(row)
    return found


def test_every_verb_is_documented_and_no_other() -> None:
    assert set(documented_verbs()) == set(VERBS)


@pytest.mark.parametrize("verb", describe_verbs(), ids=lambda verb: verb.name)
def test_every_option_of_a_verb_is_documented(verb: VerbText) -> None:
    row = documented_verbs()[verb.name]
    # --json and --help are explained once for all.
    missing = [
        name
        for option in verb.options
        for name in option.names
        if name not in ("--json", "--help", "-h") and f"`{name}" not in row
    ]
    assert not missing, f"docs/p104ctl.md: {verb.name} lacks {missing}"


def test_verbs_used_in_documents_exist() -> None:
    called = r"p104ctl (?:--?\w+ \S+ )?([a-z]+)\b"
    used = set()
    for name in DOCUMENTS:
        text = document(name)
        spans = [span for span in code(text) if re.match(called, span)]
        lines = re.findall(rf"^(?:\$ )?{called}", text, re.MULTILINE)
        used |= {(name, re.match(called, span)[1]) for span in spans} | {(name, verb) for verb in lines}  # type: ignore[index]
    assert used
    assert not [(name, verb) for name, verb in used if verb not in VERBS]


def test_json_is_where_the_document_says_so() -> None:
    without = {verb.name for verb in describe_verbs() if not any("--json" in option.names for option in verb.options)}
    sentence = re.search(r"Every command but (.*) has `--json`", document("docs/p104ctl.md"))
    assert sentence
    assert set(code(sentence[1])) == without


def test_exit_codes_are_documented() -> None:
    codes = {int(row[0]) for row in table_rows(section(document("docs/p104ctl.md"), "Exit codes"))}
    assert codes == {0, *BY_EXIT_CODE, NOT_WRITTEN, 130, 141}


def test_rig_file_keys_are_documented() -> None:
    text = document("docs/simulated-rig.md")
    keys = {name for row in table_rows(text) for name in code(row[0])}
    structs = (rigfile._Card, rigfile._Fault, rigfile._Process)
    known = {field.encode_name for struct in structs for field in msgspec.structs.fields(struct)}
    assert keys == known | set(FAULT_KINDS)


def test_rig_example_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text(fenced(document("docs/simulated-rig.md"), "toml")[0])
    assert len(rigfile.load(str(path)).cards) == 3


def test_every_table_and_column_is_documented() -> None:
    text = document("docs/database.md")
    documented: dict[str, set[str]] = {}
    for part in text.split("\n## ")[1:]:
        title, rows = part.splitlines()[0], table_rows(part)
        if title.startswith("`"):
            documented[code(title)[0]] = {name for row in rows for name in code(row[0])}
        else:
            documented |= {code(row[0])[0]: set(code(row[1])) for row in rows}
    assert documented == {table.name: {column.name for column in table.columns} for table in metadata.tables.values()}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document(name)):
        if not target.startswith("https://"):
            assert ((ROOT / name).parent / target).exists(), f"{name}: {target}"


def test_readme_leads_to_every_document() -> None:
    text = document("README.md")
    assert [name for name in DOCUMENTS if name.startswith("docs/") and f"({name})" not in text] == []
