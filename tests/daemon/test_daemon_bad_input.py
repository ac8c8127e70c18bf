"""Bad input costs one line that names file, line, field and mend, and stores nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest
from daemon_rig import Rig

BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))

#: What is wrong -> (text, exit code, what the line must name).
CASES: dict[str, tuple[str | bytes, int, tuple[str, ...]]] = {
    "unknown key": ("command: 'true'\nvrram: 2GiB\n", 4, (":2:", "vrram", "vram")),
    "wrong type": ("command: 'true'\ncards: two\n", 4, (":2:", "cards", "two", "whole number")),
    "wrong boolean": ("command: 'true'\nidempotent: yes\n", 4, (":2:", "idempotent", "true")),
    "a size without a unit": ("command: 'true'\n\nvram: 7500\n", 4, (":3:", "vram", "MiB")),
    "impossible size": ("command: 'true'\nvram: 80GiB\n", 4, (":2:", "vram", "80")),
    "negative size": ("command: 'true'\nvram: -1GiB\n", 4, (":2:", "vram")),
    "more memory than the host has": ("command: 'true'\nram: 900TiB\n", 4, (":2:", "ram")),
    "more cards than exist": ("command: 'true'\ncards: 5\n", 4, (":2:", "cards", "5", "p104ctl cards")),
    "no such card": ("command: 'true'\nonly: [GPU-ffffffff]\n", 4, (":2:", "only", "GPU-ffffffff", "p104ctl cards")),
    "a dependency on itself": ("name: a\ncommand: 'true'\nafter: [a]\n", 4, (":3:", "after", "itself")),
    "a circle": (
        "name: a\ncommand: 'true'\nafter: [b]\n---\nname: b\ncommand: 'true'\nafter: [a]\n",
        4,
        ("after", "circle"),
    ),
    "no such name": ("command: 'true'\nafter: [nobody]\n", 4, (":2:", "after", "nobody")),
    "no such job": ("command: 'true'\nafter: [999999999]\n", 4, (":2:", "after", "999999999")),
    "alias bomb": (BOMB + "command: *i\n", 4, (":1:", "anchor")),
    "an alias": ("env: {A: x}\ncommand: *nothing\n", 4, (":2:", "alias")),
    "a tag": ("command: !!python/object/apply:os.system [id]\n", 4, (":1:", "tag")),
    "a key twice": ("command: 'true'\ncards: 1\ncards: 2\n", 4, (":3:", "cards", "twice")),
    "1 MiB of spec": (
        "command: 'true'\nlabels:\n" + "".join(f"  k{n}: {'x' * 240}\n" for n in range(4300)),
        2,
        ("256 KiB",),
    ),
    "17 MiB": (b"command: '" + b"x" * 17 * 2**20 + b"'\n", 2, ("16 MiB",)),
    "too deep": ("command: " + "[" * 100 + "]" * 100 + "\n", 2, (":1:",)),
    "not UTF-8": (b"name: a\ncommand: 'caf\xe9'\n", 2, (":2:", "UTF-8")),
    "not YAML": ("command: [a, b\n", 2, (":",)),
    "no command": ("name: nothing\n", 4, (":1:", "command")),
    "an empty file": ("", 4, ("no job",)),
    "a list": ("- command\n", 4, (":1:", "mapping")),
    "a bad time": ("command: 'true'\nnot_before: tomorrow\n", 4, (":2:", "not_before", "tomorrow")),
    "a bad duration": ("command: 'true'\ntime_limit: 2 hours\n", 4, (":2:", "time_limit", "2h")),
    "a bad cron": ("command: 'true'\nschedule: '61 * * * *'\n", 4, (":2:", "schedule", "61")),
    "a bad zone": (
        "command: 'true'\nschedule: '0 3 * * *'\ntimezone: Mars/Base\n",
        4,
        (":3:", "timezone", "Mars/Base"),
    ),
    "a priority out of range": ("command: 'true'\npriority: 1001\n", 4, (":2:", "priority", "1000")),
    "an empty matrix": ("command: 'true'\nmatrix: {}\n", 4, (":2:", "matrix")),
    "a matrix too large": (
        f"command: 'true'\nmatrix: {{a: {[*range(400)]}, b: {[*range(400)]}}}\n",
        4,
        (":2:", "matrix", "100000"),
    ),
    "no such matrix key": ("command: echo ${matrix.sed}\nmatrix: {seed: [1]}\n", 4, (":1:", "command", "sed", "seed")),
    "cards 0 with vram": ("command: 'true'\ncards: 0\nvram: 1GiB\n", 4, (":3:", "vram", "cards: 0")),
    "a refused variable": ("command: 'true'\nenv:\n  P104_CARDS: x\n", 4, (":3:", "P104_CARDS")),
    "a NUL": ('command: ["a\\0b"]\n', 4, (":1:", "command", "NUL")),
    "a bad webhook": (
        "command: 'true'\nnotify: {on: [failed], webhook: 'file:///etc/passwd'}\n",
        4,
        (":2:", "webhook"),
    ),
    "a bad notify state": ("command: 'true'\nnotify: {on: [done], command: x}\n", 4, (":2:", "on", "done")),
    "an engine and a command": ("command: x\nengine: llama.cpp\n", 4, (":2:", "engine", "command")),
    "an engine without its files": ("engine: llama.cpp\nmodel: x.gguf\n", 4, (":1:", "input", "prompts.jsonl")),
    "another engine": ("engine: vllm\nmodel: x.gguf\n", 4, (":1:", "vllm", "llama.cpp")),
    "a matrix that writes one file": (
        "engine: llama.cpp\nmodel: '${matrix.m}'\ninput: i\noutput: o\nmatrix: {m: [a, b]}\n",
        4,
        (":4:", "output", "${matrix.m}"),
    ),
    "a hopeless pattern": (
        "command: 'true'\nmeasure: [{name: a, unit: b, pattern: '(?P<value>x'}]\n",
        4,
        (":2:", "measure", "pattern"),
    ),
}


def stored(rig: Rig) -> tuple[object, ...]:
    return rig.status()["queue"], rig.json("schedules"), rig.json("list", "--limit", 1)


@pytest.mark.parametrize("what", CASES)
def test_one_line_and_nothing_stored(rig: Rig, what: str) -> None:
    text, code, words = CASES[what]
    (rig.work / "job.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = stored(rig)
    line = rig.refused("submit", "job.yaml", code=code)
    assert line.startswith("p104ctl: job.yaml"), line
    assert len(line) < 500, line
    for word in words:
        assert word in line, line
    # What is wrong, and the mend behind it.
    assert len(line.split("; ")) >= 2, line
    assert stored(rig) == before


def test_a_good_document_does_not_survive_a_bad_one(rig: Rig) -> None:
    before = stored(rig)
    line = rig.refused("submit", "-", stdin="command: 'true'\n---\ncommand: 'true'\ncards: 77\n", code=4)
    assert line.startswith("p104ctl: stdin:4: cards: 77"), line
    assert stored(rig) == before


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["submit", "not-there.yaml"], 2),
        (["submit", "."], 2),
        (["submit"], 2),
        (["submit", "--set", "cards", "-"], 2),
        (["submit", "--set", "cards=x", "-"], 4),
        (["submit", "--set", "crads=1", "-"], 4),
        (["run"], 2),
        (["run", "--cards", "x", "--", "true"], 2),
        (["run", "--time-limit", "soon", "--", "true"], 4),
        (["cancle", "1"], 2),
        (["show", "abc"], 2),
        (["show", "-1"], 2),
        (["priority", "1", "5000"], 2),
        (["list", "--limit", "0"], 2),
        (["logs", "--tail", "-1", "1"], 2),
        (["wait", "--timeout", "soon", "1"], 2),
        (["drain", "99"], 5),
        (["schedules", "hold", "99999"], 5),
        (["schema", "nothing"], 5),
    ],
)
def test_bad_calls_are_one_line_too(rig: Rig, arguments: list[str], code: int) -> None:
    before = stored(rig)
    rig.refused(*arguments, stdin="command: 'true'\n", code=code)
    assert stored(rig) == before


def test_what_never_came_from_p104ctl(rig: Rig) -> None:
    """The socket takes JSON from anybody who may open it; nothing of that is a traceback."""
    client = rig.client
    for path, body in (
        ("/v1/submit", {"documents": "x", "cwd": "/"}),
        ("/v1/submit", {"documents": [], "cwd": "/"}),
        ("/v1/submit", {"documents": [{"file": "a", "text": "command: 'true'"}], "cwd": "relative"}),
        ("/v1/submit", {"documents": [], "cwd": "/", "extra": 1}),
        ("/v1/jobs/show", {"ids": []}),
        ("/v1/jobs/show", {"ids": ["x"]}),
        ("/v1/jobs/show", {"ids": [2**70]}),
        ("/v1/jobs/priority", {"ids": [1]}),
        ("/v1/jobs/wait", {"ids": [2**63]}),
        ("/v1/cards/drain", {"cards": []}),
        ("/v1/nothing", {}),
    ):
        with pytest.raises(Exception) as caught:
            client.post(path, body)
        assert getattr(caught.value, "exit_code", None) in (2, 4, 5), (path, body, caught.value)
    for path in ("/v1/jobs?limit=x", "/v1/jobs?state=x", "/v1/jobs?what=1", "/v1/jobs/x/log", "/v1/jobs/0/log"):
        with pytest.raises(Exception) as caught:
            client.get(path)
        assert getattr(caught.value, "exit_code", None) in (2, 5), (path, caught.value)
    assert "Traceback" not in rig.log.read_text()


def test_another_wire_version_is_refused_clearly(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("p104d.api.client.WIRE_VERSION", 99)
        refused = rig.ctl("status")
    assert refused.code != 0 and refused.err.count("\n") == 1 and "release" in refused.err


def test_a_full_queue_refuses_and_keeps_what_it_has(start: Callable[..., Rig]) -> None:
    rig = start(1, config="queue_limit = 5\nlauncher = 'zygote'\n")
    rig.json("pause")
    jobs = rig.submit({"name": "m", "matrix": {"n": [1, 2, 3, 4]}, "command": "true"})
    assert "full" in rig.refused("submit", "-", stdin="command: 'true'\nmatrix: {n: [1, 2]}\n", code=4)
    assert rig.status()["queue"]["queued"] == 4
    rig.json("resume")
    rig.wait(*jobs)
    # What was refused left no document behind either.
    copy = rig.work / "copy.db"
    assert rig.ctl("export", "copy.db").code == 0
    database = sqlite3.connect(copy)
    assert database.execute("SELECT count(*) FROM documents").fetchone() == (1,)
    database.close()
