"""The printed schema says what the parser says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from spec_help import parse
from test_spec import FULL
from test_spec import REFUSED as COMMANDS
from test_spec_engine import ENGINE, MATRIX
from test_spec_engine import FULL as FULL_ENGINE
from test_spec_engine import REFUSED as ENGINES

from p104d.api.spec import job_schema
from p104d.api.spec_fields import READERS
from p104d.core.errors import P104Error

REFUSED = [*COMMANDS, *ENGINES]
jsonschema = pytest.importorskip("jsonschema")

#: Refused by the parser for what is no matter of form: words inside text, other documents, the rig, the host's zones,
#: keys written twice, YAML itself.
BEYOND_A_SCHEMA = (
    "no card", "in this submission", "this job itself", "never comes", "not a minute", "fields instead", "ISO 8601",
    "out of range; sizes", "out of range; durations", "write a time within", "time zone known", "set by p104d",
    "for a variable",
    "NUL", "is not expanded", "is not in the matrix", " in it", "begins or ends", "is empty", "longer than",
    "written twice",
    "group named value", "regular expression", "inside a repetition", "own measurements", "there twice",
    "a key without",
    "is not a folder", "is not an http or https URL", "as a key", "is not taken", "no job in this file",
    "an empty command", "is the input", "is the model", "input: \"a\\nb\" is not a file",
)  # fmt: skip


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = job_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


class Loader(yaml.SafeLoader):
    """YAML 1.2, as far as these texts need it: yes and no are words, times are text."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", __import__("re").compile("true|false"), list("tf"))

ACCEPTED = [
    FULL,
    ENGINE,
    FULL_ENGINE,
    MATRIX,
    "{engine: llama.cpp, model: 7, input: a, output: b, context: 1, parallel: 256, kv_cache: iq4_nl}",
    "command: x",
    "command: [x, 1, 2.5]",
    "{command: x, only: 0, after: 3}",
    "{command: x, cards: 0, ram: 1.5 GB, gpu_required: false}",
    "{command: x, cards: 0, time_limit: 1.5h, measure: [], labels: {}, env: {}}",
    "{command: x, schedule: '0 3 * * *', timezone: UTC}",
    "{command: x, matrix: {a: [1, b, true]}, env: {A: true}}",
    "{command: x, notify: {on: failed, command: [a]}}",
    "{command: x, vram: 100b, measure: [llama.cpp]}",
    "{command: x, name: 12, cwd: /}",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_what_the_parser_takes_the_schema_takes(validator: Any, text: str) -> None:
    parse(text)
    validator.validate(yaml.load(text, Loader))


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=range(len(REFUSED)))
def test_what_the_parser_refuses_the_schema_refuses(validator: Any, text: str, expected: str) -> None:
    with pytest.raises(P104Error) as error:
        parse(text)
    if any(words in error.value.line() for words in BEYOND_A_SCHEMA):
        return
    assert not validator.is_valid(yaml.load(text, Loader)), error.value.line()


def test_the_schema_is_what_decides_for_most(validator: Any) -> None:
    """The list of exceptions has not swallowed the test."""
    decided = 0
    for text, _ in REFUSED:
        try:
            decided += not validator.is_valid(yaml.load(text, Loader))
        except yaml.YAMLError:
            continue
    assert decided >= 80


def test_keys_are_the_parsers() -> None:
    schema = job_schema()
    assert list(schema["properties"]) == list(READERS)
    assert all(entry["description"] for entry in schema["properties"].values())
