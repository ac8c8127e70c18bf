"""What is reported of a model file: the wire's types, what fits, what is suggested."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gguf_files import LLAMA_8B, LLAMA_13B, QWEN_7B, TINY, Llama

from p104d.api.models import Models
from p104d.engines.gguf import read_model
from p104d.engines.gguf_types import CACHE_KINDS
from p104d.engines.model_memory import Ask
from p104d.engines.model_memory_report import CARD_BYTES, answer, report
from p104d.engines.model_memory_shape import shape_of
from p104d.engines.model_memory_split import place


def asked(folder: Path, model: Llama, **more: Any) -> dict[str, Any]:
    """The report, held against the types of the wire."""
    found = answer([str(model.write(folder / "model.gguf")), json.dumps(more)])
    msgspec.convert(found, Models, strict=True)
    assert json.loads(json.dumps(found)) == found
    return found


def marks(found: dict[str, Any]) -> dict[int, dict[int, str | None]]:
    return {
        each["cards"]: {one["context"]: one["fits_with_kv_cache"] for one in each["contexts"]} for each in found["fits"]
    }


def test_a_model_that_fits_on_one_card(tmp_path):
    found = asked(tmp_path, QWEN_7B)
    assert found["model"]["path"].endswith("model.gguf") and found["model"]["host_bytes"] > 500e6
    assert {key: found["model"][key] for key in ("architecture", "file_type", "parts", "layers", "context")} == {
        "architecture": "qwen2", "file_type": "Q8_0", "parts": 1, "layers": 28, "context": 32768,
    }  # fmt: skip
    assert found["model"]["parameters"] == pytest.approx(7.616e9, rel=0.001)
    assert found["placement"]["cards"] == [found["sum"]] and found["placement"]["split_mode"] == "none"
    parts = ("weights", "kv", "compute", "overhead")
    assert sum(found["sum"][f"{part}_bytes"] for part in parts) == found["sum"]["total_bytes"]
    assert found["suggestion"] is None
    one = marks(found)[1]
    assert one == {2048: "f16", 4096: "f16", 8192: "f16", 16384: "q8_0", 32768: None}


def test_what_does_not_fit_is_shared_out_evenly_all_the_same(tmp_path):
    """How much is lacking: the fullest of two cards needs about half of what one would."""
    found = asked(tmp_path, LLAMA_8B, context=131072)
    one, two, four = ({each["context"]: each for each in some["contexts"]}[131072] for some in found["fits"])
    assert not two["fits"] and 0.5 < two["card_bytes"] / one["card_bytes"] < 0.55
    assert four["fits"] and 0.25 < four["card_bytes"] / one["card_bytes"] < 0.30


def test_the_largest_context_is_the_last_that_fits(tmp_path):
    found = asked(tmp_path, QWEN_7B)
    shape = shape_of(read_model(str(tmp_path / "model.gguf")))
    most = found["fits"][0]["largest_context"]
    assert place(shape, Ask(most), [CARD_BYTES]) and not place(shape, Ask(most + 256), [CARD_BYTES])
    assert [each["largest_context"] for each in found["fits"][1:]] == [32768, 32768]


def test_a_smaller_cache_is_suggested_where_it_saves_a_card(tmp_path):
    found = asked(tmp_path, LLAMA_8B)
    assert found["placement"]["tensor_split"] == [17, 16] and found["placement"]["split_mode"] == "layer"
    assert found["suggestion"] == "with kv_cache: q8_0 it fits on one card"
    assert marks(found)[1][4096] == "q8_0" and marks(found)[2][4096] == "f16"
    small = asked(tmp_path, LLAMA_8B, kv_cache="q8_0")
    assert len(small["placement"]["cards"]) == 1 and small["suggestion"] is None
    # On two cards as asked, nothing is to be saved.
    assert asked(tmp_path, LLAMA_8B, cards=2)["suggestion"] is None


def test_where_it_does_not_fit_it_is_said_what_would(tmp_path):
    found = asked(tmp_path, LLAMA_13B, cards=2)
    assert found["placement"] is None and [each["cards"] for each in found["fits"]] == [2]
    assert found["suggestion"] == "with kv_cache: q8_0 it fits on 2 cards"
    found = asked(tmp_path, LLAMA_13B, cards=2, kv_cache="q8_0", parallel=2)
    assert found["placement"] is None and found["suggestion"] == "on 2 cards a context of 2816 fits"
    found = asked(tmp_path, LLAMA_13B, cards=1)
    assert found["suggestion"] == "more cards, or a smaller quantisation" and found["fits"][0]["largest_context"] == 0
    assert found["fits"][0]["contexts"][0]["card_bytes"] > CARD_BYTES
    assert asked(tmp_path, LLAMA_13B, card_bytes=2**28)["suggestion"] == "a smaller quantisation, or larger cards"


def test_more_cards_than_layers(tmp_path):
    found = asked(tmp_path, TINY, cards=8)
    assert found["placement"] is None and {one["card_bytes"] for one in found["fits"][0]["contexts"]} == {None}


def test_a_context_of_ones_own_is_among_those_shown(tmp_path):
    assert list(marks(asked(tmp_path, TINY, context=3000))[1]) == [2048, 3000, 4096]
    own = TINY._replace(context=6000)
    assert list(marks(asked(tmp_path, own))[1]) == [2048, 4096, 6000]
    assert list(marks(asked(tmp_path, TINY._replace(context=2**20)))[1])[-1] == 2**17


@pytest.mark.parametrize(
    ("ask", "words", "code"),
    [
        ({"kv_cache": "q9"}, "q9", 4),
        ({"kv_cache": "q8_0", "flash_attention": False}, "flash attention", 4),
        ({"context": 0}, "context: 0", 4),
    ],
)
def test_what_is_refused_is_an_answer_too(tmp_path, ask, words, code):
    error = answer([str(TINY.write(tmp_path / "m.gguf")), json.dumps(ask)])["error"]
    assert words in error["message"] and error["exit_code"] == code and error["mend"]


def test_a_missing_file_is_bad_usage():
    assert answer(["/nonexistent.gguf", "{}"])["error"] == {
        "message": "/nonexistent.gguf: no such file or directory",
        "mend": "name a GGUF file",
        "exit_code": 2,
        "retry": False,
    }


def test_all_kinds_of_cache_are_summed(tmp_path):
    sizes = {kind: asked(tmp_path, TINY, kv_cache=kind)["sum"]["kv_bytes"] for kind in CACHE_KINDS}
    assert sizes["f32"] == 2 * sizes["f16"] == 2 * sizes["bf16"]
    assert sizes["f16"] > sizes["q8_0"] > sizes["q5_1"] > sizes["q5_0"] > sizes["q4_0"] == sizes["iq4_nl"]
    assert sizes["q8_0"] / sizes["f16"] == 34 / 64


def test_a_report_of_a_split_model(tmp_path):
    paths = TINY.write_split(tmp_path, 2)
    found = report(read_model(str(paths[0])), Ask())
    assert found["model"]["parts"] == 2 and found["model"]["file_bytes"] == sum(one.stat().st_size for one in paths)
