"""p104ctl models without a file: the copies on the cards, and what pin, unpin and unload ask and print."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_daemon import refusal, rig, status
from fake_models import NAME, PATH, at, copy, loaded_rig, pin, residents
from test_cli_docs import complete

from p104d.cli.verbs.schema import folder


@pytest.fixture
def rigged(daemon: Any) -> Any:
    """A daemon with three copies: idle and pinned, busy, loading."""
    loading = {"state": "loading", "ready_at": at(8.4), "last_used_at": None, "user": "anna", "shared": False}
    models = [
        copy(1, 0, pinned=True),
        copy(2, 1, state="busy", job=12, last_used_at=at(-0.5), unload_at=at(700.5)),
        copy(3, 2, 3, name="llama-3.1-8b", path="/models/llama.gguf", **loading),
    ]
    times = [{"model": NAME, "path": PATH, "seconds": 10.5, "count": 12}]
    pins = [pin(), pin("/models/other.gguf", name="other", by=None, at=None)]
    daemon.answers["GET", "/v1/models"] = residents(*models, pins=pins, load_times=times)
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    return daemon


def row(page: str, number: int) -> list[str]:
    [line] = [line for line in page.splitlines() if line.startswith(f"{number} ")]
    return line.split()


def test_the_copies_on_the_cards(rigged: Any, ctl: Any) -> None:
    page = ctl("models").out
    assert page.splitlines()[0].split() == [
        "#", "MODEL", "CARDS", "MEMORY", "STATE", "CONTEXT", "USED", "UNLOADS", "PINNED", "USER"
    ]  # fmt: skip
    assert row(page, 1)[:9] == ["1", NAME, "0", "7.6", "GiB", "ready", "4096", "x", "4"]
    assert row(page, 1)[9:] == ["3m05s", "ago", "-", "pinned"]
    assert "busy, job 12" in page and "in 11m" in page
    assert "loading, ready in 8." in page and row(page, 3)[2] == "2,3" and row(page, 3)[-1] == "anna"
    told = page.partition("PINNED, NOT LOADED\n")[2].splitlines()
    assert told[0] == "/models/other.gguf  (by the configuration)" and told[1] == ""
    assert page.splitlines()[-1].split() == [NAME, "10s", "12"]


def test_what_none_of_them_has_is_no_column(rigged: Any, ctl: Any) -> None:
    rigged.answers["GET", "/v1/models"] = residents(copy())
    assert ctl("models").out.splitlines()[0].split()[-1] == "USED"
    assert ctl("models").out.count("\n") == 2
    rigged.answers["GET", "/v1/models"] = residents()
    assert ctl("models").out == "no models on the cards\n"


def test_a_copy_that_should_be_ready_by_now_is_loading(rigged: Any, ctl: Any) -> None:
    rigged.answers["GET", "/v1/models"] = residents(copy(state="loading", ready_at=at(-3)))
    assert row(ctl("models").out, 1)[5:7] == ["loading", "4096"]


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_it_fits_a_terminal(rigged: Any, ctl: Any, monkeypatch: Any, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    page = ctl("models").out
    assert max(map(len, page.splitlines())) <= columns and "busy, job 12" in page


def test_pins_are_told_from_copies_by_path_and_without_it_by_name(rigged: Any, ctl: Any) -> None:
    elsewhere = pin(f"/other/{NAME}.gguf")
    rigged.answers["GET", "/v1/models"] = residents(copy(), pins=[elsewhere])
    assert f"/other/{NAME}.gguf  (by anna, Nov 23" in ctl("models").out
    rigged.answers["GET", "/v1/models"] = residents(copy(path=None), pins=[pin(None)])
    assert "NOT LOADED" not in ctl("models").out


def test_json_is_what_the_daemon_says_and_as_its_schema(rigged: Any, ctl: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    found = json.loads(ctl("models", "--json").out)
    assert found == rigged.answers["GET", "/v1/models"]
    with open(f"{folder()}/residents.json", encoding="utf-8") as stream:
        jsonschema.validate(found, json.load(stream))


@pytest.mark.parametrize(
    ("word", "asked"),
    [
        ("3", "#3"), ("#3", "#3"), (NAME, NAME), ("/models/x.gguf", "/models/x.gguf"), ("x.gguf", "{cwd}/x.gguf"),
        ("./pin", "{cwd}/pin"), ("../x", "{above}/x"), ("here", "{cwd}/here"), ("folder", "folder"),
        ("llama-3.1-8b", "llama-3.1-8b"), ("./3", "{cwd}/3"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["pin", "unpin", "unload"])
def test_what_is_asked(
    rigged: Any, ctl: Any, tmp_path: Any, monkeypatch: Any, verb: str, word: str, asked: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    (tmp_path / "folder").mkdir()
    rigged.answers["POST", f"/v1/models/{verb}"] = residents()
    assert ctl("models", verb, word).code == 0
    (request,) = rigged.asked(f"/v1/models/{verb}")
    assert request.body == {"model": asked.format(cwd=tmp_path, above=tmp_path.parent)}


def test_pin_says_what_stays(rigged: Any, ctl: Any) -> None:
    rigged.answers["POST", "/v1/models/pin"] = residents(copy(1, 0), copy(4, 2, 3), pins=[pin()])
    assert ctl("models", "pin", NAME).out.splitlines() == [
        f"{PATH}: pinned", f"{NAME} #1 on card 0: stays", f"{NAME} #4 on cards 2,3: stays"
    ]  # fmt: skip
    rigged.answers["POST", "/v1/models/pin"] = residents(pins=[pin()])
    assert ctl("models", "pin", PATH).out == f"{PATH}: pinned, not loaded\n"


def test_unpin_says_what_is_free_and_what_only_the_configuration_lifts(rigged: Any, ctl: Any) -> None:
    rigged.answers["POST", "/v1/models/unpin"] = residents(copy())
    assert ctl("models", "unpin", "1").out == f"{NAME} #1 on card 0: unpinned\n"
    rigged.answers["POST", "/v1/models/unpin"] = residents()
    assert ctl("models", "unpin", PATH).out == "unpinned\n"
    rigged.answers["POST", "/v1/models/unpin"] = residents(copy(), pins=[pin(by=None, at=None)])
    assert ctl("models", "unpin", "1").out == f"{PATH}: still pinned  (by the configuration)\n"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_unload_ends_the_idle_ones_and_refuses_the_busy(rigged: Any, ctl: Any, options: list[str]) -> None:
    stopping = copy(1, 0, state="stopping")
    rigged.answers["POST", "/v1/models/unload"] = residents(stopping)
    result = ctl("models", "unload", NAME, *options)
    assert result.code == 0 and (options or result.out == f"{NAME} #1 on card 0: stopping\n")
    answer = residents(stopping, copy(2, 1, state="busy", job=12))
    rigged.answers["POST", "/v1/models/unload"] = answer
    result = ctl("models", "unload", NAME, *options)
    assert result.code == 4 and result.err == (
        f"p104ctl: {NAME} #2 is busy with job 12 and stays; wait for the job, or p104ctl cancel 12\n"
    )
    if options:
        assert json.loads(result.out) == answer
    else:
        assert result.out.splitlines()[1] == f"{NAME} #2 on card 1: busy, job 12"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pin"], "pin needs one MODEL; a file of that name is ./pin"),
        (["unload", "a", "b"], "unload needs one MODEL"),
        (["a.gguf", "b.gguf"], "one MODEL.gguf at a time; before a MODEL goes pin, unpin, unload, not 'a.gguf'"),
        (["--context", "4096"], "--context goes with a model's file: p104ctl models MODEL.gguf"),
        (["pin", "a", "--no-flash-attention"], "--no-flash-attention goes with a model's file"),
        (["unpin", " "], "a model is named by its path, its number or its name"),
    ],
)
def test_usage(rigged: Any, ctl: Any, arguments: list[str], words: str) -> None:
    result = ctl("models", *arguments)
    assert result.code == 2 and words in result.err and result.err.count("\n") == 1 and rigged.requests == []


def test_what_the_daemon_refuses_is_said(rigged: Any, ctl: Any) -> None:
    verb = ("POST", "/v1/models/pin")
    rigged.answers[verb] = refusal(403, 4, "pinning models is for root and group p104-admin", "use sudo")
    result = ctl("models", "pin", NAME)
    assert result.code == 4 and result.err == "p104ctl: pinning models is for root and group p104-admin; use sudo\n"
    rigged.answers[verb] = refusal(404, 5, "there is no model 'x'", "p104ctl models lists them")
    assert ctl("models", "pin", "x").code == 5
    for arguments in ([], ["pin", "x"], ["--json"]):
        assert ctl("--socket", "/nonexistent", "models", *arguments).code == 3


def test_a_file_called_pin_is_read_without_a_daemon(rigged: Any, ctl: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pin").write_text("hello world")
    result = ctl("models", "./pin")
    assert result.code == 4 and "./pin: is no GGUF file" in result.err and rigged.requests == []


def test_completion(rigged: Any, monkeypatch: Any) -> None:
    assert complete(rigged, "p104ctl models un", monkeypatch) == ["unpin", "unload"]
    assert complete(rigged, "p104ctl models unload l", monkeypatch) == ["llama-3.1-8b"]
    assert complete(rigged, "p104ctl models unpin o", monkeypatch) == ["other"]
    assert complete(rigged, "p104ctl models unpin /mod", monkeypatch) == ["/mod"]
    assert complete(rigged, "p104ctl models pin a ", monkeypatch) == []


def test_cards_with_models_have_a_column_for_them(daemon: Any, ctl: Any, monkeypatch: Any) -> None:
    daemon.answers["GET", "/v1/status"] = status() | {"cards": loaded_rig()}
    daemon.answers["GET", "/v1/cards"] = {"cards": loaded_rig()}
    for verb in ("status", "cards"):
        page = ctl(verb).out.splitlines()
        heading = next(place for place, line in enumerate(page) if line.startswith("# "))
        assert "MODEL" in page[heading].split() and NAME in page[heading + 1]
    assert f"models      {NAME}" in ctl("cards", "0").out
    for columns in (72, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, ctl("status").out.splitlines())) <= columns
    assert "qwen2-7b" in ctl("status").out
    monkeypatch.delenv("COLUMNS")
    daemon.answers["GET", "/v1/status"] = status()
    daemon.answers["GET", "/v1/cards"] = {"cards": rig()}
    assert "MODEL" not in ctl("status").out and "MODEL" not in ctl("cards").out
