"""The reader of GGUF headers: what it finds in real ones, and what it says of everything else."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from gguf_files import QWEN_7B, TINY, Tensor, header, string, value, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torture import amount

from p104d.engines.gguf import Listed, Model, ModelFileError, ModelPathError, read_model
from p104d.engines.gguf_types import KINDS
from p104d.engines.model_memory_shape import shape_of

ROOT = Path(__file__).resolve().parents[2]


def refused(path: Path | str) -> str:
    """The one line that is said of a file."""
    with pytest.raises(ModelFileError) as raised:
        read_model(str(path))
    line = raised.value.line()
    assert str(path) in line and raised.value.mend and "\n" not in line
    return line


# --- what is found ---


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_as_it_is_written(tmp_path, version):
    more = {"a.flag": True, "a.less": -5, "a.large": 2**40, "a.real": 0.5, "a.some": [1, 2, 3], "a.none": []}
    path = write(tmp_path / "m.gguf", TINY.metadata() | more, TINY.tensors(), version=version)
    model = read_model(str(path))
    assert (
        more.items()
        <= {key: list(one) if isinstance(one, tuple) else one for key, one in model.metadata.items()}.items()
    )
    assert (model.version, model.architecture, model.file_type) == (version, "llama", "Q8_0")
    assert model.metadata["tokenizer.ggml.tokens"] == Listed(8, 300)
    assert [(one.name, one.dimensions, one.kind, one.size) for one in model.tensors] == [
        (one.name, one.dimensions, one.kind, one.size) for one in TINY.tensors()
    ]
    found = os.stat(path)
    assert model.parts == ((str(path), found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns),)
    assert model.size == found.st_size and model.path == str(path)


def test_it_agrees_with_the_writer_and_the_reader_of_gguf(tmp_path):
    gguf, numpy = pytest.importorskip("gguf"), pytest.importorskip("numpy")
    path = tmp_path / "theirs.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_head_count_kv([4, 2])
    writer.add_token_list(["<s>", "ä", "x" * 5000])
    writer.add_token_scores([0.0, 1.5, 2.5])
    writer.add_name("Ein Größeres")
    writer.add_custom_alignment(64)
    kinds = [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_0]
    writer.add_tensor("token_embd.weight", numpy.zeros((3, 96), dtype=numpy.float16))
    for place, kind in enumerate(kinds):
        raw = gguf.quantize(numpy.zeros((5, 64), dtype=numpy.float32), kind)
        writer.add_tensor(f"blk.{place}.attn_k.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = read_model(str(path))
    assert model.metadata["llama.attention.head_count_kv"] == (4, 2)
    assert model.metadata["tokenizer.ggml.scores"] == (0.0, 1.5, 2.5)
    assert model.text("general.name") == "Ein Größeres" and model.metadata["tokenizer.ggml.tokens"] == Listed(8, 3)
    theirs = gguf.GGUFReader(path).tensors
    assert [(one.name, list(one.dimensions), one.size) for one in model.tensors] == [
        (one.name, one.shape.tolist(), one.n_bytes) for one in theirs
    ]


def test_the_kinds_of_numbers_are_those_of_ggml():
    constants = pytest.importorskip("gguf.constants")
    theirs = {kind.value: (kind.name.lower(), *constants.GGML_QUANT_SIZES[kind]) for kind in constants.GGML_QUANT_SIZES}
    assert {number: tuple(KINDS[number]) for number in theirs if number in KINDS} == {
        number: one for number, one in theirs.items() if number in KINDS
    }
    assert len(set(theirs) & set(KINDS)) >= 30


def test_a_large_vocabulary_costs_little(tmp_path):
    """150,000 words and 280,000 merges, in a file of seven gigabytes of which only the header is read."""
    words = {"tokenizer.ggml.tokens": ["Ġtoken"] * 150_000, "tokenizer.ggml.merges": ["Ġto ken"] * 280_000}
    more = words | {"tokenizer.ggml.scores": [0.5] * 150_000, "tokenizer.chat_template": "x" * 100_000}
    path = write(tmp_path / "large.gguf", QWEN_7B.metadata() | more, QWEN_7B.tensors())
    assert path.stat().st_size > 7 * 2**30
    # Processor time, the shortest of several, and ten times what it takes: the machine may be busy with other things.
    assert min(_seconds(path) for _ in range(3)) < 0.5
    tracemalloc.start()
    model = read_model(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20 and model.metadata["tokenizer.ggml.merges"] == Listed(8, 280_000)
    assert len(str(model.metadata["tokenizer.chat_template"])) == 1024


def _seconds(path: Path) -> float:
    begin = time.process_time()
    read_model(str(path))
    return time.process_time() - begin


def test_a_link_is_followed(tmp_path):
    TINY.write(tmp_path / "real.gguf")
    (tmp_path / "link.gguf").symlink_to("real.gguf")
    model = read_model(str(tmp_path / "link.gguf"))
    assert model.path.endswith("link.gguf") and model.parts[0].inode == (tmp_path / "real.gguf").stat().st_ino


def test_a_kind_of_numbers_from_the_future_takes_the_room_it_has(tmp_path):
    tensors = [*TINY.tensors(), Tensor("blk.0.new.weight", (256, 64), 77), Tensor("blk.1.new.weight", (256, 32), 77)]
    model = read_model(str(write(tmp_path / "new.gguf", TINY.metadata(), tensors)))
    new = [one for one in model.tensors if not one.known]
    assert [one.size for one in new] == [256 * 64 * 4, 256 * 32 * 4]
    assert "newer than this p104d" in shape_of(model).notes[0]


# --- split models ---


def test_the_parts_are_one_model(tmp_path):
    whole = read_model(str(TINY.write(tmp_path / "whole.gguf")))
    paths = TINY.write_split(tmp_path, 3)
    model = read_model(str(paths[0]))
    assert [part.path for part in model.parts] == [str(path) for path in paths]
    assert model.size == sum(path.stat().st_size for path in paths)
    assert [(one.name, one.size) for one in model.tensors] == [(one.name, one.size) for one in whole.tensors]
    assert model.metadata == whole.metadata and shape_of(model) == shape_of(whole)


def test_a_missing_part_is_named(tmp_path):
    paths = TINY.write_split(tmp_path, 3)
    paths[1].unlink()
    with pytest.raises(ModelFileError) as raised:
        read_model(str(paths[0]))
    assert "model-00002-of-00003.gguf: no such file" in raised.value.line() and raised.value.exit_code == 4


def test_parts_that_do_not_go_together(tmp_path):
    paths = TINY.write_split(tmp_path, 3)
    with pytest.raises(ModelFileError, match="not the first part"):
        read_model(str(paths[1]))
    paths[2].write_bytes(paths[1].read_bytes())
    os.truncate(paths[2], paths[1].stat().st_size)
    with pytest.raises(ModelFileError, match=r"00003-of-00003\.gguf: is not part 3 of 3"):
        read_model(str(paths[0]))
    other = TINY._replace(layers=2).write_split(tmp_path, 3, "other")
    paths[2].unlink()
    other[2].rename(paths[2])
    with pytest.raises(ModelFileError, match="tensors, not the"):
        read_model(str(paths[0]))


def test_a_part_that_lacks_a_tensor(tmp_path):
    paths, tensors = TINY.write_split(tmp_path, 3), TINY.tensors()
    split = {"split.no": 2, "split.count": 3, "split.tensors.count": len(tensors)}
    write(paths[2], split, tensors[2 * len(tensors) // 3 : -1])
    with pytest.raises(ModelFileError, match=f"have {len(tensors) - 1} tensors, not the {len(tensors)}"):
        read_model(str(paths[0]))


def test_a_part_under_another_name(tmp_path):
    first, *_ = TINY.write_split(tmp_path, 3)
    renamed = first.rename(tmp_path / "first.gguf")
    assert "rename it to NAME-00001-of-00003.gguf" in refused(renamed)


# --- what is no model ---


def test_nothing_to_read(tmp_path, monkeypatch):
    assert "no such file" in refused(tmp_path / "none.gguf")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "dangling.gguf").symlink_to("gone.gguf")
    assert "is a link to gone.gguf, which is not there" in refused(tmp_path / "dangling.gguf")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    assert "too many levels of symbolic links" in refused(tmp_path / "loop.gguf")
    assert "not a directory" in refused(Path(__file__) / "x.gguf")
    assert "file name too long" in refused(tmp_path / ("x" * 300))
    with pytest.raises(ModelPathError) as raised:
        read_model("a\0b.gguf")
    assert raised.value.exit_code == 2


def test_a_fifo_a_device_and_a_socket_are_not_even_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
        for path, words in {"fifo": "is a FIFO", "socket": "is a socket", "/dev/null": "is a device"}.items():
            assert words in refused(path)


def test_a_file_exchanged_for_a_fifo_between_two_looks(tmp_path, monkeypatch):
    """No reader may wait for a writer of a FIFO, also when it took a file's place a moment ago."""
    fifo, plain = tmp_path / "fifo", os.stat(__file__)
    os.mkfifo(fifo)
    monkeypatch.setattr(os, "stat", lambda *_: plain)
    assert "is a FIFO" in refused(fifo)


