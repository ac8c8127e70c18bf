"""The sums of a model's memory: the known table, what llama.cpp itself said, and what must hold of any model."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf_files import LLAMA_8B, LLAMA_13B, MISTRAL_7B, NEMO_12B, QWEN_7B, TINY, Llama, Tensor, write
from hypothesis import given
from hypothesis import strategies as st

from p104d.core.errors import RefusedError
from p104d.core.units import GIB, MIB
from p104d.engines.gguf import ModelFileError, read_model
from p104d.engines.model_memory import (
    Ask,
    Costs,
    Run,
    check,
    compute_bytes,
    corrected,
    kv_bytes,
    spread,
)
from p104d.engines.model_memory_shape import Layer, Shape, shape_of
from p104d.engines.model_memory_split import fewest, place

CARD = 8109 * MIB
NOTHING = Costs(0, 0)


def shape(model: Llama, folder: Path, **more: object) -> Shape:
    return shape_of(read_model(str(model.write(folder / "model.gguf", **more))))


def total(one: Shape, ask: Ask, costs: Costs = NOTHING) -> int:
    return spread(one, ask, [len(one.layers) + 1], costs)[0].total


# --- the table ---


@pytest.mark.parametrize(
    ("model", "context", "cache", "gib", "cards"),
    [
        (QWEN_7B, 4096, "f16", 7.30, 1),
        (MISTRAL_7B, 4096, "f16", 7.56, 1),
        (LLAMA_8B, 4096, "f16", 8.00, 2),
        (LLAMA_8B, 4096, "q8_0", 7.77, 1),
        (NEMO_12B, 4096, "f16", 12.2, 2),
        (LLAMA_13B, 4096, "f16", 15.9, 3),
        (LLAMA_13B, 2048, "f16", 14.3, 2),
    ],
    ids=["qwen-7b", "mistral-7b", "llama-8b", "llama-8b-q8", "nemo-12b", "llama-13b", "llama-13b-2k"],
)
def test_the_table(tmp_path, model, context, cache, gib, cards):
    """Real models at Q8_0, before CUDA's own; how many cards of 8 GiB each needs, with it."""
    one, ask = shape(model, tmp_path), Ask(context, kv_cache=cache)
    check(one, ask)
    assert total(one, ask) == pytest.approx(gib * GIB, rel=0.01)
    placed = fewest(one, ask, [CARD] * 4)
    assert placed is not None and len(placed.cards) == cards
    assert all(card.total <= CARD for card in placed.sums)


def test_what_a_real_model_is_made_of(tmp_path):
    one = shape(LLAMA_8B, tmp_path)
    embeddings = 128256 * 4096 * 34 // 32
    assert one.host == embeddings and one.output == embeddings + 4096 * 4
    assert (len(one.layers), one.heads, one.width, one.vocabulary, one.context) == (32, 32, 4096, 128256, 131072)
    assert {(layer.keys, layer.values, layer.window, layer.state) for layer in one.layers} == {(1024, 1024, 0, 0)}
    assert one.notes == ()


# --- llama.cpp's own words: what it logged for small models of the same shapes ---


@pytest.mark.parametrize(
    ("ask", "mib"),
    [
        (Ask(1667, parallel=3), 10.5),  # -c 5000 -np 3: 1792 cells, 4 layers, 3 sequences
        (Ask(32768), 64.0),
        (Ask(32768, kv_cache="q8_0"), 34.0),
        (Ask(4096), 8.0),
    ],
)
def test_the_cache_is_what_llama_cpp_allocates(ask, mib):
    layer = Layer(0, 2 * 64, 2 * 64)
    assert 4 * kv_bytes(layer, ask) == mib * MIB


def test_a_window_is_what_llama_cpp_allocates(tmp_path):
    """gemma2, window 1024, -c 8192 -np 2 -ub 128: 16 MiB in 2 layers that see all, 5 MiB in 2 with a window."""
    gemma = Llama("gemma2", 4, 512, 1024, 8, 2, 354, 32768, head_width=128, tied=True)
    one = shape(gemma, tmp_path, gemma2__attention__sliding_window=1024)
    sizes = [kv_bytes(layer, Ask(4096, parallel=2)) for layer in one.layers]
    assert sizes == [2.5 * MIB, 8 * MIB, 2.5 * MIB, 8 * MIB]
    # A request shorter than the window has no more in it than it is long.
    assert kv_bytes(one.layers[0], Ask(256)) == kv_bytes(one.layers[1], Ask(256))


