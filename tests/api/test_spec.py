from __future__ import annotations

import pytest
from spec_help import NOW, one, parse, refusal

from p104d.api.spec import COMMAND_LINE, Document, expand, parse_submission
from p104d.core.errors import P104Error
from p104d.core.job import JobSpec, Notify, Schedule, UserPattern

FULL = """\
name: posters
command: [python3, txt2img.py, --steps, "30", 1.50, '${matrix.seed}', '${HOME}']
cards: 2
vram: 7500MiB
ram: 2GiB
only: [GPU-a, "0", P104-100]
priority: -5
after: [12]
retries: 2
idempotent: true
time_limit: 2h
not_before: 2027-12-01T03:00:00+01:00
env: {STEPS: "30", on: yes, D: 1_000, E: 0x10, T: true, EMPTY: ""}
cwd: sub/./folder
matrix: {seed: [1, 02], size: [512x512]}
labels: {project: posters, n: 7}
measure: [tqdm, {name: score, unit: points, pattern: 'score=(?P<value>[0-9.]+)'}]
gpu_required: true
notify: {on: [failed, lost], command: notify-send p104d, webhook: 'https://host:8080/hook'}
"""


def test_every_key_in_base_units() -> None:
    document = one(FULL)
    assert document.spec == JobSpec(
        name="posters",
        command=("python3", "txt2img.py", "--steps", "30", "1.50", "${matrix.seed}", "${HOME}"),
        cwd="/home/me/sub/folder",
        cards=2,
        vram_bytes=7500 * 2**20,
        ram_bytes=2 * 2**30,
        only=("GPU-aaaa", "P104-100"),
        priority=-5,
        after=(12,),
        retries=2,
        idempotent=True,
        time_limit_seconds=7200.0,
        not_before=1827626400.0,
        env={"STEPS": "30", "on": "yes", "D": "1_000", "E": "0x10", "T": "true", "EMPTY": ""},
        matrix={"seed": ("1", "02"), "size": ("512x512",)},
        labels={"project": "posters", "n": "7"},
        measure=("tqdm", UserPattern(name="score", unit="points", pattern="score=(?P<value>[0-9.]+)")),
        gpu_required=True,
        notify=Notify(
            on=("failed", "lost"), command=("/bin/sh", "-c", "notify-send p104d"), webhook="https://host:8080/hook"
        ),
    )
    assert document.jobs == [{"seed": "1", "size": "512x512"}, {"seed": "02", "size": "512x512"}]
    assert (document.file, document.line, document.where) == ("job.yaml", 1, "job.yaml:1")


def test_defaults() -> None:
    document = one("command: echo hello")
    assert document.spec == JobSpec(name="job", command=("/bin/sh", "-c", "echo hello"), cwd="/home/me")
    assert document.jobs == [{}]


def test_schedule_keeps_its_zone() -> None:
    spec = one('command: x\nschedule: "0  3 * * *"\ntimezone: Europe/Berlin').spec
    assert spec.schedule == Schedule(cron="0 3 * * *", timezone="Europe/Berlin")
    assert one('command: x\nschedule: "@daily"').spec.schedule == Schedule(cron="@daily", timezone=None)


def test_a_time_without_offset_is_in_the_contexts_zone() -> None:
    text = "command: x\nnot_before: 2027-07-01 03:00"
    utc = one(text, timezone="UTC").spec.not_before
    berlin = one(text, timezone="Europe/Berlin").spec.not_before
    assert utc is not None and berlin is not None
    assert utc - berlin == 7200.0


