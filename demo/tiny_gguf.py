"""Write a tiny llama with random weights: a real GGUF file that any llama.cpp loads, of 2.5 MB.

It answers nonsense, but loading, tokenizing, prompt processing, generation and their timings are all real.
Usage: ``python tiny_gguf.py tiny.gguf``. Needs the ``gguf`` and ``numpy`` packages (extra ``llama``).
"""

from __future__ import annotations

import sys

import gguf
import numpy as np

CONTEXT = 2048
EMBEDDING = 128
HEADS = 8
KV_HEADS = 4
LAYERS = 6
FEED_FORWARD = 384
#: Any seed does; a fixed one makes two runs of the demo answer alike.
SEED = 104

#: SentencePiece token types, as llama.cpp numbers them.
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def vocabulary() -> tuple[list[bytes], list[float], list[int]]:
    """Three specials, a token for each byte, and the printable ASCII characters: every input can be tokenized."""
    tokens = [b"<unk>", b"<s>", b"</s>"]
    types = [UNKNOWN, CONTROL, CONTROL]
    for value in range(256):
        tokens.append(f"<0x{value:02X}>".encode())
        types.append(BYTE)
    tokens.append("\u2581".encode())  # what SentencePiece writes for a space
    types.append(NORMAL)
    for value in range(33, 127):
        tokens.append(bytes([value]))
        types.append(NORMAL)
    return tokens, [0.0] * len(tokens), types


def describe(writer: gguf.GGUFWriter) -> int:
    """The keys llama.cpp asks for. Returns the size of the vocabulary."""
    tokens, scores, types = vocabulary()
    writer.add_name("tiny-random-llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    return len(tokens)


def add_weights(writer: gguf.GGUFWriter, vocabulary_size: int) -> None:
    """Random weights, small enough that nothing overflows; norms are ones and kept in float32."""
    random = np.random.default_rng(SEED)

    def weights(name: str, *shape: int) -> None:
        scale = 1.0 / np.sqrt(shape[-1])
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float16))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(EMBEDDING, dtype=np.float32))

    kv_width = EMBEDDING // HEADS * KV_HEADS
    weights("token_embd.weight", vocabulary_size, EMBEDDING)
    for layer in range(LAYERS):
        norm(f"blk.{layer}.attn_norm.weight")
        weights(f"blk.{layer}.attn_q.weight", EMBEDDING, EMBEDDING)
        weights(f"blk.{layer}.attn_k.weight", kv_width, EMBEDDING)
        weights(f"blk.{layer}.attn_v.weight", kv_width, EMBEDDING)
        weights(f"blk.{layer}.attn_output.weight", EMBEDDING, EMBEDDING)
        norm(f"blk.{layer}.ffn_norm.weight")
        weights(f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        weights(f"blk.{layer}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        weights(f"blk.{layer}.ffn_down.weight", EMBEDDING, FEED_FORWARD)
    norm("output_norm.weight")
    weights("output.weight", vocabulary_size, EMBEDDING)


def write(path: str) -> None:
    """Write the model to ``path``."""
    writer = gguf.GGUFWriter(path, "llama")
    add_weights(writer, describe(writer))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: tiny_gguf.py MODEL.gguf")
    write(sys.argv[1])
