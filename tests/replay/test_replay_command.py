"""``python -m p104d.replay``: what it prints, what it refuses, and that it is the same each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from replay_traces import job, trace

from p104d.replay.__main__ import main
from p104d.replay.generate import Recipe, make
from p104d.replay.grid import main as grid
from p104d.replay.trace import decode

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {
    "cards": 2,
    "models": {"a": {"cards": 1, "load_seconds": 10.5}},
    "jobs": [{"id": "x", "model": "a", "arrival_seconds": 0, "run_seconds": 4}],
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(PLAIN))
    return path


def test_json_has_the_documented_keys(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--policy", "lru", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "policy": "lru",
        "makespan_seconds": 14.5,
        "lower_bound_seconds": 14.5,
        "mean_flow_seconds": 14.5,
        "p95_flow_seconds": 14.5,
        "max_flow_seconds": 14.5,
        "loads": 1,
    }


def test_json_alone_is_ours_and_several_are_a_line_each(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == "p104d"
    assert main([str(file), "--json", "--policy", "fifo", "--policy", "collate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(each)["policy"] for each in lines] == ["fifo", "collate"]


def test_the_table_compares_all(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 jobs, 1 models, 2 cards; no policy ends before 14 s"
    assert " ".join(lines[2].split()) == "policy makespan s of bound mean flow s p95 flow s max flow s loads"
    assert [each.split()[0] for each in lines[3:]] == ["p104d", "fifo", "lru", "collate"]
    assert lines[3].split()[1:3] == ["14", "1.00x"]


def test_a_trace_without_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps({**PLAIN, "jobs": []}))
    assert main([str(path)]) == 0
    assert " - " in capsys.readouterr().out
    assert main([str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["makespan_seconds"] == 0


def changed(**changes: object) -> dict[str, object]:
    return {**PLAIN, **changes}


def one(**changes: object) -> dict[str, object]:
    return changed(jobs=[{**PLAIN["jobs"][0], **changes}])


@pytest.mark.parametrize(
    ("written", "code", "said"),
    [
        ("{", 2, "Input data was truncated"),
        (b"\xff\xfe", 2, ""),
        ("[]", 2, "Expected `object`, got `array`"),
        ({"cards": 2}, 2, "missing required field `models`"),
        (changed(cards=0), 4, "cards: 0; a rig has 1 to 1024 cards"),
        (changed(cards="2"), 2, "Expected `int`, got `str` - at `$.cards`"),
        (one(model="b"), 4, "jobs[0].model: no model 'b'; add it to models (known: a)"),
        (one(run_seconds=-1), 4, "jobs[0].run_seconds: -1.0; seconds, from 0 to 1000000000"),
        (one(arrival_seconds=1e300), 4, "jobs[0].arrival_seconds: 1e+300"),
        (one(cards=2), 4, "jobs[0].cards: 2, the model has 1; leave it out"),
        (one(model=None, cards=3), 4, "jobs[0].cards: 3, the rig has 2; at most 2, or a rig with more cards"),
        (one(id=None), 2, "Expected `int | str`, got `null` - at `$.jobs[0].id`"),
        (changed(jobs=PLAIN["jobs"] * 2), 4, "jobs[1].id: 'x' is there twice; give each job an id of its own"),
        (changed(models={"a": {"cards": 3, "load_seconds": 1}}), 4, "models.a.cards: 3, the rig has 2"),
        (changed(models={"a": {"cards": 0, "load_seconds": 1}}), 4, "models.a.cards: 0; it takes at least 1 card"),
        (changed(models={"a": {"cards": 1, "load_seconds": -2}}), 4, "models.a.load_seconds: -2"),
    ],
)
def test_what_is_refused(
    written: object, code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.json"
    data = (
        written
        if isinstance(written, bytes)
        else (written if isinstance(written, str) else json.dumps(written)).encode()
    )
    path.write_bytes(data)
    assert main([str(path)]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"p104d.replay: {path}: ")
    assert said in err


@pytest.mark.parametrize("arguments", [[], ["--policy", "best", "x"], ["no-such-file"], ["/"], ["x", "--frob"]])
def test_usage_is_one_line_and_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "; " in err


def test_fields_of_somebodys_own_are_ignored() -> None:
    made = decode(json.dumps({**one(note="x", cards=1), "seed": 7}).encode(), "t")
    assert made == trace(2, {"a": (1, 10.5)}, msgspec.structs.replace(job(0, "a", 4.0), id="x", cards=1))


def test_the_same_output_whatever_the_hash_seed(tmp_path: Path) -> None:
    made = msgspec.json.encode(make(Recipe(jobs=150, load=0.8, gangs=3), 11))
    found = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-m",
                "p104d.replay",
                "-",
                "--policy",
                "p104d",
                "--policy",
                "lru",
                "--json",
            ],
            input=made,
            env=environment,
            capture_output=True,
            check=True,
            cwd=tmp_path,
        )
        assert done.stderr == b""
        found.add(done.stdout)
    assert len(found) == 1


def test_the_page_of_figures_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """The real one takes minutes; this one only shows that every table of it is filled."""
    assert grid(["--seeds", "1", "--jobs", "4"]) == 0
    text = capsys.readouterr().out
    kept = (ROOT / "docs" / "placement-figures.md").read_text()
    assert [each for each in text.splitlines() if each.startswith("#")] == [
        each for each in kept.splitlines() if each.startswith("#")
    ]
    assert text.count("\n|") == kept.count("\n|")