# What is written, where the error must be, and words that must be in it.
REFUSED = [
    ("cards: two\ncommand: x", 'job.yaml:1: cards: "two" is not a whole number; write cards: 2'),
    ('command: x\ncards: "2"', 'job.yaml:2: cards: "2" is not a whole number; write cards: 2'),
    ("command: x\ncards: 1.5", "job.yaml:2: cards: 1.5 is not a whole number"),
    ("command: x\ncards: true", "job.yaml:2: cards: true is not a whole number"),
    ("command: x\ncards: 65", "job.yaml:2: cards: 65 is out of range; write a whole number from 0 to 64"),
    ("command: x\ncards: -1", "job.yaml:2: cards: -1 is out of range"),
    (f"command: x\ncards: {'9' * 4000}", "is out of range"),
    ("command: x\ncards:", "job.yaml:2: cards: no value; write cards: 2, or leave the key out"),
    ("command: x\ncards: [1]", "job.yaml:2: cards: a list is not a whole number"),
    ("command: x\ncrads: 2", "job.yaml:2: crads: unknown key; did you mean cards"),
    ("command: x\nqqqqq: 2", "job.yaml:2: qqqqq: unknown key; p104ctl schema job lists the keys"),
    ("command: x\n? [a]\n: 1", "job.yaml:2: a list or mapping as a key"),
    ("command: x\n~: 1", "job.yaml:2: a key without a name"),
    ("command: x\ncommand: y", "job.yaml:2: command: written twice (first on line 1)"),
    ("command: x\nenv: {A: 1,\n A: 2}", "job.yaml:3: A: written twice"),
    ("cards: 1", "job.yaml:1: command: missing; write command: [python3, script.py]"),
    ("command: []", "job.yaml:1: command: an empty command"),
    ("command: ''", "job.yaml:1: command: an empty command"),
    ('command: ["", a]', "job.yaml:1: command: an empty command"),
    ("command: {a: b}", "job.yaml:1: command: a mapping is not a command"),
    ("command:\n- echo\n- true", 'job.yaml:3: command[1]: true is a boolean, not an argument; quote it: "true"'),
    ("command: [a, ~]", "job.yaml:1: command[1]: no value"),
    ("command: [a, [b]]", "job.yaml:1: command[1]: a list is not an argument"),
    ('command: [a, "b\\0c"]', "job.yaml:1: command[1]: a NUL character"),
    ("command: x\nvram: 7500", "job.yaml:2: vram: 7500 is not a size; write vram: 7500MiB"),
    ("command: x\nvram: 0MiB", 'job.yaml:2: vram: "0MiB" is out of range; sizes go from'),
    ("command: x\nvram: 9000000TiB", "is out of range"),
    (f"command: x\nvram: {'9' * 400}MiB", "is not a size"),
    ("command: x\nvram: 1\u212aB", "is not a size"),
    ("command: x\nram: lots", 'job.yaml:2: ram: "lots" is not a size; write ram: 2GiB'),
    ("command: x\ntime_limit: 90", "job.yaml:2: time_limit: 90 is not a duration; write time_limit: 2h"),
    ("command: x\ntime_limit: 0s", "is out of range"),
    ("command: x\nonly: [0, 7]", "job.yaml:2: only[1]: no card 7; p104ctl cards lists them"),
    ("command: x\nonly: []", "job.yaml:2: only: an empty list allows no card"),
    ("command: x\nonly: {a: b}", "job.yaml:2: only: a mapping is not a list"),
    ("command: x\npriority: 1001", "job.yaml:2: priority: 1001 is out of range"),
    ("command: x\nretries: 101", "job.yaml:2: retries: 101 is out of range"),
    ("command: x\nidempotent: yes", 'job.yaml:2: idempotent: "yes" is not true or false; write idempotent: true'),
    ("command: x\ngpu_required: 1", "job.yaml:2: gpu_required: 1 is not true or false"),
    ("command: x\nafter: [0]", "job.yaml:2: after[0]: 0 is out of range"),
    ("command: x\nafter: nobody", 'job.yaml:2: after: no job named "nobody" in this submission'),
    ("command: x\nafter: '12'", "an id is written without quotes"),
    ("command: x\nname: me\nafter: me", 'job.yaml:3: after: "me" is this job itself'),
    ("command: x\nnot_before: tomorrow", 'job.yaml:2: not_before: "tomorrow" is not an ISO 8601 time'),
    ("command: x\nnot_before: 9999-12-31T23:59:59", 'job.yaml:2: not_before: "9999-12-31T23:59:59" is out of range'),
    ("command: x\nnot_before: 0001-01-01T00:00:00", "not_before"),
    ('command: x\nschedule: "0 3 * *"', 'job.yaml:2: schedule: "0 3 * *": 4 fields instead of 5'),
    ('command: x\nschedule: "61 3 * * *"', '"61" is not a minute; write a number from 0 to 59'),
    ('command: x\nschedule: "0 0 31 2,4 *"', "such a day never comes"),
    ('command: x\nschedule: "0 3 * * *"\ntimezone: Mars/Base', 'job.yaml:3: timezone: "Mars/Base" is not a time zone'),
    ('command: x\nschedule: "0 3 * * *"\ntimezone: ../../etc/passwd', "is not a time zone"),
    ('command: x\nschedule: "0 3 * * *"\ntimezone: America', "is not a time zone"),
    ("command: x\ntimezone: UTC", "job.yaml:2: timezone: belongs to schedule"),
    ('command: x\nschedule: "0 3 * * *"\nafter: [3]', "job.yaml:3: after: does not go with schedule"),
    ('command: x\nschedule: "0 3 * * *"\nnot_before: 2027-12-01', "job.yaml:3: not_before: does not go with schedule"),
    ("command: x\nenv: [A]", "job.yaml:2: env: a list is not a mapping"),
    ("command: x\nenv: {A: }", 'job.yaml:2: env.A: no value; write text or a number, "" for empty'),
    ("command: x\nenv: {A: [1]}", "job.yaml:2: env.A: a list is not text"),
    ("command: x\nenv:\n  OK: 1\n  P104_JOB_ID: 1", "job.yaml:4: env.P104_JOB_ID: set by p104d itself"),
    ("command: x\nenv: {CUDA_VISIBLE_DEVICES: 0}", "env.CUDA_VISIBLE_DEVICES: set by p104d itself"),
    ("command: x\nenv: {CUDA_DEVICE_ORDER: 0}", "env.CUDA_DEVICE_ORDER: set by p104d itself"),
    ('command: x\nenv: {"A=B": 0}', "not a name for a variable"),
    ('command: x\nenv: {"A\\0": 0}', "not a name for a variable"),
    ('command: x\nenv: {"": 0}', "not a name for a variable"),
    ('command: x\nenv: {A: "a\\0b"}', "env.A: a NUL character"),
    ("command: x\ncwd: ~/work", 'job.yaml:2: cwd: "~/work": ~ is not expanded'),
    ("command: x\ncwd: ''", "job.yaml:2: cwd"),
    ("command: x\nmatrix: {}", "job.yaml:2: matrix: an empty matrix"),
    ("command: x\nmatrix: {seed: []}", "job.yaml:2: matrix.seed: an empty list makes no job"),
    ("command: x\nmatrix: {seed: 1}", "job.yaml:2: matrix.seed: 1 is not a list; write matrix.seed: [1, 2, 3]"),
    ("command: x\nmatrix: {seed: [[1]]}", "matrix.seed[0]: a list is not text or a number"),
    ("command: x\nmatrix: {'a.b': [1]}", "matrix.a.b: not a matrix key"),
    ("command: x\nmatrix: [1]", "matrix: a list is not a mapping"),
    ("command: [x, '${matrix.sed}']\nmatrix: {seed: [1]}", "${matrix.sed} is not in the matrix; did you mean seed"),
    (
        "command: x ${matrix.seed}",
        "job.yaml:1: command: ${matrix.seed} is not in the matrix; write matrix: {seed: [...]}",
    ),
    ("command: x\nenv: {A: '${matrix.}'}", "job.yaml:2: env: ${matrix.} is not in the matrix"),
    ("command: x\nlabels: {a: [1]}", "labels.a: a list is not text"),
    ("command: x\nlabels: {a=b: 1}", 'labels.a=b: the key has a "=" in it'),
    ("command: x\nname: a/b", 'job.yaml:2: name: "a/b" has a "/" in it'),
    ('command: x\nname: "a\\nb"', "job.yaml:2: name"),
    ("command: x\nname: ''", "is empty"),
    ("command: x\nname: ' a'", "begins or ends with a space"),
    (f"command: x\nname: {'a' * 129}", "is longer than 128 characters"),
    ("command: x\nmeasure: tqdm", 'job.yaml:2: measure: "tqdm" is not a list; write measure: [tqdm]'),
    ("command: x\nmeasure: [tdqm]", 'measure[0]: "tdqm" is not a measure; did you mean tqdm'),
    ("command: x\nmeasure: [tqdm, tqdm]", 'measure[1]: "tqdm" is there twice'),
    ("command: x\nmeasure: [{name: a, unit: b}]", "measure[0]: pattern is missing"),
    ("command: x\nmeasure: [{name: a, unit: b, pattern: 'x'}]", "measure[0].pattern: no group named value"),
    ("command: x\nmeasure: [{name: a, unit: b, pattern: '('}]", "measure[0].pattern: not a regular expression"),
    ("command: x\nmeasure: [{name: a, unit: b, pattern: '(?P<value>(a+)+)$'}]", "a repetition inside a repetition"),
    ("command: x\nmeasure: [{name: iterations, unit: b, pattern: '(?P<value>a)'}]", "p104d's own measurements"),
    ("command: x\nmeasure: [{name: A b, unit: b, pattern: '(?P<value>a)'}]", "is not a measurement's name"),
    ("command: x\nmeasure: [{nmae: a}]", "measure[0].nmae: unknown key; did you mean name"),
    ("command: x\nnotify: {command: a}", "notify: on is missing"),
    ("command: x\nnotify: {on: [failed]}", "notify: neither command nor webhook"),
    (
        "command: x\nnotify: {on: [fialed], command: a}",
        'notify.on[0]: "fialed" is not how a job ends; did you mean failed',
    ),
    ("command: x\nnotify: {on: [], command: a}", "notify.on: an empty list tells nobody"),
    ("command: x\nnotify: {on: [failed], webhook: 'ftp://x'}", 'notify.webhook: "ftp://x" is not an http or https URL'),
    ("command: x\nnotify: {on: [failed], webhook: 'http://'}", "is not an http or https URL"),
    ("command: x\nnotify: {on: [failed], webhook: 'http://a b'}", "is not an http or https URL"),
    ("command: x\nnotify: {on: [failed], webhook: 'http://a:99999'}", "is not an http or https URL"),
    ("command: x\ncards: 0\nvram: 1GiB", "job.yaml:3: vram: a job with cards: 0 takes no card"),
    ("command: x\ncards: 0\nonly: 0", "job.yaml:3: only: a job with cards: 0 takes no card"),
    ("command: x\ncards: 0\ngpu_required: true", "job.yaml:3: gpu_required: a job with cards: 0 takes no card"),
    ("- command: x", "job.yaml:1: a job is a mapping of keys to values"),
    ("just text", "job.yaml:1: a job is a mapping of keys to values"),
    ("", "job.yaml:1: no job in this file"),
    ("# nothing\n---\n---\n", "job.yaml:1: no job in this file"),
    ("command: &a x", "job.yaml:1: an anchor (&a) is not taken"),
    ("command: *a", "job.yaml:1: an alias (*a) is not taken"),
    ("command: !!str x", "job.yaml:1: a tag (tag:yaml.org,2002:str) is not taken"),
    ("command: ! x", "job.yaml:1: a tag (!) is not taken"),
    ("%TAG ! tag:x,2000:\n---\ncommand: x", "a %TAG directive is not taken"),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=range(len(REFUSED)))