@pytest.mark.parametrize(
    ("width", "forward", "heads", "kv", "layers", "ubatch", "flash", "plain"),
    [
        (512, 1024, 8, 2, 4, 128, 3.75, 19.63),
        (512, 8192, 8, 2, 2, 128, 14.25, 19.63),
        (2048, 1024, 16, 4, 2, 128, 8.00, 41.50),
        (1024, 4096, 16, 16, 2, 128, 9.50, 38.00),
        (512, 1024, 8, 2, 4, 512, 15.02, 78.51),
        (512, 8192, 8, 2, 2, 512, 57.02, 78.51),
        (2048, 1024, 16, 4, 2, 512, 32.02, 166.01),
        (1024, 4096, 16, 16, 2, 512, 38.02, 152.01),
    ],
)
def test_the_compute_buffer_is_about_what_llama_cpp_allocates(width, forward, heads, kv, layers, ubatch, flash, plain):
    """Its log at 4096 tokens, without words' scores (newer ones keep those of few tokens only): we say the same or up
    to a tenth more."""
    per = Layer(0, kv * 64, kv * 64)
    one = Shape((per,) * layers, 0, 0, heads, width, forward, 0, 4096, (64, 64))
    for on, mib in ((True, flash), (False, plain)):
        found = compute_bytes(one, Ask(4096, flash_attention=on, ubatch=ubatch)) / MIB
        assert mib - 0.05 <= found <= mib * 1.10


def test_what_else_computing_takes(tmp_path):
    """Wide heads, copies of one layer of a quantised cache, and the mask that several cards keep four times."""
    wide = Shape((Layer(0, 256, 256),), 0, 0, 8, 2048, 0, 1000, 4096, (64, 64))
    assert shape(TINY._replace(head_width=128), tmp_path).width == 8 * 128
    plain, quantised = compute_bytes(wide, Ask(4096, parallel=3)), compute_bytes(wide, Ask(4096, 3, "q8_0"))
    assert quantised - plain == 3 * 4096 * 512 * 2
    mask = 4096 * 128 * 2
    assert compute_bytes(wide, Ask(4096), cards=2) - compute_bytes(wide, Ask(4096)) == 3 * mask
    assert compute_bytes(wide, Ask(4096)) - compute_bytes(wide, Ask(4096), last=False) == 4 * 128 * 1000


# --- what else is in models ---


def test_tied_embeddings_are_on_the_card_too(tmp_path):
    tied = shape(TINY._replace(tied=True), tmp_path)
    assert tied.output == 300 * 256 * 34 // 32 + 256 * 4 and tied.host == 300 * 256 * 34 // 32


def test_a_list_of_kv_heads_by_layer(tmp_path):
    one = shape(TINY, tmp_path, llama__attention__head_count_kv=[2, 0, 8, 1])
    assert [layer.keys for layer in one.layers] == [64, 0, 256, 32]


def test_the_windows_by_layer(tmp_path):
    found = shape(
        TINY._replace(architecture="gemma3"),
        tmp_path,
        gemma3__attention__sliding_window=512,
        gemma3__attention__sliding_window_pattern=[True, False, True, True],
        gemma3__attention__key_length_swa=64,
    )
    assert [layer.window for layer in found.layers] == [512, 0, 512, 512]
    assert [layer.keys for layer in found.layers] == [128, 64, 128, 128]
    six = shape(TINY._replace(architecture="gemma3", layers=7), tmp_path, gemma3__attention__sliding_window=512)
    assert [layer.window for layer in six.layers] == [512] * 5 + [0, 512]


def test_layers_that_share_the_cache_of_others(tmp_path):
    one = shape(TINY, tmp_path, llama__attention__shared_kv_layers=3)
    assert [layer.keys for layer in one.layers] == [64, 0, 0, 0]


