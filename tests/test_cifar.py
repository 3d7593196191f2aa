"""CIFAR-10 in both published forms; pickles of any other kind are refused, not run."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cnncore import data
from cnncore.cli import main
from cnncore.data import _cifar

Array = npt.NDArray[Any]
RECORDS = 10
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
U1_STATE = b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"
U1 = DTYPE + b"U\2u1K\0K\1\x87R" + U1_STATE + b"b"
NOTHING = RECONSTRUCT + NDARRAY + b"K\0\x85U\1b\x87R"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch have 10 records, not 10,000."""
    monkeypatch.setattr(_cifar, "_RECORDS", RECORDS)


def batch(number: int) -> tuple[Array, Array]:
    """Return the channel-first pixels (n, 3072) and the labels of a batch."""
    rng = np.random.RandomState(number)
    return rng.randint(0, 256, (RECORDS, 3072)).astype(np.uint8), rng.permutation(RECORDS)


def binary_bytes(number: int) -> bytes:
    pixels, labels = batch(number)
    return np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes()


def string(text: bytes) -> bytes:
    """Push a string as Python 2 does."""
    if len(text) < 256:
        return b"U" + bytes([len(text)]) + text
    return b"T" + struct.pack("<i", len(text)) + text


def array_bytes(
    raw: bytes,
    shape: bytes = b"K\x0aM\x00\x0c\x86",
    dtype: bytes = U1,
    fortran: bool = False,
    version: bytes = b"K\1",
) -> bytes:
    order = b"\x88" if fortran else b"\x89"
    return NOTHING + b"(" + version + shape + dtype + order + string(raw) + b"tb"


def label_bytes(labels: Any) -> bytes:
    return b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"


def pickled(
    number: int = 0,
    pixels: bytes | None = None,
    labels: bytes | None = None,
    extra: bytes = b"",
    fortran: bool = False,
) -> bytes:
    """Return a batch as the published files have it, or with parts replaced."""
    x, y = batch(number)
    raw = x.tobytes("F" if fortran else "C")
    items = [
        (b"batch_label", string(b"training batch 1 of 5")),
        (b"labels", label_bytes(y) if labels is None else labels),
        (b"data", array_bytes(raw, fortran=fortran) if pixels is None else pixels),
        (b"filenames", b"](" + b"".join(string(b"%d.png" % i) for i in range(RECORDS)) + b"e"),
    ]
    memo = (b"q" + bytes([i]) if i % 2 else b"r" + struct.pack("<I", i) for i in range(8))
    pairs = (string(k) + next(memo) + v + next(memo) for k, v in items)
    return b"\x80\2}q\x63(" + b"".join(pairs) + extra + b"u."


def write_binary(folder: Path) -> Path:
    for number, name in enumerate(BATCHES):
        (folder / f"{name}.bin").write_bytes(binary_bytes(number))
    (folder / "batches.meta.txt").write_text("\n".join([*NAMES, ""]) + "\n")
    return folder


def write_python(folder: Path) -> Path:
    for number, name in enumerate(BATCHES):
        (folder / name).write_bytes(pickled(number, fortran=number == 2))
    (folder / "batches.meta").write_bytes(meta_bytes(NAMES))
    return folder


def meta_bytes(names: list[str]) -> bytes:
    """The names and two numbers, with every value remembered, which gives 158 bytes."""
    texts = b"".join(string(n.encode()) + b"q" + bytes([i + 5]) for i, n in enumerate(names))
    return (
        b"\x80\2}q\1(" + string(b"num_cases_per_batch") + b"q\2M\x10'"
        + string(b"label_names") + b"q\3]q\4(" + texts + b"e"
        + string(b"num_vis") + b"q\x0fM\0\x0cu."
    )  # fmt: skip


WRITERS = [write_binary, write_python]