def test_refused_with_place_and_mend(text: str, expected: str) -> None:
    code, line = refusal(text)
    assert expected in line
    assert code == 4
    assert line.startswith("job.yaml:")


UNREADABLE = [
    ("command: [x", "job.yaml:2: not YAML"),
    ("command: x\n\tcards: 1", "not tabs"),
    ("a: b: c", "job.yaml:1: not YAML: mapping values are not allowed in this context"),
    (b"command: x\nname: \xff", "job.yaml:2: not UTF-8 text"),
    ("command: \ud800", "job.yaml: not UTF-8 text"),
    ("command: x\nname: \0", "job.yaml:2: a NUL character"),
    (b"command: x\nname: \x00", "job.yaml:2: a NUL character"),
    ("command: x\nname: \x1b[31m", "job.yaml:2: a control character"),
    ("command: x".encode("utf-16"), "not UTF-8 text"),
]


@pytest.mark.parametrize(("text", "expected"), UNREADABLE)
def test_what_is_no_yaml_is_a_usage_error(text: str | bytes, expected: str) -> None:
    code, line = refusal(text)
    assert expected in line
    assert code == 2


def test_the_later_document_of_a_file_is_found_by_its_line() -> None:
    assert refusal("command: x\n---\n# comment\ncommand: y\ncards: two")[1].startswith("job.yaml:5: cards:")