def test_a_window_nobody_knows_is_counted_in_full_and_said(tmp_path):
    one = shape(TINY, tmp_path, llama__attention__sliding_window=512)
    assert {layer.window for layer in one.layers} == {0} and "window" in one.notes[0]


def test_a_hybrid_keeps_a_state_for_each_request(tmp_path):
    """One layer attends, one has a state, one has both, and linear attention has a tensor named like attention's."""
    ssm = Tensor("blk.1.ssm_out.weight", (256, 256))
    names = ["blk.0.attn_k.weight", "blk.2.attn_k.weight", "blk.2.ssm_a.weight", "blk.3.attn_qkv.weight"]
    tensors = [ssm, *(Tensor(name, (256, 64)) for name in names), Tensor("blk.3.ssm_a.weight", (256, 64))]
    own = {"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 16, "ssm.group_count": 2}
    metadata = TINY._replace(architecture="hybrid").metadata() | {f"hybrid.{key}": one for key, one in own.items()}
    one = shape_of(read_model(str(write(tmp_path / "h.gguf", metadata, tensors))))
    state = 4 * (3 * (512 + 2 * 2 * 16) + 16 * 512)
    assert [(layer.keys, layer.state) for layer in one.layers] == [(64, 0), (0, state), (64, state), (0, state)]
    assert kv_bytes(one.layers[1], Ask(100_000, parallel=3)) == 3 * state


def test_other_states(tmp_path):
    def state(architecture: str, tensor: str, **own: int) -> int:
        metadata = TINY._replace(architecture=architecture).metadata()
        metadata |= {f"{architecture}.{key.replace('__', '.')}": one for key, one in own.items()}
        path = write(tmp_path / "s.gguf", metadata, [Tensor(f"blk.0.{tensor}.weight", (256, 64))])
        return shape_of(read_model(str(path))).layers[0].state

    assert state("rwkv7", "time_mix_key", wkv__head_size=64, token_shift_count=2) == 4 * 256 * (2 + 64)
    assert state("lfm2", "shortconv.conv", shortconv__l_cache=3) == 4 * 256 * 2
    assert state("strange", "ssm_a") == 0


def test_a_mixture_counts_all_experts_and_computes_with_few(tmp_path):
    own = {"qwen3moe.expert_count": 8, "qwen3moe.expert_used_count": 2, "qwen3moe.expert_feed_forward_length": 1024}
    model = TINY._replace(architecture="qwen3moe", layers=1)
    experts = Tensor("blk.0.ffn_gate_exps.weight", (256, 1024, 8))
    path = write(tmp_path / "moe.gguf", model.metadata() | own, [*model.tensors(), experts])
    one = shape_of(read_model(str(path)))
    assert one.feed_forward == 2048 and one.layers[0].weights > experts.size


def test_latent_attention_is_one_head(tmp_path):
    own = {"attention.head_count_kv": 1, "attention.key_length": 576, "attention.value_length": 512}
    own |= {"attention.kv_lora_rank": 512}
    model = TINY._replace(architecture="deepseek2")
    metadata = model.metadata() | {f"deepseek2.{key}": one for key, one in own.items()}
    one = shape_of(read_model(str(write(tmp_path / "mla.gguf", metadata, model.tensors()))))
    assert (one.layers[0].keys, one.layers[0].values) == (576, 512) and "MLA" in one.notes[0]


def test_a_model_for_embeddings_remembers_nothing(tmp_path):
    one = shape(TINY._replace(architecture="bert", tied=True), tmp_path, bert__attention__causal=False)
    assert {(layer.keys, layer.values) for layer in one.layers} == {(0, 0)} and one.output == 256 * 4


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"general__architecture": "clip"}, "mmproj"),
        ({"general__type": "adapter"}, "adapter"),
        ({"general__architecture": ""}, "lacks general.architecture"),
        ({"general__architecture": "other"}, "lacks other.block_count"),
        ({"llama__block_count": 0}, "llama.block_count is 0"),
        ({"llama__block_count": 10**9}, "llama.block_count is 1000000000"),
        ({"llama__block_count": 3}, "blk.3"),
        ({"llama__block_count": "four"}, "llama.block_count is four"),
        ({"llama__attention__head_count_kv": [1, 2]}, "head_count_kv is (1, 2)"),
        ({"llama__attention__head_count": -8}, "head_count is -8"),
        ({"llama__embedding_length": 2.5}, "embedding_length is 2.5"),
    ],
)
def test_what_is_no_model_is_said(tmp_path, more, words):
    with pytest.raises(ModelFileError) as raised:
        shape(TINY, tmp_path, **more)
    assert words in raised.value.line() and "model.gguf" in raised.value.line() and raised.value.mend


