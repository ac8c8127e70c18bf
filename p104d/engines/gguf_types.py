"""The kinds of numbers in a GGUF file: how many make a block, and how many bytes a block takes.

Source: ggml's ``ggml.h`` and ``ggml-common.h``; a test compares the table with that of PyPI ``gguf``.
"""

from __future__ import annotations

from typing import NamedTuple


class Kind(NamedTuple):
    """``size`` bytes hold ``block`` numbers."""

    name: str
    block: int
    size: int

    def bytes_of(self, numbers: int) -> int:
        """Bytes of so many numbers, whole blocks."""
        return -(-numbers // self.block) * self.size


def _kinds(text: str) -> dict[int, Kind]:
    found = {}
    for line in text.split():
        number, name, block, size = line.split(":")
        found[int(number)] = Kind(name, int(block), int(size))
    return found


#: By the number that stands in the file.
KINDS = _kinds(
    """
    0:f32:1:4 1:f16:1:2 2:q4_0:32:18 3:q4_1:32:20 6:q5_0:32:22 7:q5_1:32:24 8:q8_0:32:34 9:q8_1:32:40
    10:q2_k:256:84 11:q3_k:256:110 12:q4_k:256:144 13:q5_k:256:176 14:q6_k:256:210 15:q8_k:256:292
    16:iq2_xxs:256:66 17:iq2_xs:256:74 18:iq3_xxs:256:98 19:iq1_s:256:50 20:iq4_nl:32:18 21:iq3_s:256:110
    22:iq2_s:256:82 23:iq4_xs:256:136 24:i8:1:1 25:i16:1:2 26:i32:1:4 27:i64:1:8 28:f64:1:8 29:iq1_m:256:56
    30:bf16:1:2 34:tq1_0:256:54 35:tq2_0:256:66 39:mxfp4:32:17 40:nvfp4:64:36 41:q1_0:128:18
    """
)

#: Kinds that llama.cpp had once and reads no more.
REMOVED = frozenset({4, 5, 31, 32, 33, 36, 37, 38})

#: A larger number is damage; up to here it may be a kind invented after this table was written.
LARGEST_NUMBER = 255

#: What the cache of keys and values may be kept in (llama-server's ``--cache-type-k`` and ``-v``).
CACHE_KINDS = {
    kind.name: kind
    for kind in KINDS.values()
    if kind.name in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
}

#: ``general.file_type``: how most of a model is stored, as people call it.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
    39: "NVFP4", 40: "Q1_0",
}  # fmt: skip