def test_standard_input_and_odd_file_names() -> None:
    assert refusal("x: 1", file="-")[1].startswith("stdin:1: x:")
    assert refusal("x: 1", file="a\n\x1b[31mb.yaml")[1].startswith("a\\n\\x1b[31mb.yaml:1: x:")
    assert refusal("cards: x\ncommand: y", file=COMMAND_LINE)[1].startswith("command line: cards:")


@pytest.mark.parametrize(
    ("file", "command", "name"),
    [
        ("posters.yaml", "x", "posters"),
        ("/tmp/a b/my.posters.yml", "x", "my.posters"),
        ("-", "x", "stdin"),
        (COMMAND_LINE, "[/usr/bin/python3, train.py]", "python3"),
        (COMMAND_LINE, "nvidia-smi -L | head", "nvidia-smi"),
        (COMMAND_LINE, '["/"]', "job"),
        (COMMAND_LINE, '["/bin/sh", "-c", " "]', "job"),
        ("\x01\n.yaml", "x", "_"),
        ("a" * 300 + ".yaml", "x", "a" * 128),
    ],
)
def test_default_names(file: str, command: str, name: str) -> None:
    assert one(f"command: {command}", file=file).spec.name == name


def test_yaml_is_1_2() -> None:
    env = one("command: x\nenv: {a: yes, b: off, c: 12:30, d: 0o17, e: 1_000, f: +1, g: .5, h: 1e3, i: 017}").spec.env
    assert env == {
        "a": "yes", "b": "off", "c": "12:30", "d": "0o17", "e": "1_000", "f": "+1", "g": ".5", "h": "1e3", "i": "017"
    }  # fmt: skip
    assert one("command: x\ncards: 0o17\npriority: 0x1F").spec.cards == 15
    assert one("command: x\ncards: 08").spec.cards == 8
    for text in ("1_0", "1:30", "0b1", "yes"):
        assert "is not a whole number" in refusal(f"command: x\ncards: {text}")[1]