def test_a_file_without_tensors_is_a_vocabulary(tmp_path):
    with pytest.raises(ModelFileError, match="no tensors"):
        shape_of(read_model(str(write(tmp_path / "v.gguf", TINY.metadata(), []))))


# --- what is asked ---


def test_context_is_of_each_request(tmp_path):
    one = shape(TINY, tmp_path)
    assert Ask(4096, parallel=4).tokens == 16384 and Ask(1, parallel=2).tokens == 512
    alone, four = (sum(kv_bytes(layer, Ask(4096, parallel=many)) for layer in one.layers) for many in (1, 4))
    assert four == 4 * alone


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (Ask(kv_cache="q9"), "'q9' is no kind of cache; one of f32, f16"),
        (Ask(kv_cache="q2_k"), "no kind of cache"),
        (Ask(context=0), "context: 0 is out of range"),
        (Ask(context=2**40), "out of range"),
        (Ask(parallel=0), "parallel: 0"),
        (Ask(ubatch=-1), "ubatch: -1"),
        (Ask(kv_cache="q8_0", flash_attention=False), "needs flash attention"),
    ],
)
def test_what_cannot_be_asked(tmp_path, ask, words):
    with pytest.raises(RefusedError) as raised:
        check(shape(TINY, tmp_path), ask)
    assert words in raised.value.line()


def test_heads_that_a_quantised_cache_does_not_go_into(tmp_path):
    one = shape(TINY._replace(width=240, head_width=30, kind=1), tmp_path)
    check(one, Ask())
    with pytest.raises(RefusedError, match="heads have 30"):
        check(one, Ask(kv_cache="q8_0"))


# --- cards ---


def test_layers_are_shared_out_and_the_last_card_has_the_output(tmp_path):
    one = shape(LLAMA_13B, tmp_path)
    placed = fewest(one, Ask(2048), [CARD] * 2)
    assert placed is not None and placed.split_mode == "layer" and sum(placed.tensor_split) == 41
    first, last = placed.sums
    assert last.compute > first.compute and abs(first.total - last.total) < 2 * one.layers[0].weights
    assert first.weights + last.weights == one.weights


def test_one_card_is_the_smallest_that_does(tmp_path):
    one = shape(QWEN_7B, tmp_path)
    placed = fewest(one, Ask(), [24 * GIB, CARD, 4 * GIB, 11 * GIB])
    assert placed is not None and placed.cards == (1,) and placed.split_mode == "none" and placed.tensor_split == (29,)


def test_several_cards_are_the_largest_and_each_gets_what_it_can_hold(tmp_path):
    one = shape(LLAMA_13B, tmp_path)
    placed = fewest(one, Ask(2048), [6 * GIB, CARD, 6 * GIB, 11 * GIB])
    assert placed is not None and placed.cards == (1, 3)
    small, large = placed.sums
    assert small.total <= CARD and large.total <= 11 * GIB and large.layers > small.layers
    assert fewest(one, Ask(2048), [6 * GIB, CARD, 6 * GIB, 11 * GIB], most=1) is None
    assert fewest(one, Ask(2048), [4 * GIB, 4 * GIB]) is None and fewest(one, Ask(), []) is None


def test_cards_asked_for_all_get_layers_however_large(tmp_path):
    one = shape(TINY, tmp_path)
    for cards in range(1, 6):
        sums = place(one, Ask(), [CARD] * cards)
        assert sums is not None and len(sums) == cards and min(card.layers for card in sums) >= 1
    assert place(one, Ask(), [CARD] * 6) is None