def assert_refused(read: Callable[[], object], *words: str) -> None:
    """Check that `read` raises DataFormatError with all the words, and allocates little."""
    tracemalloc.start()
    try:
        with pytest.raises(data.DataFormatError) as caught:
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("load", [data.load_cifar10, data.load])
def test_round_trip(tmp_path: Path, write: Any, load: Callable[[Path], data.Dataset]) -> None:
    found = load(write(tmp_path))
    pixels, labels = zip(*map(batch, range(6)), strict=True)
    images = [np.moveaxis(x.reshape(-1, 3, 32, 32), 1, -1) for x in pixels]
    x, y = np.concatenate(images[:5]), np.concatenate(labels[:5])
    order = np.random.RandomState(0).permutation(len(y))
    for part, chosen in ((found[0:2], order[:-5]), (found[2:4], order[-5:])):
        np.testing.assert_array_equal(part[0], x[np.sort(chosen)])
        np.testing.assert_array_equal(part[1], y[np.sort(chosen)])
    np.testing.assert_array_equal(found.x_test, images[5])
    np.testing.assert_array_equal(found.y_test, labels[5])
    assert found.classes == tuple(NAMES)
    for x_part, y_part in (found[0:2], found[2:4], found[4:6]):
        assert x_part.dtype == np.uint8
        assert x_part.shape[1:] == (32, 32, 3)
        assert x_part.flags.c_contiguous
        assert x_part.flags.writeable
        assert y_part.dtype == np.int64


def test_the_pickles_made_here_are_what_python_reads() -> None:
    found = pickle.loads(pickled(3).replace(b"numpy.core", b"numpy._core"), encoding="bytes")
    np.testing.assert_array_equal(found[b"data"], batch(3)[0])
    assert found[b"labels"] == batch(3)[1].tolist()
    assert pickle.loads(meta_bytes(NAMES))["label_names"] == NAMES
    # So long is the published file.
    assert len(meta_bytes(NAMES)) == 158


@pytest.mark.parametrize("write", WRITERS)
def test_names_are_not_needed(tmp_path: Path, write: Any) -> None:
    for meta in write(tmp_path).glob("batches.meta*"):
        meta.unlink()
    assert data.load_cifar10(tmp_path).classes == ()


def test_six_arrays_are_what_a_data_set_unpacks_to(tmp_path: Path) -> None:
    found = data.load_cifar10(write_binary(tmp_path))
    assert len(found) == 6
    copy = pickle.loads(pickle.dumps(found))
    assert isinstance(copy, data.Dataset)
    assert copy.classes == found.classes
    assert data.digits().classes == ()


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("missing", BATCHES)
def test_a_missing_batch_is_named(tmp_path: Path, write: Any, missing: str) -> None:
    for path in write(tmp_path).glob(f"{missing}*"):
        path.unlink()
    for load in (data.load_cifar10, data.load):
        with pytest.raises(FileNotFoundError, match=rf"found no {missing}(\.bin)?$"):
            load(tmp_path)