def test_json_is_yaml() -> None:
    spec = one('{"command": ["a", "b"], "cards": 2, "idempotent": false, "env": {"A": "\\u00e9\\n"}}').spec
    assert spec.command == ("a", "b")
    assert spec.env == {"A": "é\n"}


def test_a_byte_order_mark_and_crlf_are_taken() -> None:
    assert one("\ufeffcommand: x\r\ncards: 2\r\n".encode()).spec.cards == 2


def test_set_reaches_every_document_and_makes_what_is_missing() -> None:
    text = "command: x\nname: a\ncards: 1\n---\ncommand: y\nname: b\nenv: {STEPS: 1, Q: 2}"
    documents = parse(text, set=("cards=2", "env.STEPS=40", "matrix={s: [1, 2]}", "matrix.t=[a]", "labels.x=y"))
    assert [document.spec.cards for document in documents] == [2, 2]
    assert [document.spec.env for document in documents] == [{"STEPS": "40"}, {"STEPS": "40", "Q": "2"}]
    assert [document.spec.matrix for document in documents] == [{"s": ("1", "2"), "t": ("a",)}] * 2
    assert [document.spec.labels for document in documents] == [{"x": "y"}] * 2


def test_a_later_set_does_not_reach_into_the_document_before() -> None:
    first, second = parse("command: x\n---\ncommand: y\nenv: {B: own}", set=("env={A: 1}", "env.B=2"))
    assert first.spec.env == second.spec.env == {"A": "1", "B": "2"}


SET_REFUSED = [
    ("cards=two", 4, '--set cards=two: cards: "two" is not a whole number; write cards: 2'),
    ("crads=2", 4, "--set crads=2: crads: unknown key; did you mean cards"),
    ("command.x=2", 4, "--set command.x=2: command is not a mapping; write --set command=..."),
    ("env.P104_X=1", 4, "--set env.P104_X=1: env.P104_X: set by p104d itself"),
    ("env={P104_X: 1}", 4, "--set env={P104_X: 1}: env.P104_X: set by p104d itself"),
    ("only=[0, 9]", 4, "--set only=[0, 9]: only[1]: no card 9"),
    ("cards=", 4, "--set cards=: cards: no value"),
    ("env=&a {}", 4, "--set env=&a {}: an anchor (&a) is not taken"),
    ("cards", 2, "--set cards: not key=value"),
    ("=2", 2, "--set =2: not key=value"),
    ("env..A=2", 2, "--set env..A=2: not key=value"),
    ("env=[", 2, "--set env=[: not YAML"),
    ("cards=1\n---\n2", 2, "more than one value"),
    ("x." * 40 + "y=1", 2, "too long"),
]


