"""Compiles the memory test's kernels to PTX: ``python tools/ptx.py`` writes p104d/memtest/kernels/memtest.ptx.

``--check`` writes nothing: a fresh build must equal the file in the tree, and ptxas must assemble it for every kind of
card in ``CARDS`` without spilling registers. The compilers are wheels of fixed version (the extra ``ptx``): only then
is a build the same text everywhere. Exit codes: 0 done, 1 what is built differs or does not assemble, 2 no compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

VERSION = "12.9.86"
KERNELS = Path(__file__).resolve().parents[1] / "p104d" / "memtest" / "kernels"
SOURCE = KERNELS / "memtest.cu"
TARGET = KERNELS / "memtest.ptx"
#: Pascal (P104-100, GTX 10xx), Turing, Hopper, Blackwell: the oldest we serve and the newest this ptxas knows.
CARDS = ("sm_61", "sm_75", "sm_90", "sm_120")
#: CUDA 8's, the first with sm_61 that later drivers share; NVRTC 12.9 writes its own 8.8, which a driver older than
#: CUDA 12.9 refuses. ptxas checks that the text uses nothing newer than it declares.
PTX_VERSION = "5.0"
OPTIONS = ("--gpu-architecture=compute_61", "--std=c++17")
HEADER = f"""//
// Compiled from memtest.cu by NVRTC {VERSION}; do not edit: `make ptx` writes it.
//
"""


class Problem(Exception):
    """What went wrong, in one line with the mend, and the exit code that goes with it."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def tool(package: str, name: str) -> Path:
    """A file of an installed compiler wheel."""
    mend = f"install the extra `ptx`: pip install {package}=={VERSION}"
    try:
        wheel = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        raise Problem(f"{package} is not installed: {mend}", 2) from None
    if wheel.version != VERSION:
        raise Problem(f"{package} is {wheel.version}, and another version writes another text: {mend}", 2)
    for file in wheel.files or ():
        path = Path(str(wheel.locate_file(file)))
        if file.name == name and path.is_file():
            return path
    raise Problem(f"{package} has no {name}: {mend}", 2)


def compiled(source: Path = SOURCE) -> str:
    """The kernels as PTX, the same text on every machine."""
    nvrtc = ctypes.CDLL(str(tool("nvidia-cuda-nvrtc-cu12", "libnvrtc.so.12")))
    program = ctypes.c_void_p()
    name = source.name.encode()  # the bare name: a path would be a different text in every checkout
    code = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), name, 0, None, None)
    if code:
        raise Problem(f"{source}: NVRTC refuses it with code {code}", 1)
    try:
        options = (ctypes.c_char_p * len(OPTIONS))(*(option.encode() for option in OPTIONS))
        if nvrtc.nvrtcCompileProgram(program, len(OPTIONS), options):
            raise Problem(f"{source} does not compile:\n{_text(nvrtc, program, 'ProgramLog')}", 1)
        return lowered(_text(nvrtc, program, "PTX"))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    nvrtc[f"nvrtcGet{what}Size"](program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    nvrtc[f"nvrtcGet{what}"](program, buffer)
    return buffer.value.decode()


def lowered(ptx: str) -> str:
    """NVRTC's text with our header, the old PTX version and without trailing blanks."""
    body, found = re.subn(r"^\.version \S+$", f".version {PTX_VERSION}", ptx, count=1, flags=re.M)
    if not found:
        raise Problem("NVRTC's text has no .version line: tools/ptx.py does not know this compiler", 1)
    start = body.index(f".version {PTX_VERSION}")
    lines = (line.rstrip() for line in body[start:].splitlines())
    return HEADER + "\n" + "\n".join(lines).rstrip() + "\n"


def assembled(card: str, ptx: Path = TARGET) -> list[str]:
    """ptxas's figures of each kernel for one kind of card, one line each; an error where registers are spilled."""
    ptxas = tool("nvidia-cuda-nvcc-cu12", "ptxas")
    with tempfile.TemporaryDirectory() as folder:
        command = [str(ptxas), f"--gpu-name={card}", "--verbose", "-o", f"{folder}/out.cubin", str(ptx)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem(f"{ptx} does not assemble for {card}:\n{done.stdout}{done.stderr}", 1)
    figures = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers",
        done.stdout + done.stderr,
        flags=re.S,
    )
    if len(figures) != len(re.findall(r"\.entry", ptx.read_text())):
        raise Problem(f"{ptx}: ptxas told no figures of some kernel for {card}:\n{done.stderr}", 1)
    spilling = [name for name, *bytes_, _ in figures if any(int(number) for number in bytes_)]
    if spilling:
        raise Problem(f"{ptx}: {', '.join(spilling)} spills registers on {card}: make it smaller", 1)
    return [f"{card}: {name}: {registers} registers" for name, _, _, _, registers in figures]


def check() -> None:
    """Refuse a file in the tree that is not what the source compiles to, or that some card cannot take."""
    if not TARGET.exists() or TARGET.read_text() != compiled():
        raise Problem(f"{TARGET} is not what {SOURCE.name} compiles to: run `make ptx` and commit the result", 1)
    for card in CARDS:
        print("\n".join(assembled(card)))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compile the memory test's kernels to PTX.")
    parser.add_argument("--check", action="store_true", help="write nothing; is the file in the tree up to date?")
    try:
        if parser.parse_args(arguments).check:
            check()
        else:
            TARGET.write_text(compiled())
            print(f"ptx: wrote {TARGET}")
    except Problem as problem:
        print(f"ptx: {problem}", file=sys.stderr)
        return problem.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
