"""The command line of a model's server."""

from __future__ import annotations

import pytest

from p104d.engines.model_memory import Ask
from p104d.engines.server_command import server_argv, server_environment

SOCKET = "/run/p104d/models/7.sock"
USUAL = Ask()


def argv(ask: Ask = USUAL, **more: object) -> list[str]:
    return server_argv("llama-server", "/m/a.gguf", SOCKET, ask, **({"cards": 1} | more))  # type: ignore[arg-type]


def value(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


def test_one_card():
    words = argv(Ask(4000, parallel=4))
    assert words[:5] == ["llama-server", "--model", "/m/a.gguf", "--host", SOCKET]
    assert (value(words, "--ctx-size"), value(words, "--parallel")) == (str(4096 * 4), "4")
    assert (value(words, "--n-gpu-layers"), value(words, "--ubatch-size")) == ("999", "128")
    assert value(words, "--batch-size") == "512"
    for absent in ("--split-mode", "--tensor-split", "--cache-type-k", "--embeddings", "--alias", "--flash-attn"):
        assert absent not in words


def test_several_cards():
    words = argv(cards=2, tensor_split=(17, 16))
    assert (value(words, "--split-mode"), value(words, "--tensor-split")) == ("layer", "17,16")
    assert value(argv(cards=2), "--split-mode") == "layer" and "--tensor-split" not in argv(cards=2)


def test_a_quantised_cache_has_flash_attention():
    small = Ask(kv_cache="q8_0")
    assert value(argv(small), "--cache-type-k") == value(argv(small), "--cache-type-v") == "q8_0"
    assert server_environment(small)["LLAMA_ARG_FLASH_ATTN"] == "1"
    for other in ("f16", "bf16", "f32"):
        assert "LLAMA_ARG_FLASH_ATTN" not in server_environment(Ask(kv_cache=other))
    assert value(argv(Ask(kv_cache="bf16")), "--cache-type-v") == "bf16"
    assert server_environment(Ask())["LLAMA_ARG_FIT"] == "off"


def test_embeddings():
    words = argv(Ask(1024, ubatch=1024), embeddings=True)
    assert "--embeddings" in words and "--pooling" not in words
    assert value(words, "--batch-size") == value(words, "--ubatch-size") == "1024"
    assert value(argv(embeddings=True, pooling=False), "--pooling") == "mean"
    assert "--pooling" not in argv(pooling=False), "of no use to a server that makes none"


def test_what_comes_last_wins():
    words = server_argv(
        ["/usr/bin/nice", "llama-server"], "m", SOCKET, Ask(), cards=1, alias="qwen", extra=["--ubatch-size", "64"]
    )
    assert words[:2] == ["/usr/bin/nice", "llama-server"] and value(words, "--alias") == "qwen"
    assert words[-2:] == ["--ubatch-size", "64"]


@pytest.mark.parametrize("socket", ["/run/p104d/7.socket", "/run/" + "x" * 100 + ".sock"])
def test_a_socket_that_is_none(socket):
    with pytest.raises(ValueError, match=r"ends in \.sock"):
        server_argv("llama-server", "m", socket, Ask(), cards=1)