@pytest.mark.parametrize(("option", "code", "expected"), SET_REFUSED)
def test_set_errors_name_the_option(option: str, code: int, expected: str) -> None:
    got, line = refusal("command: x\ncards: 1", set=(option,))
    assert expected in line
    assert got == code


def test_kept_variables_lie_below_env() -> None:
    document = one("command: x\nenv: {A: own}", keep_env={"A": "theirs", "HF_TOKEN": "s${matrix.x}"})
    assert document.spec.env == {"A": "own", "HF_TOKEN": "s${matrix.x}"}
    assert document.kept == ("HF_TOKEN",)
    for name, value in (("CUDA_VISIBLE_DEVICES", "0"), ("A=B", ""), ("A", "\0"), ("A", "\ud800"), ("\ud800", "a")):
        code, line = refusal("command: x", keep_env={name: value})
        assert code == 4
        assert line.startswith("--keep-env ")


def test_after_by_name() -> None:
    first = "command: x\nname: a\nmatrix: {s: [1, 2]}"
    text = f"{first}\n---\ncommand: y\nname: b\nafter: [a, 7, a, 7]\n---\ncommand: z\nafter: b"
    assert [document.spec.after for document in parse(text)] == [(), ("a", 7), ("b",)]


AFTER_REFUSED = [
    ("command: x\nname: a\nafter: b\n---\ncommand: y\nname: b\nafter: a", "job.yaml:3: after: jobs wait for each"),
    ("command: x\nname: a\n---\ncommand: y\nname: a\n---\ncommand: z\nafter: a", "(job.yaml:1 and job.yaml:4)"),
    ("command: x\nname: posters\n---\ncommand: z\nafter: [poster]", 'no job named "poster" in'),
    ("command: x\nname: s\nschedule: '@daily'\n---\ncommand: z\nafter: s", '"s" is a schedule'),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), AFTER_REFUSED)
def test_after_that_cannot_be(text: str, expected: str) -> None:
    code, line = refusal(text)
    assert expected in line
    assert code == 4


def test_two_of_one_name_are_fine_when_nobody_waits_for_them() -> None:
    assert len(parse("command: x\n---\ncommand: y")) == 2


def test_a_long_chain_is_no_circle() -> None:
    text = "\n---\n".join(f"command: x\nname: j{i}\n" + (f"after: j{i - 1}" if i else "") for i in range(3000))
    assert len(parse(text)) == 3000


def test_files_of_one_submission_know_each_other() -> None:
    from spec_help import CONTEXT

    files = [Document("a.yaml", "command: x"), Document("b.yaml", "command: y\nafter: a")]
    assert [document.spec.name for document in parse_submission(files, CONTEXT)] == ["a", "b"]
    with pytest.raises(P104Error, match=r"b\.yaml:2"):
        parse_submission([files[1]], CONTEXT)
    with pytest.raises(P104Error, match="nothing to submit"):
        parse_submission([], CONTEXT)


def test_expansion_is_exact_and_happens_once() -> None:
    document = one(
        "command: [a, '${matrix.x}-${matrix.y}', '${matrix.x', '${HOME}', '$matrix.x', '$${matrix.x}']\n"
        "env: {Y: '<${matrix.y}>', Z: plain}\n"
        "matrix: {x: [1, '${matrix.y}'], y: [é]}"
    )
    assert document.jobs == [{"x": "1", "y": "é"}, {"x": "${matrix.y}", "y": "é"}]
    assert expand(document.spec, document.jobs[0]) == (
        ("a", "1-é", "${matrix.x", "${HOME}", "$matrix.x", "$1"),
        {"Y": "<é>", "Z": "plain"},
    )
    assert expand(document.spec, document.jobs[1])[0][1] == "${matrix.y}-é"


def test_the_last_key_of_a_matrix_varies_fastest() -> None:
    jobs = one("command: x\nmatrix: {b: [1, 2], a: [x, y]}").jobs
    assert [tuple(job.values()) for job in jobs] == [("1", "x"), ("1", "y"), ("2", "x"), ("2", "y")]
    assert list(jobs[0]) == ["b", "a"]


def test_a_time_in_the_past_is_taken() -> None:
    assert one("command: x\nnot_before: 2020-01-01T00:00:00Z").spec.not_before == 1577836800.0 < NOW
