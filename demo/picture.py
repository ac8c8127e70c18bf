"""Render a picture in passes, each sharper than the one before, with tqdm's progress lines: a stand-in for txt2img.

    python picture.py --seed 1 --output picture.pgm

The picture is a Julia set whose constant comes from the seed. The work is real and the standard library's only.
"""

from __future__ import annotations

import argparse
import cmath
import random
import sys
import time

WIDTH, HEIGHT = 192, 144
STEPS = 30
#: Added to the depth of the iteration with each step.
DEPTH_PER_STEP = 4


def constant(seed: int) -> complex:
    """A point just outside the main cardioid of the Mandelbrot set, where Julia sets are intricate."""
    angle = random.Random(seed).uniform(0.2, 3.0)  # noqa: S311 (a picture, not a secret)
    return 1.03 * (cmath.exp(1j * angle) / 2 - cmath.exp(2j * angle) / 4)


def escape(z: complex, c: complex, depth: int) -> int:
    """How many steps ``z`` takes to leave, at most ``depth``."""
    for count in range(depth):
        if z.real * z.real + z.imag * z.imag > 4.0:
            return count
        z = z * z + c
    return depth


def render(c: complex, depth: int) -> bytes:
    """One pass: 8-bit grey pixels, row by row."""
    pixels = bytearray()
    for y in range(HEIGHT):
        imaginary = (y / HEIGHT - 0.5) * 2.4
        for x in range(WIDTH):
            count = escape(complex((x / WIDTH - 0.5) * 3.2, imaginary), c, depth)
            pixels.append(255 * count // depth)
    return bytes(pixels)


def progress(done: int, started: float) -> str:
    """tqdm's line for ``done`` of STEPS."""
    elapsed = time.monotonic() - started
    rate = done / elapsed if done and elapsed else 0.0
    left = (STEPS - done) / rate if rate else 0.0
    bar = ("█" * (10 * done // STEPS)).ljust(10)
    clocks = f"{int(elapsed) // 60:02d}:{int(elapsed) % 60:02d}<{int(left) // 60:02d}:{int(left) % 60:02d}"
    shown = f"{rate:.2f}it/s" if rate else "?it/s"
    return f"\r{100 * done // STEPS:3d}%|{bar}| {done}/{STEPS} [{clocks}, {shown}]"


def main() -> None:
    """Render and write the picture."""
    parser = argparse.ArgumentParser(description="Render a picture.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", required=True, help="a PGM file")
    args = parser.parse_args()

    c = constant(args.seed)
    started = time.monotonic()
    pixels = b""
    for step in range(STEPS + 1):
        sys.stderr.write(progress(step, started))
        sys.stderr.flush()
        if step < STEPS:
            pixels = render(c, DEPTH_PER_STEP * (step + 1))
    sys.stderr.write("\n")
    with open(args.output, "wb") as file:
        file.write(b"P5 %d %d 255\n" % (WIDTH, HEIGHT) + pixels)
    print(f"{args.output}: {WIDTH}x{HEIGHT}, c = {c:.4f}")


if __name__ == "__main__":
    main()
