"""p104ctl models: what it prints for people and for programs, without any daemon."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from gguf_files import LLAMA_8B, LLAMA_13B, QWEN_7B, TINY

from p104d.cli import modelling
from p104d.cli.verbs.models import _CACHES
from p104d.cli.verbs.schema import folder
from p104d.engines.gguf_types import CACHE_KINDS


@pytest.fixture
def models(ctl):
    """p104ctl models where no daemon answers."""
    return lambda *arguments: ctl("--socket", "/nonexistent", "models", *map(str, arguments))


def test_the_page(models, tmp_path, monkeypatch):
    path = LLAMA_8B.write(tmp_path / "llama-8b.gguf")
    for columns in (60, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        done = models(path)
        assert (done.code, done.err) == (0, "") and max(map(len, done.out.splitlines())) <= columns
        text = " ".join(done.out.split())
        assert text.startswith("llama of the tests llama, 8.03 billion parameters, Q8_0, 32 layers, trained to 131072")
        assert "4096 tokens, f16 cache: fits on 2 cards of 7.9 GiB, split by layers 17,16" in text
        assert "-> with kv_cache: q8_0 it fits on one card" in text
    rows = {line.split()[0]: line.split()[1:] for line in done.out.splitlines() if line}
    assert rows["CONTEXT"] == ["1", "CARD", "2", "CARDS", "4", "CARDS"]
    assert rows["4096"][:2] == ["8.11", "q8_0"] and len(rows["4096"]) == 4
    assert rows["131072"][1] == "no" and rows["largest"][0] == "2560"
    assert done.out.splitlines()[-1] == "GiB on the fullest card; q8_0: fits with that cache; no: does not fit"


def test_one_card_and_no_marks(models, tmp_path):
    page = models(TINY.write(tmp_path / "tiny.gguf"), "--parallel", "2").out
    assert "2 requests of 4096 tokens each, f16 cache: fits on one of the cards of 7.9 GiB" in page
    assert page.endswith("GiB on the fullest card\n") and "->" not in page and " no" not in page
    values = {line.split()[0]: line.split()[-1] for line in page.splitlines() if line}
    parts = [float(values[word]) for word in ("weights", "keys", "computing", "CUDA")]
    assert sum(parts) == pytest.approx(float(values["total"]), abs=0.02)


def test_it_fits_nowhere(models, tmp_path):
    done = models(LLAMA_13B.write(tmp_path / "l.gguf"), "--cards", "1", "--memory", "4GiB")
    assert done.code == 0 and "does not fit on cards of 4.0 GiB" in done.out and "-> more cards" in done.out
    assert "none" in done.out


def test_notes_are_told(models, tmp_path):
    page = models(TINY.write(tmp_path / "n.gguf", llama__attention__sliding_window=512)).out
    assert page.splitlines()[-1].startswith("estimate only: its window is not counted")


def test_json_is_as_its_schema(models, tmp_path, monkeypatch):
    jsonschema = pytest.importorskip("jsonschema")
    with open(f"{folder()}/models.json", encoding="utf-8") as stream:
        schema = json.load(stream)
    QWEN_7B.write(tmp_path / "q.gguf")
    monkeypatch.chdir(tmp_path)
    options = {"--context": 16384, "--parallel": 2, "--kv-cache": "q8_0", "--cards": 3, "--memory": "6GiB"}
    found = json.loads(models("q.gguf", "--json", *(word for pair in options.items() for word in pair)).out)
    jsonschema.validate(found, schema)
    assert found["model"]["path"] == str(tmp_path / "q.gguf") and len(found["placement"]["cards"]) == 3
    assert found["asked"] == {
        "context": 16384, "parallel": 2, "kv_cache": "q8_0", "flash_attention": True, "ubatch": 128,
        "card_bytes": 6 * 2**30,
    }  # fmt: skip
    assert json.loads(models("q.gguf", "--json", "--no-flash-attention").out)["asked"]["flash_attention"] is False


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a.gguf", "b.gguf"], 2, "one MODEL.gguf at a time"),
        (["none.gguf"], 2, "p104ctl: none.gguf: no such file or directory; name a GGUF file"),
        (["."], 2, ".: is a folder"),
        (["junk.gguf"], 4, "junk.gguf: is no GGUF file"),
        (["cut.gguf"], 4, "cut.gguf: the file is cut short"),
        (["--", "-begins"], 2, "-begins: no such file"),
        (["tiny.gguf", "--kv-cache", "q8_0", "--no-flash-attention"], 4, "needs flash attention"),
        (["tiny.gguf", "--kv-cache", "q9"], 2, "q9"),
        (["tiny.gguf", "--memory", "8"], 2, "'8' is not a size"),
        (["tiny.gguf", "--context", "0"], 2, "--context"),
    ],
)
def test_what_is_wrong_is_one_line(models, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    TINY.write(tmp_path / "tiny.gguf")
    (tmp_path / "junk.gguf").write_text("hello world")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes()[:-100])
    done = models(*arguments)
    assert done.code == code and words in done.err and done.err.count("\n") == 1 and done.out == ""


def test_nothing_of_the_folder_it_is_called_in_is_imported(models, tmp_path, monkeypatch):
    TINY.write(tmp_path / "tiny.gguf")
    for name in ("json.py", "p104d.py", "struct.py"):
        (tmp_path / name).write_text("raise SystemExit('taken from here')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert models("tiny.gguf").code == 0


def test_a_reader_that_dies_or_hangs(models, tmp_path, monkeypatch):
    path = TINY.write(tmp_path / "tiny.gguf")
    monkeypatch.setattr(modelling, "_READER", "import os; os.kill(os.getpid(), 9)")
    done = models(path)
    assert done.code == 1 and "the reader of models failed: exit code -9" in done.err
    monkeypatch.setattr(modelling, "_READER", "import sys; sys.exit('out of luck')")
    assert "the reader of models failed: out of luck" in models(path).err
    monkeypatch.setattr(modelling, "_READER", "import time; time.sleep(60)")
    monkeypatch.setattr(modelling, "_SECONDS", 0.05)
    done = models(path)
    assert done.code == 1 and "could not be read" in done.err and done.err.count("\n") == 1


def test_the_kinds_of_cache_are_the_readers():
    assert set(_CACHES) == set(CACHE_KINDS)


def test_p104ctl_loads_nothing_of_the_engines(tmp_path):
    path = TINY.write(tmp_path / "tiny.gguf")
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from p104d.cli.main import main\n"
        f"code = main(['models', {str(path)!r}])\n"
        "ours = ('p104d.engines', 'p104d.api.models')\n"
        "print('MODULES', code, [name for name in sys.modules if name.startswith(ours)])"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.partition("MODULES")[2].strip() == "0 []"