def test_of_both_versions_the_complete_one_is_read(tmp_path: Path) -> None:
    write_python(write_binary(tmp_path))
    (tmp_path / "test_batch.bin").unlink()
    np.testing.assert_array_equal(data.load(tmp_path).y_test, batch(5)[1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_fraction_out_of_range(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        data.load_cifar10(write_binary(tmp_path), validation=fraction)


GOOD = binary_bytes(1)
WRONG_BINARY = {
    "empty": (b"", ["expected 30730 bytes", "found 0"]),
    "byte missing": (GOOD[:-1], ["10 records", "found 30729"]),
    "record missing": (GOOD[:-3073], ["found 27657"]),
    "byte too many": (GOOD + b"\0", ["found at least 30731"]),
    "record too many": (GOOD + GOOD[:3073], ["expected 30730 bytes", "found at least 33803"]),
    "web page": (b"<html>" * 9, ["found 54", "download it again"]),
    "label 10": (b"\x0a" + GOOD[1:], ["labels of 0 to 9", "found 10 in record 0"]),
    "label 255": (GOOD[:3073] + b"\xff" + GOOD[3074:], ["found 255 in record 1"]),
    "shifted": (GOOD[5:] + GOOD[:5], ["labels of 0 to 9", "in record"]),
}


@pytest.mark.parametrize(("content", "words"), WRONG_BINARY.values(), ids=WRONG_BINARY)
@pytest.mark.parametrize("name", ["data_batch_2.bin", "test_batch.bin"])
def test_wrong_binary_file(tmp_path: Path, content: bytes, words: list[str], name: str) -> None:
    (write_binary(tmp_path) / name).write_bytes(content)
    assert_refused(lambda: data.load(tmp_path), name, *words)


WRONG_NAMES = {
    "nine": NAMES[:9],
    "eleven": [*NAMES, "x"],
    "twice": [*NAMES[:9], "cat"],
    "unprintable": [*NAMES[:9], "a\x1b[2J"],
    "nameless": [*NAMES[:9], ""],
}


@pytest.mark.parametrize("names", WRONG_NAMES.values(), ids=WRONG_NAMES)
@pytest.mark.parametrize("write", WRITERS)
def test_wrong_names(tmp_path: Path, write: Any, names: list[str]) -> None:
    write(tmp_path)
    (tmp_path / "batches.meta.txt").write_text("\n".join(names))
    (tmp_path / "batches.meta").write_bytes(meta_bytes(names))
    assert_refused(lambda: data.load(tmp_path), "batches.meta", "10 different class names")


def shell(folder: Path) -> bytes:
    """What would leave a file in the folder, if it were run."""
    return f"touch '{folder / 'ran'}'".encode()


def with_command(opcodes: Callable[[bytes], bytes]) -> Callable[[Path], bytes]:
    return lambda folder: opcodes(shell(folder))


def item(value: bytes) -> bytes:
    """A pickle with one more value."""
    return pickled(extra=string(b"more") + value)


def with_array(**changes: Any) -> bytes:
    return pickled(pixels=array_bytes(**{"raw": batch(0)[0].tobytes()} | changes))


def dtype_bytes(name: bytes, state: bytes = U1_STATE) -> bytes:
    return DTYPE + string(name) + b"K\0K\1\x87R" + state + b"b"


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "os.system": (lambda c: item(b"cos\nsystem\n" + string(c) + b"\x85R"), "'os system'"),
    "posix.system": (lambda c: item(b"cposix\nsystem\n" + string(c) + b"\x85R"), "'posix system'"),
    "eval": (
        lambda c: item(
            b"c__builtin__\neval\n"
            + string(b"__import__('os').system(" + repr(c.decode()).encode() + b")")
            + b"\x85R"
        ),
        "'__builtin__ eval'",
    ),
    "text form": (lambda c: b"cos\nsystem\n(S" + repr(c.decode()).encode() + b"\ntR.", "start of"),
    "instance": (lambda c: item(b"(" + string(c) + b"ios\nsystem\n"), "instruction b'i'"),
    "object": (lambda c: item(b"(cos\nsystem\n" + string(c) + b"o"), "'os system'"),
    "with the array's own call": (
        lambda c: pickled(pixels=b"cos\nsystem\n" + string(c) + b"\x85R"),
        "'os system'",
    ),
}


@pytest.mark.parametrize(("make", "word"), HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_that_would_run_a_command(
    tmp_path: Path, make: Callable[[bytes], bytes], word: str
) -> None:
    content = make(shell(tmp_path))
    pickle.loads(content.replace(b"numpy.core", b"numpy._core"), encoding="latin-1")
    # So it would have run.
    (tmp_path / "ran").unlink()
    for name in ("data_batch_4", "batches.meta"):
        write_python(tmp_path)
        (tmp_path / name).write_bytes(content)
        assert_refused(lambda: data.load(tmp_path), name, word, "nothing in it was executed")
        assert not (tmp_path / "ran").exists()


DEEP = 40_000
WRONG_PICKLES = {
    "empty": (b"", ["its end too early"]),
    "web page": (b"<html><body>", ["<html>", "start of a pickle"]),
    "protocol 0": (pickle.dumps({"data": 1}, 0), ["start of a pickle"]),
    "protocol 4": (pickle.dumps({"data": 1}, 4), ["start of a pickle"]),
    "protocol 2 of Python 3": (pickle.dumps({b"data": 1}, 2), ["the global '_codecs encode'"]),
    "unicode key": (pickle.dumps({"data": 1}, 2), ["instruction b'X'"]),
    "truncated": (pickled()[:-1], ["its end too early"]),
    "overlong": (pickled() + b"\0", ["1 bytes after its end"]),
    "two pickles": (pickled() + pickled(), ["bytes after its end"]),
    "a list": (b"\x80\2].", ["type list in place of a dictionary"]),
    "no value": (b"\x80\2.", ["0 values at its end"]),
    "two values": (b"\x80\2}}.", ["2 values at its end"]),
    "mark at the end": (b"\x80\2}(.", ["values at its end"]),
    "no data": (b"\x80\2}.", ["expected 'data'", "found nothing"]),
    "no labels": (
        b"\x80\2}" + string(b"data") + array_bytes(b"0", b"K\1\x85") + b"s.",
        ["expected 'labels'", "found 'data'"],
    ),
    "unknown opcode": (item(b"\xff"), ["instruction b'\\xff'"]),
    "extension": (item(b"\x82\1"), ["instruction b'\\x82'"]),
    "persistent": (item(b"P1\n"), ["instruction b'P'"]),
    "new object": (item(NDARRAY + b")\x81"), ["instruction b')'"]),
    "stack global": (item(b"U\2osU\6system\x93"), ["instruction b'\\x93'"]),
    "frame": (item(b"\x95" + b"\xff" * 8), ["instruction b'\\x95'"]),
    "global without an end": (b"\x80\2cnumpy\n" + b"x" * 10**6, ["the global 'numpy xxx"]),
    "global of newer numpy": (
        item(b"cnumpy._core.multiarray\n_reconstruct\n"),
        ["'numpy._core.multiarray _reconstruct'"],
    ),
    "global of numpy": (item(b"cnumpy\nload\n"), ["'numpy load'"]),
    "global not ASCII": (item(b"c\xff\n\x1b[2J\n"), [r"'\xff \x1b[2J'"]),
    "pop at a mark": (b"\x80\2}(a", ["without its arguments"]),
    "pop from nothing": (b"\x80\2R", ["without its arguments"]),
    "no mark": (b"\x80\2}u", ["without its mark"]),
    "no such memory": (item(b"h\x7f"), ["reference to value 127"]),
    "append to a dictionary": (b"\x80\2}K\1a", ["type dict in place of a list"]),
    "item of a list": (b"\x80\2]U\1aK\1s", ["type list in place of a dict"]),
    "key without a value": (b"\x80\2}(U\1au", ["a key without a value"]),
    "number as a key": (b"\x80\2}K\1K\1s", ["type int in place of a string"]),
    "nested key": (b"\x80\2}" + b"K\1" + b"\x85" * 20_000 + b"K\1s", ["type tuple in place"]),
    "huge string": (item(b"T\xff\xff\xff\x7f"), ["a string of 2147483647 bytes"]),
    "negative string": (item(b"T\xff\xff\xff\xff"), ["a string of -1 bytes"]),
    "huge integer": (item(b"\x8a\xff" + b"\xff" * 255), ["an integer of 255 bytes"]),
    "huge array": (
        with_array(raw=b"", shape=b"J\0\0\0\x7fJ\0\0\0\x7f\x86"),
        ["0 bytes for an array of shape (2130706432, 2130706432)"],
    ),
    "huge array for reconstruct": (
        pickled(pixels=RECONSTRUCT + NDARRAY + b"J\0\0\0\x7f\x85U\1b\x87R"),
        ["expected data of shape (10, 3072)", "NoneType"],
    ),
    "negative shape": (
        with_array(shape=b"J\xf6\xff\xff\xffJ\0\xf4\xff\xff\x86"),
        ["not one of uint8"],
    ),
    "many dimensions": (with_array(shape=b"(" + b"K\1" * 999 + b"t"), ["not one of uint8"]),
    "shape of a nest": (with_array(shape=b")"), ["instruction b')'"]),
    "short array": (with_array(raw=b"12"), ["2 bytes for an array of shape (10, 3072)"]),
    "array of another shape": (with_array(shape=b"M\0\x0cK\x0a\x86"), ["found (3072, 10)"]),
    "flat array": (with_array(shape=b"M\0x\x85"), ["found (30720,)"]),
    "array of version 2": (with_array(version=b"K\2"), ["not one of uint8"]),
    "no dtype": (with_array(dtype=b"N"), ["not one of uint8"]),
    "incomplete dtype": (with_array(dtype=DTYPE + b"U\2u1K\0K\1\x87R"), ["not one of uint8"]),
    "dtype f8": (with_array(dtype=dtype_bytes(b"f8")), ["dtype b'f8' in place of 'u1'"]),
    "object array": (with_array(dtype=dtype_bytes(b"O8")), ["dtype b'O8'"]),
    "list for the data of an object array": (
        pickled(pixels=NOTHING + b"(K\1K\1\x85" + U1 + b"\x89]tb"),
        ["not one of uint8"],
    ),
    "dtype with fields": (
        with_array(dtype=dtype_bytes(b"u1", U1_STATE.replace(b"NNN", b"N(K\1t}"))),
        ["a state for a value of type _Dtype"],
    ),
    "dtype of another order": (
        with_array(dtype=dtype_bytes(b"u1", U1_STATE.replace(b"|", b">"))),
        ["another dtype"],
    ),
    "call of an array": (item(NDARRAY + b"K\0\x85R"), ["a call that makes no array"]),
    "call of a string": (item(b"U\1aK\0\x85R"), ["a call that makes no array"]),
    "state for a list": (item(b"]K\1b"), ["a state for a value of type list"]),
    "data is a list": (pickled(pixels=b"]"), ["data of shape (10, 3072)", "type list"]),
    "labels as an array": (
        pickled(labels=array_bytes(b"0123456789", b"K\x0a\x85")),
        ["list of 10 labels", "found a ndarray"],
    ),
    "nine labels": (pickled(labels=label_bytes(range(9))), ["list of 10 labels, found 9"]),
    "label 10": (pickled(labels=label_bytes(range(1, 11))), ["0 to 9", "found 10 in record 9"]),
    "negative label": (
        pickled(labels=b"](J\xff\xff\xff\xff" + b"K\1" * 9 + b"e"),
        ["found -1 in record 0"],
    ),
    "label of text": (pickled(labels=b"](" + b"U\1a" * 10 + b"e"), ["found a bytes in record 0"]),
    "label True": (pickled(labels=b"](" + b"\x88" * 10 + b"e"), ["labels of 0 to 9"]),
    "list in itself": (pickled(labels=b"]q\7" + b"h\7a" * 10), ["found a list in record 0"]),
    "nest of lists": (item(b"]" * DEEP + b"a" * (DEEP - 1) + b"N"), ["without a value"]),
    "nest of tuples": (item(b"N" + b"\x85" * DEEP + b"R"), ["a call that makes no array"]),
    "doubling tuples": (
        with_array(dtype=b"N" + b"q\7h\7\x86" * 1000 + U1_STATE[:0]),
        ["not one of uint8"],
    ),
    "doubling arguments": (
        item(DTYPE + b"N" + b"q\7h\7\x86" * 1000 + b"K\0K\1\x87R"),
        ["a call that makes no array"],
    ),
    "endless work": (item(b"N" * (1 << 18)), ["more than 131072 instructions"]),
    "too large": (b"\x80\2}" + b"0" * (1 << 25), ["at most 33554432 bytes"]),
}


@pytest.mark.parametrize(("content", "words"), WRONG_PICKLES.values(), ids=WRONG_PICKLES)
def test_wrong_pickle(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (write_python(tmp_path) / "data_batch_3").write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    assert_refused(lambda: data.load(tmp_path), "data_batch_3", *words)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_pickle_truncated_anywhere(tmp_path: Path) -> None:
    write_python(tmp_path)
    content = pickled()
    for size in [*range(400), *range(400, len(content), 991)]:
        (tmp_path / "data_batch_1").write_bytes(content[:size])
        assert_refused(lambda: data.load(tmp_path), "data_batch_1: expected")


def test_a_pickle_changed_anywhere_is_refused_or_read(tmp_path: Path) -> None:
    write_python(tmp_path)
    content = pickled()
    head = content[: content.index(batch(0)[0].tobytes()[:9])]
    messages = []
    for at in range(len(head)):
        for flip in (0x01, 0x55, 0xFF):
            changed = content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :]
            (tmp_path / "data_batch_1").write_bytes(changed)
            try:
                data.load(tmp_path)
            except data.DataFormatError as error:
                messages.append(str(error))
    assert len(messages) > len(head)
    assert all("data_batch_1: expected" in message for message in messages)


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (write_python(tmp_path) / "test_batch").write_bytes(HOSTILE["os.system"][0](shell(tmp_path)))
    assert main(["train", "--data", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "test_batch: expected a pickle as CIFAR-10 has it, found the global 'os system'" in err
    assert not (tmp_path / "ran").exists()


def test_the_command_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(write_python(tmp_path))
    job = ["--model", "mlp", "--iterations", "2", "--batch-size", "8", "--out", "out"]
    assert main(["train", "--data", ".", *job]) == 0
    assert "45 training, 5 validation, 10 test examples of 32x32x3, 10 classes" in (
        capsys.readouterr().out
    )