SHAPES = st.builds(
    lambda layers, output, vocabulary: Shape(
        tuple(Layer(*one) for one in layers), output, 0, 8, 512, 1024, vocabulary, 4096, (64, 64)
    ),
    st.lists(
        st.tuples(st.integers(0, 500 * MIB), st.integers(0, 4096), st.integers(0, 4096), st.sampled_from([0, 0, 512])),
        min_size=1,
        max_size=40,
    ),
    st.integers(0, GIB),
    st.integers(0, 200_000),
)
ASKS = st.builds(
    lambda *some: Ask(*some), st.integers(1, 20_000), st.integers(1, 4), st.sampled_from(["f16", "q8_0", "q4_0"])
)


@given(SHAPES, ASKS, st.lists(st.integers(0, 12 * GIB), min_size=1, max_size=5), st.integers(-200 * MIB, GIB))
def test_what_is_placed_fits_and_what_is_not_could_not(one, ask, capacities, surplus):
    costs = Costs(surplus=surplus)
    sums = place(one, ask, capacities, costs)
    if sums is not None:
        counts = [card.layers for card in sums]
        assert sums == spread(one, ask, counts, costs)
        assert all(card.total <= room for card, room in zip(sums, capacities, strict=True))
        assert sum(card.weights for card in sums) == one.weights
    assert (sums is not None) == _fits_somehow(one, ask, capacities, costs)


def _fits_somehow(one: Shape, ask: Ask, capacities: list[int], costs: Costs) -> bool:
    """By dynamic programming over the layers, told apart from how place() goes about it."""
    units, cards = len(one.layers) + 1, len(capacities)
    if cards > units:
        return False
    whole = [layer.weights + kv_bytes(layer, ask) for layer in one.layers] + [one.output]
    reached = {0}
    for card, room in enumerate(capacities):
        rest = compute_bytes(one, ask, cards=cards, last=card == cards - 1) + costs.context + costs.surplus
        reached = {
            end
            for begin in reached
            for end in range(begin + 1, units + 1)
            if sum(whole[begin:end]) + max(0, rest) <= room
        }
    return units in reached


@given(SHAPES, ASKS, st.integers(1, 20_000))
def test_more_is_never_less(one, ask, more):
    assert total(one, ask._replace(context=ask.context + more)) >= total(one, ask)
    assert total(one, ask._replace(parallel=ask.parallel + 1)) >= total(one, ask)


def test_layers_that_do_not_come_out_even_are_refused(tmp_path):
    one = shape(TINY, tmp_path)
    for counts in ([4], [6], [5, 0], [3, 3]):
        with pytest.raises(ValueError, match="share out"):
            spread(one, Ask(), counts)


# --- what was measured ---


def test_measured_peaks_correct_the_sum(tmp_path):
    one = shape(QWEN_7B, tmp_path)
    [guess] = spread(one, Ask(), [29])
    costs = corrected(Costs(), [Run(guess.total, guess.total + 100 * MIB), Run(guess.total, guess.total - 50 * MIB)])
    assert costs.surplus == 100 * MIB
    assert spread(one, Ask(), [29], costs)[0].total == guess.total + 100 * MIB
    # What one context taught holds for another.
    [larger] = spread(one, Ask(8192), [29])
    assert spread(one, Ask(8192), [29], costs)[0].total == larger.total + 100 * MIB


def test_a_correction_downwards_never_goes_below_weights_and_cache(tmp_path):
    one = shape(QWEN_7B, tmp_path)
    [guess] = spread(one, Ask(), [29])
    less = corrected(Costs(), [Run(guess.total, guess.total - 20 * MIB)])
    assert spread(one, Ask(), [29], less)[0].total == guess.total - 20 * MIB
    nonsense = corrected(Costs(), [Run(guess.total, 0)])
    assert spread(one, Ask(), [29], nonsense)[0].total == guess.weights + guess.kv
    assert corrected(less, []) == less