def test_no_permission(tmp_path):
    path = TINY.write(tmp_path / "secret.gguf")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    assert "permission denied; let this user read it" in refused(path)


def test_no_permission_as_the_system_says_it(tmp_path, monkeypatch):
    path = TINY.write(tmp_path / "secret.gguf")
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert "permission denied; let this user read it" in refused(path)


def test_a_disk_that_fails_and_a_file_that_shrinks(tmp_path, monkeypatch):
    path = TINY.write(tmp_path / "m.gguf")
    monkeypatch.setattr(os, "pread", lambda *_: b"GGUF")
    assert "became shorter while it was read" in refused(path)
    monkeypatch.setattr(os, "pread", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    assert "cannot be read: input/output error; check the disk" in refused(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"GG", "is no GGUF file: it has 2 bytes"),
        (b"hello world", "is no GGUF file;"),
        (bytes(100), "begins with zeros"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"PK\x03\x04" + bytes(50), "convert_hf_to_gguf"),
        (b"tjgg" + bytes(50), "old GGML file"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(50), "GGUF version 1"),
        (b"GGUF" + struct.pack("<I", 4) + bytes(50), "GGUF version 4"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(50), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + bytes(50), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(50), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**63) + bytes(50), "a key of 92233720368547"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<I", 99), "unknown type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(b"\xff\xfe") + bytes(50), "no UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<IIQ", 9, 9, 1), "list of lists"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<IIQ", 9, 8, 2**62), "texts"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<IIQ", 9, 10, 2**62), "ends beyond byte"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<IQ", 8, 2**62) + bytes(2000), "beyond"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (string("k") + value(1)), "'k' stands in it twice"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("general.alignment") + value(3), "alignment of 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<I", 9), "has 9 dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 7, 8, 0), "rows of 7 q8_0"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 7, 0, 5), "begins at 5"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 7, 31, 0), "reads no more"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 7, 999, 0), "of kind 999"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("t") + struct.pack("<IQIQ", 1, 2**62, 0, 0), "cut short"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + 2 * (string("t") + struct.pack("<IQIQ", 1, 0, 0, 0)), "twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, words):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert words in refused(path)


