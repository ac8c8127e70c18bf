"""GGUF files for tests: headers as llama.cpp's converters write them, the tensors' data a hole (sparse files)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Q8_0, F32, F16 = 8, 0, 1
_BLOCKS = {F32: (1, 4), F16: (1, 2), Q8_0: (32, 34), 2: (32, 18), 12: (256, 144)}
ALIGNMENT = 32


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(one: Any) -> bytes:
    """A value with its type: bool, u32 (u64 if large, i64 if negative), f32, text, and lists of these."""
    if isinstance(one, list | tuple):
        # A vocabulary of one word a hundred thousand times is made of that word once.
        inner = {(type(each), each): value(each) for each in set(one)}
        kind = value(one[0])[:4] if one else struct.pack("<I", 4)
        body = b"".join([inner[type(each), each][4:] for each in one])
        return struct.pack("<I", 9) + kind + struct.pack("<Q", len(one)) + body
    if isinstance(one, bool):
        return struct.pack("<IB", 7, one)
    if isinstance(one, int):
        return (
            struct.pack("<II", 4, one)
            if 0 <= one < 2**32
            else struct.pack("<Iq" if one < 0 else "<IQ", 11 if one < 0 else 10, one)
        )
    if isinstance(one, float):
        return struct.pack("<If", 6, one)
    return struct.pack("<I", 8) + string(one)


class Tensor(NamedTuple):
    name: str
    dimensions: tuple[int, ...]
    kind: int = Q8_0

    @property
    def size(self) -> int:
        block, size = _BLOCKS.get(self.kind, (1, 4))
        numbers = 1
        for one in self.dimensions:
            numbers *= one
        return -(-numbers // block) * size


def header(metadata: Mapping[str, Any], tensors: Iterable[Tensor], *, version: int = 3) -> tuple[bytes, int]:
    """The header's bytes, padded, and how many bytes of data follow."""
    tensors = list(tensors)
    parts = [b"GGUF", struct.pack("<IQQ", version, len(tensors), len(metadata))]
    parts += [string(key) + value(one) for key, one in metadata.items()]
    offset = 0
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.dimensions)}Q", len(tensor.dimensions), *tensor.dimensions)
        parts.append(string(tensor.name) + shape + struct.pack("<IQ", tensor.kind, offset))
        offset += -(-tensor.size // ALIGNMENT) * ALIGNMENT
    raw = b"".join(parts)
    return raw + bytes(-len(raw) % ALIGNMENT), offset


def write(path: Path, metadata: Mapping[str, Any], tensors: Iterable[Tensor], *, version: int = 3) -> Path:
    """A whole file: its header, and a hole for the data."""
    raw, size = header(metadata, tensors, version=version)
    path.write_bytes(raw)
    os.truncate(path, len(raw) + size)
    return path


class Llama(NamedTuple):
    """A dense model of llama's kind; numbers as the model's own configuration has them."""

    architecture: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int
    head_width: int = 128
    biases: bool = False
    kind: int = Q8_0
    tied: bool = False

    def metadata(self) -> dict[str, Any]:
        """What a converter writes; the vocabulary's words are short."""
        own = {
            "block_count": self.layers,
            "context_length": self.context,
            "embedding_length": self.width,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.layer_norm_rms_epsilon": 1e-5,
        }
        if self.head_width != self.width // self.heads:
            own |= {"attention.key_length": self.head_width, "attention.value_length": self.head_width}
        return {
            "general.architecture": self.architecture,
            "general.name": f"{self.architecture} of the tests",
            "general.file_type": 7,
            **{f"{self.architecture}.{key}": one for key, one in own.items()},
            "tokenizer.ggml.tokens": ["a"] * self.vocabulary,
        }

    def layer(self, place: int) -> list[Tensor]:
        """The tensors of one layer."""
        queries, kept = self.heads * self.head_width, self.kv_heads * self.head_width
        matrices = {
            "attn_q": (self.width, queries),
            "attn_k": (self.width, kept),
            "attn_v": (self.width, kept),
            "attn_output": (queries, self.width),
            "ffn_gate": (self.width, self.feed_forward),
            "ffn_up": (self.width, self.feed_forward),
            "ffn_down": (self.feed_forward, self.width),
        }
        found = [Tensor(f"blk.{place}.{name}.weight", shape, self.kind) for name, shape in matrices.items()]
        found += [Tensor(f"blk.{place}.{name}.weight", (self.width,), F32) for name in ("attn_norm", "ffn_norm")]
        if self.biases:
            sizes = {"attn_q": queries, "attn_k": kept, "attn_v": kept}
            found += [Tensor(f"blk.{place}.{name}.bias", (size,), F32) for name, size in sizes.items()]
        return found

    def tensors(self) -> list[Tensor]:
        """All of them."""
        found = [Tensor("token_embd.weight", (self.width, self.vocabulary), self.kind)]
        for place in range(self.layers):
            found += self.layer(place)
        found.append(Tensor("output_norm.weight", (self.width,), F32))
        if not self.tied:
            found.append(Tensor("output.weight", (self.width, self.vocabulary), self.kind))
        return found

    def write(self, path: Path, **more: Any) -> Path:
        """The file, with ``more`` metadata (dots as double underscores)."""
        return write(path, self.metadata() | {key.replace("__", "."): one for key, one in more.items()}, self.tensors())

    def write_split(self, folder: Path, count: int, stem: str = "model") -> list[Path]:
        """The same in parts, as llama-gguf-split writes them: metadata in the first alone."""
        tensors = self.tensors()
        paths = []
        for number in range(count):
            mine = tensors[number * len(tensors) // count : (number + 1) * len(tensors) // count]
            split = {"split.no": number, "split.count": count, "split.tensors.count": len(tensors)}
            path = folder / f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"
            paths.append(write(path, (self.metadata() if number == 0 else {}) | split, mine))
        return paths


TINY = Llama("llama", 4, 256, 512, 8, 2, 300, 4096, head_width=32)
QWEN_7B = Llama("qwen2", 28, 3584, 18944, 28, 4, 152064, 32768, biases=True)
MISTRAL_7B = Llama("llama", 32, 4096, 14336, 32, 8, 32000, 32768)
LLAMA_8B = Llama("llama", 32, 4096, 14336, 32, 8, 128256, 131072)
NEMO_12B = Llama("llama", 40, 5120, 14336, 32, 8, 131072, 131072)
LLAMA_13B = Llama("llama", 40, 5120, 13824, 40, 40, 32000, 4096)
