"""A real GGUF of 0.5 MB for the demo and the tests: a llama with random weights, as any llama.cpp loads it.

    path = write("/tmp/x/tiny.gguf")                  # needs gguf and numpy (extra `llama`); 30 ms
    path = write("/tmp/x/other.gguf", seed=2)         # another model: another file, other answers
    python demo/llama/tiny_model.py tiny.gguf [SEED]

Tokens are bytes and printable ASCII: a word of four letters is five tokens. It answers nonsense, and ends where
``n_predict`` ends (its end token comes up by chance: pass ``ignore_eos``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gguf

#: Heads of 32 values: a quantized cache comes in blocks of so many.
CONTEXT, EMBEDDING, HEADS, KV_HEADS, LAYERS, FEED_FORWARD = 2048, 64, 2, 1, 4, 192
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
#: The answers of a chat are the same whatever the model: no template of a real one is needed.
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def write(path: str | Path, *, seed: int = 104, name: str = "tiny-random-llama", context: int = CONTEXT) -> Path:
    """Write the model; returns its path."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    tokens = _vocabulary(writer)
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_chat_template(TEMPLATE)
    _weights(writer, tokens, seed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def _vocabulary(writer: gguf.GGUFWriter) -> int:
    """Specials, a token a byte, and what can be printed: every input can be tokenized. Returns how many."""
    pieces = [(b"<unk>", UNKNOWN), (b"<s>", CONTROL), (b"</s>", CONTROL)]
    pieces += [(f"<0x{value:02X}>".encode(), BYTE) for value in range(256)]
    pieces += [("\u2581".encode(), NORMAL), *((bytes([value]), NORMAL) for value in range(33, 127))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _kind in pieces])
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types([kind for _token, kind in pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    return len(pieces)


def _weights(writer: gguf.GGUFWriter, tokens: int, seed: int) -> None:
    """Random, and small enough that nothing overflows; norms are ones."""
    import numpy as np

    random = np.random.default_rng(seed)
    kv = EMBEDDING // HEADS * KV_HEADS
    layer = {
        "attn_q": (EMBEDDING, EMBEDDING),
        "attn_k": (kv, EMBEDDING),
        "attn_v": (kv, EMBEDDING),
        "attn_output": (EMBEDDING, EMBEDDING),
        "ffn_gate": (FEED_FORWARD, EMBEDDING),
        "ffn_up": (FEED_FORWARD, EMBEDDING),
        "ffn_down": (EMBEDDING, FEED_FORWARD),
    }
    shapes = {"token_embd": (tokens, EMBEDDING), "output": (tokens, EMBEDDING)}
    shapes |= {f"blk.{i}.{what}": shape for i in range(LAYERS) for what, shape in layer.items()}
    for what, shape in shapes.items():
        data = random.standard_normal(shape) / np.sqrt(shape[-1])
        writer.add_tensor(f"{what}.weight", data.astype(np.float16))
    norms = ["output_norm", *(f"blk.{i}.{what}_norm" for i in range(LAYERS) for what in ("attn", "ffn"))]
    for what in norms:
        writer.add_tensor(f"{what}.weight", np.ones(EMBEDDING, dtype=np.float32))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: tiny_model.py MODEL.gguf [SEED]")
    write(sys.argv[1], seed=int(sys.argv[2]) if len(sys.argv) == 3 else 104)