def test_a_file_cut_anywhere_is_noticed(tmp_path):
    """In its header, and in the data, down to the last byte."""
    path = TINY.write(tmp_path / "m.gguf")
    raw, size = path.read_bytes(), path.stat().st_size
    begin = len(header(TINY.metadata(), TINY.tensors())[0])
    for length in [*range(0, begin, 31), begin, begin + 1, size // 2, size - 1 - 31]:
        path.write_bytes(raw[:length])
        line = refused(path)
        if length >= begin:
            assert f"is cut short: it has {length} of " in line
        elif length >= 8:
            assert "cut short" in line


def test_data_may_end_without_padding(tmp_path):
    """llama.cpp pads the last tensor too, but asks for no more than its bytes."""
    path = write(tmp_path / "m.gguf", {"general.architecture": "x"}, [Tensor("t", (3,), 0)])
    size = path.stat().st_size
    os.truncate(path, size - 20)
    assert read_model(str(path)).tensors[0].size == 12
    os.truncate(path, size - 21)
    assert "cut short" in refused(path)


# --- whatever is in a file ---


def test_the_worst_that_fits_the_bounds_is_still_quick(tmp_path):
    """All texts allowed, all empty, from a hole: the most work for the fewest bytes. With little memory."""
    path = tmp_path / "worst.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("k") + struct.pack("<IIQ", 9, 8, 4_000_000))
    os.truncate(path, 100 * 2**20)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (120 * 2**20,) * 2)\n"
        "from p104d.engines.gguf import read_model\n"
        "print(len(read_model(sys.argv[1]).metadata))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, path],
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("1\n", "")


