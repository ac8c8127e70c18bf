"""The test's patterns in Python, word for word what kernels/memtest.cu computes: for the simulated card and for reading
findings. A word is 64 bits; ``i`` is its index, counted through all allocations."""

from __future__ import annotations

HASH = 0
ROTATE = 1
MODULO_OWN = 2
MODULO_REST = 3

#: What modulo-20 is modulo.
MODULUS = 20
ALL_ONES = (1 << 64) - 1
_LOW = (1 << 32) - 1


def mix(x: int) -> int:
    """MurmurHash3's 32-bit finalizer (Austin Appleby, public domain): a bijection of 32-bit numbers."""
    x ^= x >> 16
    x = x * 0x85EBCA6B & _LOW
    x ^= x >> 13
    x = x * 0xC2B2AE35 & _LOW
    return x ^ x >> 16


def unmix(x: int) -> int:
    """The number whose ``mix`` is ``x``."""
    x ^= x >> 16
    x = x * 0x7ED1B41D & _LOW
    x ^= x >> 13 ^ x >> 26
    x = x * 0xA5CB9243 & _LOW
    return x ^ x >> 16


def word(kind: int, i: int, a: int, b: int) -> int:
    """What word ``i`` holds under a pattern. (The modulo kinds touch only some words: see ``touches``.)"""
    if kind == HASH:
        low = mix((i ^ a) & _LOW)
        high = mix(low ^ (i ^ a) >> 32)
        return (high << 32 | low) ^ b
    if kind == ROTATE:
        bits = i * b & 63
        return (a << bits | a >> (64 - bits)) & ALL_ONES
    return a


def touches(kind: int, i: int, b: int) -> bool:
    """Whether a pattern writes and checks word ``i`` at all."""
    if kind == MODULO_OWN:
        return i % MODULUS == b
    if kind == MODULO_REST:
        return i % MODULUS != b
    return True


def unhash(observed: int, a: int, b: int) -> int:
    """The index that a word of kind HASH was written for: ``unhash(word(HASH, i, a, b), a, b) == i`` for every i."""
    observed ^= b
    low = observed & _LOW
    high = unmix(observed >> 32) ^ low
    return (high << 32 | unmix(low)) ^ a
