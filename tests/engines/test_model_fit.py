"""On which cards a model fits, and what is said where it fits on none."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from gguf_files import LLAMA_8B, LLAMA_13B, QWEN_7B, TINY, Llama
from hypothesis import given, settings
from hypothesis import strategies as st

from p104d.core.job import ModelNeed
from p104d.core.units import GIB, MIB
from p104d.engines.gguf import read_model
from p104d.engines.model_fit import Fit, Misfit, Room, ask_of, fit, placed
from p104d.engines.model_memory import Ask, Costs
from p104d.engines.model_memory_shape import Layer, Shape, shape_of
from p104d.engines.model_memory_split import place

CARD = 8109 * MIB
USUAL = Ask()
COSTS = Costs()


def shape(model: Llama, folder: Path) -> Shape:
    return shape_of(read_model(str(model.write(folder / "model.gguf"))))


def rig(*sizes: int) -> list[Room]:
    return [Room(f"GPU-{place}", size) for place, size in enumerate(sizes)]


def ask_fit(one: Shape, cards: list[Room], ask: Ask = USUAL, wanted: int | None = None, vram: int | None = None):
    return fit(one, ask, cards, COSTS, cards_wanted=wanted, vram=vram)


def uuids(*places: int) -> tuple[str, ...]:
    return tuple(f"GPU-{place}" for place in places)


def plain(layers: int = 8, weights: int = GIB, output: int = GIB) -> Shape:
    return Shape((Layer(weights, 0, 0),) * layers, output, 0, 8, 1024, 4096, 32000, 4096, (128, 128))


# --- where it fits ---


def test_real_models(tmp_path):
    cards = rig(CARD, CARD, CARD // 2, CARD)
    assert ask_fit(shape(QWEN_7B, tmp_path), cards) == Fit(1, uuids(0, 1, 3))
    llama = shape(LLAMA_8B, tmp_path)
    assert ask_fit(llama, cards) == Fit(2, uuids(0, 1, 3)), "half a card is too small for half of it"
    assert ask_fit(llama, cards, Ask(kv_cache="q8_0")) == Fit(1, uuids(0, 1, 3))
    assert ask_fit(llama, cards, wanted=3) == Fit(3, uuids(0, 1, 2, 3)), "a third fits on half a card"
    assert ask_fit(shape(TINY, tmp_path), cards) == Fit(1, uuids(0, 1, 2, 3))


def test_any_choice_fits(tmp_path):
    one, ask = shape(LLAMA_13B, tmp_path), Ask()
    cards = rig(CARD, 6 * GIB, CARD, 5 * GIB, CARD)
    found = ask_fit(one, cards, ask)
    assert found == Fit(3, uuids(0, 1, 2, 4))
    sizes = {card.uuid: card.capacity_bytes for card in cards}
    for chosen in itertools.combinations(found.uuids, found.cards):
        assert place(one, ask, [sizes[uuid] for uuid in chosen], COSTS) is not None, chosen


def test_cards_that_only_do_together():
    """Eight layers and an output of 1 GiB: 6 on the large one and 3 on a small one, but not on two small ones."""
    found = ask_fit(plain(), rig(4 * GIB, 7 * GIB, 4 * GIB), wanted=2)
    assert found == Fit(2, uuids(0, 1)), "exactly these, in the order of the rig"
    assert isinstance(ask_fit(plain(), rig(4 * GIB, 4 * GIB), wanted=2), Misfit)


def test_memory_that_the_job_names():
    one = plain(layers=40)
    assert ask_fit(one, rig(8 * GIB, 4 * GIB, 6 * GIB), vram=5 * GIB) == Fit(1, uuids(0, 2))
    assert ask_fit(one, rig(8 * GIB, 4 * GIB, 6 * GIB), wanted=2, vram=6 * GIB) == Fit(2, uuids(0, 2))
    found = ask_fit(one, rig(8 * GIB, 4 * GIB), wanted=2, vram=6 * GIB)
    assert isinstance(found, Misfit)
    assert found.message == "it is to have 6.0 GiB of 2 cards each; the rig has 1 card of 8.0 GiB and 1 card of 4.0 GiB"


def test_what_was_measured_counts(tmp_path):
    one = shape(QWEN_7B, tmp_path)
    assert isinstance(fit(one, Ask(), rig(CARD), Costs(surplus=GIB), cards_wanted=None, vram=None), Misfit)


@given(
    st.lists(st.integers(0, 3 * GIB), min_size=1, max_size=12),
    st.lists(st.sampled_from([1, 2, 3, 4, 6, 8, 12]), min_size=1, max_size=5),
    st.integers(0, 4 * GIB),
)
@settings(max_examples=100, deadline=None)
def test_any_choice_of_any_rig_fits_and_no_fewer_would(weights, sizes, output):
    one = plain()._replace(layers=tuple(Layer(size, 0, 0) for size in weights), output=output)
    cards = rig(*(size * GIB for size in sizes))
    found = ask_fit(one, cards)
    by_uuid = {card.uuid: card.capacity_bytes for card in cards}

    def holds(chosen: tuple[str, ...]) -> bool:
        return place(one, Ask(), [by_uuid[uuid] for uuid in chosen], COSTS) is not None

    fewer = range(1, (found.cards if isinstance(found, Fit) else len(cards) + 1))
    largest = sorted(by_uuid, key=lambda uuid: -by_uuid[uuid])
    for count in fewer:
        assert not holds(tuple(uuid for uuid in by_uuid if uuid in largest[:count]))
    if isinstance(found, Fit):
        assert all(holds(chosen) for chosen in itertools.combinations(found.uuids, found.cards))
        assert len(found.uuids) >= found.cards
    else:
        assert found.text and "\n" not in found.text


# --- what is said where it does not ---


def test_what_it_needs_and_what_would_help(tmp_path):
    one = shape(LLAMA_8B, tmp_path)
    found = ask_fit(one, rig(CARD))
    assert isinstance(found, Misfit)
    assert found.message == "it needs 8.1 GiB on one card; the rig has 1 card of 7.9 GiB"
    assert found.mend == "kv_cache: q8_0 (fits on one card) or context: 2560 (fits on one card)"
    assert found.text == f"{found.message}; {found.mend}"
    wanted = ask_fit(one, rig(CARD, CARD), wanted=1)
    assert isinstance(wanted, Misfit) and wanted.mend.startswith("cards: 2 or kv_cache: q8_0 (fits on one card) or ")


def test_what_helps_is_true(tmp_path):
    one = shape(LLAMA_8B, tmp_path)
    ask = Ask(65536, parallel=2)
    found = ask_fit(one, rig(CARD, CARD), ask)
    assert isinstance(found, Misfit) and found.message.startswith("it needs ") and " on each of 2 cards; " in found.text
    context = int(found.mend.partition("context: ")[2].split()[0])
    assert isinstance(ask_fit(one, rig(CARD, CARD), ask._replace(context=context)), Fit)
    assert isinstance(ask_fit(one, rig(CARD, CARD), ask._replace(context=context + 256)), Misfit)


def test_only_a_small_cache_and_a_small_context_together():
    one = plain()._replace(layers=(Layer(768 * MIB, 2**17, 2**17),) * 8)
    found = ask_fit(one, rig(7 * GIB + 900 * MIB), Ask(4096))
    assert isinstance(found, Misfit) and found.mend == "context: 256 with kv_cache: q8_0"


def test_no_help():
    found = ask_fit(plain(layers=100), rig(8 * GIB, 8 * GIB))
    assert isinstance(found, Misfit) and found.mend == "a smaller quantisation of the model"
    assert "the rig has 2 cards of 8.0 GiB" in found.message


@pytest.mark.parametrize(
    ("cards", "wanted", "words"),
    [
        ((), None, "there is no card that it could be loaded on; look at `p104ctl cards`"),
        ((8 * GIB,), 2, "it is to be on 2 cards, and there is 1; cards: 1, or leave it out"),
        ((8 * GIB,) * 12, 11, "its layers cannot be shared among 11 cards; cards: 9 at most"),
    ],
)
def test_impossible_numbers(cards, wanted, words):
    found = ask_fit(plain(), rig(*cards), wanted=wanted)
    assert isinstance(found, Misfit) and found.text == words


def test_what_llama_cpp_would_refuse():
    found = ask_fit(plain()._replace(head_widths=(80, 80)), rig(64 * GIB), Ask(kv_cache="q8_0"))
    assert isinstance(found, Misfit) and found.mend == "kv_cache: f16"


# --- the shares of a choice ---


def test_shares(tmp_path):
    one, ask = shape(LLAMA_8B, tmp_path), Ask()
    sums = placed(one, ask, [CARD, CARD], COSTS)
    assert sums == place(one, ask, [CARD, CARD], COSTS)
    assert [card.layers for card in sums] == [17, 16]
    assert placed(one, ask, [2 * CARD], COSTS)[0].layers == 33


def test_shares_of_what_the_sum_says_does_not_fit():
    one = plain(layers=8)
    sums = placed(one, Ask(), [2 * GIB, 4 * GIB], COSTS)
    assert [card.layers for card in sums] == [3, 6]
    assert [card.layers for card in placed(one, Ask(), [0, 0, 0, 0], COSTS)] == [3, 2, 2, 2]
    for cards in ([], [GIB] * 10):
        with pytest.raises(ValueError, match="cannot share"):
            placed(one, Ask(), cards, COSTS)


# --- how a job's model is loaded ---


def test_a_job_asks_so():
    need = ModelNeed(path="/m.gguf", uid=0, context=5000, kv_cache="q8_0", parallel=3)
    assert ask_of(need, trained=2048) == Ask(5000, 3, "q8_0")
    embeds = ModelNeed(path="/m.gguf", uid=0, context=5000, embeddings=True)
    assert ask_of(embeds).ubatch == 5120, "a whole request in one batch"
    assert ask_of(embeds, trained=512) == Ask(512, ubatch=512)