BASE = header(TINY.metadata(), TINY.tensors())[0]
CHANGES = st.lists(
    st.tuples(
        st.integers(0, len(BASE) - 1),
        st.one_of(
            st.binary(min_size=1, max_size=12),
            st.sampled_from([struct.pack("<Q", one) for one in (0, 1, 255, 2**31, 2**32 - 1, 2**63, 2**64 - 1)]),
        ),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.torture
@settings(max_examples=amount(150, 5000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CHANGES, st.integers(0, len(BASE)), st.booleans())
def test_a_damaged_header_is_read_or_refused(tmp_path, changes, cut, whole):
    raw = bytearray(BASE)
    for place, some in changes:
        raw[place : place + len(some)] = some
    found = harmless(tmp_path / "f.gguf", bytes(raw if whole else raw[:cut]), 2**21)
    if found is not None:
        harmless_shape(found)


@pytest.mark.torture
@settings(max_examples=amount(100, 3000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.booleans())
def test_junk_is_refused(tmp_path, raw, begun):
    start = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) if begun else b""
    harmless(tmp_path / "f.gguf", start + raw, len(start) + len(raw))


NUMBERS = st.one_of(st.integers(-10, 5000), st.sampled_from([2**31, 2**63]), st.floats(width=32), st.text(max_size=5))


@pytest.mark.torture
@settings(max_examples=amount(120, 5000), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from([key for key in TINY.metadata() if key.startswith("llama.")]
            + [f"llama.{key}" for key in ("attention.key_length", "attention.sliding_window", "vocab_size",
                "expert_used_count", "attention.shared_kv_layers", "ssm.inner_size", "wkv.head_size")]
            + ["general.architecture", "split.count", "split.no", "tokenizer.ggml.tokens"]),
        st.one_of(NUMBERS, st.booleans(), st.lists(st.integers(0, 100), max_size=5)),
        min_size=1,
    )
)  # fmt: skip
def test_whatever_the_metadata_say_a_model_is_summed_or_refused(tmp_path, more):
    raw, size = header(TINY.metadata() | more, TINY.tensors())
    found = harmless(tmp_path / "f.gguf", raw, len(raw) + size)
    if found is not None:
        harmless_shape(found)


def harmless(path: Path, raw: bytes, size: int) -> Model | None:
    """The model, or None where it was refused as it should be; anything else fails the test."""
    path.write_bytes(raw)
    os.truncate(path, max(size, len(raw)))
    begin = time.process_time()
    try:
        return read_model(str(path))
    except ModelFileError as error:
        assert error.mend and len(error.line()) < 1000
        return None
    finally:
        assert time.process_time() - begin < 2.0


def harmless_shape(model: Model) -> None:
    try:
        one = shape_of(model)
    except ModelFileError as error:
        assert error.mend and len(error.line()) < 1000
    else:
        assert one.weights >= 0 and all(layer.keys >= 0 and layer.state >= 0 for layer in one.layers)
