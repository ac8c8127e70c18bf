"""Speeds on record: the file is sound, and a result is held against the right one or none."""

from __future__ import annotations

import pytest

from p104d.engines.measure_names import BARS, LLAMA
from p104d.engines.reference import against, reference, references, words
from p104d.hardware.catalog import ENTRIES

SPEED, ITS, SIT = "generation_tokens_per_second", "iterations_per_second", "seconds_per_iteration"


def test_the_file_is_sound() -> None:
    found = references()
    assert len(found) == 11
    units = {SPEED: "tokens/s", ITS: "it/s", SIT: "s/it"}
    for each in found:
        assert each.measure in (*BARS, *LLAMA) and each.unit == units[each.measure]
        assert each.card in {entry.name for entry in ENTRIES}
        assert each.value > 0 and each.cards >= 1 and each.source and each.setup
        assert all(words(match) for match in each.match)
        assert any(words(match) <= words(each.model) for match in each.match), each.model


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Qwen-2-7B-Coder-Q8_0", {"qwen2", "7b", "coder", "q8", "0"}),
        ("qwen2.5-coder-7b-instruct-q8_0", {"qwen2.5", "coder", "7b", "instruct", "q8", "0"}),
        ("Qwen 2 7B Coder Q8", {"qwen2", "7b", "coder", "q8"}),
        ("Qwen3-Coder-30B-A3B-Q4_K_M", {"qwen3", "coder", "30b", "a3b", "q4", "k", "m"}),
        ("sd_xl_base_1.0", {"sd", "xl", "base1.0"}),
        ("flux1-dev-Q4_0", {"flux1", "dev", "q4", "0"}),
        ("", set()),
    ],
)
def test_words_of_a_name(name: str, expected: set[str]) -> None:
    assert words(name) == expected


@pytest.mark.parametrize(
    ("name", "cards", "measure", "value"),
    [
        ("qwen2-7b-coder-q8_0", 1, SPEED, 18.75),
        ("Qwen2.5-Coder-7B-Instruct-Q8_0", 1, SPEED, 18.75),
        ("qwen2-7b-coder-q8_0", 2, SPEED, None),
        ("qwen2-7b-coder-q8_0", 1, "prompt_tokens_per_second", None),
        ("qwen2-7b-coder-q4_0", 1, SPEED, None),
        ("qwen2-7b-q8_0", 1, SPEED, None),
        ("qwen2-13b-coder-q6_k", 2, SPEED, 12.5),
        ("qwen2-13b-coder-q8_0", 2, SPEED, 7.0),
        ("qwen3:8b", 1, SPEED, 26.9),
        ("qwen3.5-9b", 1, SPEED, 28.2),
        ("Qwen3-Coder-30B-A3B-Instruct-Q4_K_M", 3, SPEED, 33.0),
        ("gemma-3-27b-it-Q3_K_M", 4, SPEED, 17.89),
        ("sd_xl_base_1.0", 1, ITS, 2.52),
        ("sdxl-turbo", 1, ITS, 2.52),
        ("sdxl-turbo", 1, SIT, 0.397),
        ("flux1-dev-q4_0", 1, SIT, 2.69),
        ("flux1-dev-q4_0", 1, ITS, 0.372),
        ("flux1-dev-q8_0", 1, SIT, None),
        ("posters", 1, ITS, None),
    ],
)
def test_a_result_is_held_against_its_like(name: str, cards: int, measure: str, value: float | None) -> None:
    found = reference(name, "NVIDIA P104-100", cards, measure)
    assert (found.value if found else None) == value
    assert found is None or found.measure == measure
    assert reference(name, "NVIDIA GeForce GTX 1070", cards, measure) is None
    assert reference(name, None, cards, measure) is None


def test_what_a_result_is_of_it() -> None:
    speed = reference("qwen2-7b-coder-q8_0", "P104-100", 1, SPEED)
    assert speed is not None
    assert against(speed, 17.4) == "93 % of the 18.75 tokens/s on record"
    time = reference("flux1-dev-q4_0", "P104-100", 1, SIT)
    assert time is not None
    assert against(time, 5.38) == "50 % of the 2.69 s/it on record"
