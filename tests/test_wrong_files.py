"""Files that are wrong, one table of them: each is refused with a message that names the file and
what is wrong with it, without much memory, and without running what is in it."""

from __future__ import annotations

import ast
import gzip
import json
import math
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import cnncore as cnn
from cnncore import data
from small_files import (
    DTYPE,
    FORMATS,
    MOST_MEMORY,
    NAMES,
    NDARRAY,
    NOTHING,
    RECONSTRUCT,
    U1,
    U1_STATE,
    array_bytes,
    assert_refused,
    batch,
    binary_bytes,
    claim_size,
    encoded,
    idx_bytes,
    label_bytes,
    meta_bytes,
    needs_pillow,
    npy_bytes,
    npy_header,
    pickled,
    pixels,
    sample_arrays,
    small_model,
    string,
    write,
    write_binary,
    write_classes,
    write_mnist,
    write_model,
    write_npz,
    write_python,
    write_zip,
)

pytestmark = [
    pytest.mark.usefixtures("small_batches"),
    # numpy warns where it takes a damaged header for one of Python 2, zipfile of a name twice.
    pytest.mark.filterwarnings("ignore"),
]
DATA_FORMAT = cnn.DataFormatError


class Case(NamedTuple):
    """Something wrong, and how its reader has to refuse it."""

    kind: str
    name: str
    make: Callable[[Path], object]  # in an empty folder
    read: Callable[[Path], object]  # from that folder
    words: Sequence[str]
    error: type[Exception] = DATA_FORMAT


def put(name: str, content: bytes | Callable[[], bytes]) -> Callable[[Path], object]:
    """Write a file, whose content is made no sooner."""
    return lambda folder: write(folder, {name: content() if callable(content) else content})


def after(first: Callable[[Path], object], then: Callable[[Path], object]) -> Callable[..., object]:
    return lambda folder: (first(folder), then(folder))


def at(name: str, function: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: function(folder / name)


# Models.


def model_text(change: Mapping[str, Any] | None = None, without: str = "") -> bytes:
    """The configuration of a small model, as JSON with some items replaced or one left out."""
    net = {
        "type": "Sequential",
        "layers": [
            {"type": "Affine", "name": "first", "m": 4}, {"type": "BatchNorm"}, {"type": "ReLU"},
            {"type": "Affine", "m": 3},
        ],
    }  # fmt: skip
    meta = {
        "format": 1, "version": "1", "net": net, "loss": {"type": "Softmax"}, "seed": 0,
        "regularization": None, "input_shape": [6], "input_layout": "nhwc", "dtype": "float32",
    } | (change or {})  # fmt: skip
    meta.pop(without, None)
    return json.dumps(meta).encode()


def layers(*given: Any) -> bytes:
    return model_text({"net": {"type": "Sequential", "layers": given}})


def nested(depth: int) -> Any:
    net: Any = {"type": "Affine", "m": 3}
    for _ in range(depth):
        net = {"type": "Sequential", "layers": [net]}
    return net


HUGE = 10**400
AFFINE = {"type": "Affine", "m": 3}
WRONG_CONFIGURATIONS: dict[str, tuple[bytes, list[str]]] = {
    "newer format": (model_text({"format": 2, "version": "9.9"}), ["format 2", "version 9.9"]),
    "format of text": (model_text({"format": "1"}), ["not a model file"]),
    "format 0": (model_text({"format": 0}), ["not a model file"]),
    "format true": (model_text({"format": True}), ["not a model file"]),
    "format 1.0": (model_text({"format": 1.0}), ["not a model file"]),
    "no format": (model_text(without="format"), ["not a model file"]),
    "a list": (b"[]", ["not a model file"]),
    "cut": (model_text()[:-1], ["not valid JSON"]),
    "two": (model_text() * 2, ["not valid JSON"]),
    "not UTF-8": (b'{"format": "\xff"}', ["not valid JSON"]),
    "NaN": (b'{"format": NaN}', ["NaN is not allowed"]),
    "-Infinity": (b'{"format": -Infinity}', ["-Infinity is not allowed"]),
    "a key twice": (b'{"format": 1, "format": 1}', ["a key appears twice"]),
    "too deep for JSON": (
        b'{"format": 1, "net": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ["not valid JSON"],
    ),
    "too deep": (model_text({"net": nested(60)}), ["nested too deeply"]),
    "too many digits": (b'{"format": ' + b"1" * 5000 + b"}", ["not valid JSON"]),
    "a command for a layer": (model_text({"net": {"type": "os.system"}}), ["unknown type"]),
    "a layer of the user": (layers({"type": "NumpyLayer"}), ["unknown type 'NumpyLayer'"]),
    "a type of no text": (layers({"type": ["Affine"]}), ["unknown type"]),
    "a layer for a net": (model_text({"net": AFFINE}), ["not a Sequential"]),
    "a list for a net": (model_text({"net": [AFFINE]}), ["not a Sequential"]),
    "a number for a layer": (layers(3), ["must be a layer"]),
    "a loss for a layer": (layers({"type": "Softmax"}), ["must be a layer"]),
    "an unknown argument": (layers({"type": "ReLU", "size": 3}), ["ReLU has no argument size"]),
    "a missing argument": (layers({"type": "Affine"}), ["Affine", "'m'"]),
    "a fraction of outputs": (layers({"type": "Affine", "m": 3.0}), ["m must be an integer"]),
    "no outputs": (layers({"type": "Affine", "m": 0}), ["m must"]),
    "too many outputs": (layers({"type": "Affine", "m": 2**40}), ["m must"]),
    "outputs not in the file": (layers({"type": "Affine", "m": 2**31 - 1}), ["0.w"]),
    "a bias of text": (layers({"type": "Maxout", "m": 3, "bias": "no"}), ["bias must be True"]),
    "a huge epsilon": (layers({"type": "BatchNorm", "eps": HUGE}), ["eps must lie in", "inf"]),
    "an infinite epsilon": (
        layers({"type": "BatchNorm", "eps": 0.5}).replace(b"0.5", b"1e999"),
        ["eps must lie in", "inf"],
    ),
    "an unknown initialization": (layers(AFFINE | {"init": "xavier"}), ["init must be one of"]),
    "no layer for the input": (layers({"type": "MaxPool2d", "size": 2}), ["layer '0'"]),
    "a name twice": (layers(AFFINE | {"name": "a"}, AFFINE | {"name": "a"}), ["'a'"]),
    "another dtype": (model_text({"dtype": "float16"}), ["float16"]),
    "a list for the dtype": (model_text({"dtype": ["float32"]}), ["dtype"]),
    "an unknown loss": (model_text({"loss": {"type": "hinge"}}), ["unknown type 'hinge'"]),
    "a layer for the loss": (model_text({"loss": {"type": "ReLU"}}), ["loss must be"]),
    "no loss": (model_text({"loss": None}), ["loss must be"]),
    "a layer for the penalty": (
        model_text({"regularization": {"type": "ReLU"}}),
        ["regularization must be"],
    ),
    "a huge penalty": (
        model_text({"regularization": {"type": "L2", "strength": HUGE}}),
        ["strength must lie in"],
    ),
    "a layer for preprocessing": (
        model_text({"preprocessing": [{"type": "ReLU"}], "fitted": [False]}),
        ["preprocessing must be of"],
    ),
    "preprocessing of two lengths": (
        model_text({"preprocessing": [{"type": "ZeroCenter"}], "fitted": []}),
        ["lists of the same length"],
    ),
    "preprocessing not in the file": (
        model_text({"preprocessing": [{"type": "ZeroCenter"}], "fitted": [True]}),
        ["preprocessing.0.mean.npy: expected this member"],
    ),
    "a shape of text": (model_text({"input_shape": "6"}), ["input_shape"]),
    "a shape of two": (model_text({"input_shape": [6, 6]}), ["input_shape"]),
    "a negative shape": (model_text({"input_shape": [-6]}), ["input_shape"]),
    "an empty shape": (model_text({"input_shape": [6, 0, 1]}), ["input_shape"]),
    "another shape": (model_text({"input_shape": [7]}), ["first.w has shape (6, 4)", "(7, 4)"]),
    "an unknown layout": (model_text({"input_layout": "chwn"}), ["input_layout must be"]),
    "no seed": (model_text(without="seed"), ["'seed'"]),
    "a negative seed": (model_text({"seed": -1}), ["seed must"]),
    "two classes for three": (model_text({"classes": ["a", "b"]}), ["classes must be 3"]),
    "a class twice": (model_text({"classes": ["a", "b", "a"]}), ["classes must be 3"]),
    "a number for classes": (model_text({"classes": 3}), ["classes must be a list"]),
}  # fmt: skip
W = np.zeros((4, 3), "<f4")
WRONG_MODEL_MEMBERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "transposed": ({"3.w": W.T}, ["3.w has shape (3, 4), expected (4, 3)"]),
    "another rank": ({"3.w": W[None]}, ["3.w has shape (1, 4, 3)"]),
    "float64": ({"3.w": W.astype("<f8")}, ["3.w.npy: expected dtype float32, found float64"]),
    "float16": ({"3.w": W.astype("<f2")}, ["3.w.npy", "found float16"]),
    "integers": ({"3.w": W.astype("<i4")}, ["3.w.npy", "found int32"]),
    "complex": ({"3.w": W.astype("<c8")}, ["3.w.npy", "found complex64"]),
    "objects": ({"3.w": npy_bytes(W.astype(object), pickle=True)}, ["3.w.npy", "found object"]),
    "missing": ({"3.w": None}, ["3.w.npy: expected this member, found 1.beta.npy"]),
    "missing statistic": ({"1.running_var": None}, ["1.running_var.npy: expected this member"]),
    "unexpected": ({"4.w": W}, ["expected no members but", "found 4.w.npy"]),
    "no meta": ({"meta": None}, ["meta.npy: expected this member"]),
    "meta of text": ({"meta": np.array("{}")}, ["meta.npy: expected dtype uint8"]),
    "meta of two axes": ({"meta": np.zeros((2, 2), np.uint8)}, ["meta has shape (2, 2)"]),
    "byte missing": ({"3.w": npy_bytes(W)[:-1]}, ["3.w.npy: expected 48 bytes", "found 47"]),
    "byte too many": ({"3.w": npy_bytes(W) + b"0"}, ["3.w.npy: expected 48 bytes", "found 49"]),
    "negative shape": (
        {"3.w": npy_header("'<f4'", "(-4, -3)") + bytes(48)},
        ["3.w.npy: expected some data, found empty shape (-4, -3)"],
    ),
    "huge shape": (
        {"3.w": npy_header("'<f4'", f"({2**70}, 3)") + bytes(48)},
        ["3.w.npy: expected", "found 48"],
    ),
    "a data set": ({"meta": None, "x_train": W}, ["meta.npy: expected this member"]),
}  # fmt: skip


def claim(path: Path, descr: str, shapes: Mapping[str, str], **others: bytes) -> Path:
    """Write members that are headers alone, and a directory that agrees with them."""
    headers = {name: npy_header(repr(descr), shape) for name, shape in shapes.items()}
    write_zip(path, others | headers)
    for name, header in headers.items():
        size = math.prod(ast.literal_eval(shapes[name])) * np.dtype(descr).itemsize
        claim_size(path, name, len(header) + size)
    return path


def large_weights(path: Path) -> None:
    meta = np.frombuffer(layers({"type": "Affine", "m": 2**25}), np.uint8)
    claim(path, "<f4", {"0.w": f"(6, {2**25})", "0.b": f"({2**25},)"}, meta=npy_bytes(meta))


def spoil(path: Path, found: bytes, at: int = 0) -> None:
    """Change a byte of the first such bytes in a file."""
    content = path.read_bytes()
    path.write_bytes(flip(content, content.index(found) + at))


def spoil_weights(path: Path) -> None:
    spoil(write_model(path, {}), small_model()["3.w"].tobytes(), 5)


def encrypt(path: Path) -> None:
    """Say of the members of an archive that they are encrypted."""
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(signature)
        while at >= 0:
            content[at + offset] |= 1
            at = content.find(signature, at + 1)
    path.write_bytes(content)


def add_again(path: Path, name: str) -> None:
    """Append a member of a name that is there already."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{name}.npy", archive.read(f"{name}.npy"))


WRONG_MODEL_FILES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "empty": (Path.touch, ["intact .npz archive"]),
    "text": (lambda p: p.write_text("text"), ["intact .npz archive"]),
    "npy": (lambda p: p.write_bytes(npy_bytes(W)), ["intact .npz archive"]),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), ["intact .npz archive"]),
    "archive of nothing": (lambda p: write_zip(p, {}), ["meta.npy", "found no members"]),
    "a data set": (write_npz, ["meta.npy: expected this member", "x_train.npy"]),
    "weights changed": (spoil_weights, ["3.w.npy: expected an intact .npz archive", "CRC"]),
    "a member twice": (
        lambda p: add_again(write_model(p, {}), "3.w"),
        ["every member once", "3.w.npy twice"],
    ),
    "encrypted": (lambda p: encrypt(write_model(p, {})), ["stored or deflated", "flags 0x1"]),
    "bzip2": (lambda p: write_model(p, {}, zipfile.ZIP_BZIP2), ["stored or deflated"]),
    "bomb": (
        lambda p: write_model(p, {"first.b": bytes(64 << 20)}, zipfile.ZIP_DEFLATED),
        ["first.b.npy"],
    ),
    "large weights": (large_weights, [f"declare {28 * 2**25} bytes"]),
    "large meta": (
        lambda p: claim(p, "|u1", {"meta": f"({2**31},)"}),
        ["meta has shape (2147483648,)"],
    ),
}  # fmt: skip


# Data sets in .npz files.

X_SHAPE = "(20, 4, 3, 2)"
PART_SIZES = {"train": 20, "test": 5}
WRONG_NPZ_MEMBERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"x_test": None}, ["x_test.npy: expected this member", "y_test.npy"]),
    ({"x_val": np.zeros((2, 4, 3, 2), np.uint8)}, ["y_val.npy: expected this member"]),
    ({"y_train": np.arange(19)}, ["y_train.npy: expected 20 labels", "found 19"]),
    ({"y_train": np.zeros((20, 1), int)}, ["shape (n,)", "(20, 1)"]),
    ({"y_train": np.zeros(20)}, ["y_train.npy: expected dtype", "int64", "found float64"]),
    ({"y_train": np.zeros(20, bool)}, ["y_train.npy", "found bool"]),
    ({"y_train": np.arange(20) - 2}, ["y_train.npy", "class numbers from 0", "found -2"]),
    ({"y_test": np.full(5, 2**63, np.uint64)}, ["y_test.npy", "found 9223372036854775808"]),
    ({"x_train": np.zeros((20, 4, 3, 2), int)}, ["x_train.npy", "uint8", "found int64"]),
    ({"x_train": np.zeros((20, 24), np.float16)}, ["float32", "found float16"]),
    ({"x_train": np.zeros(20, np.uint8)}, ["x_train.npy", "(n, features)", "(20,)"]),
    ({"x_train": np.zeros((20, 1, 1, 1, 1), np.uint8)}, ["channels", "(20, 1, 1, 1, 1)"]),
    ({"x_test": np.zeros((5, 4, 2, 3), np.uint8)}, ["(4, 3, 2)", "found (4, 2, 3)"]),
    ({"x_test": np.zeros((5, 4, 3, 2))}, ["x_test.npy: expected", "uint8", "found float64"]),
    ({"x_test": np.zeros((0, 4, 3, 2), np.uint8)}, ["some data", "(0, 4, 3, 2)"]),
    ({"x_train": np.zeros((20, 0), np.uint8)}, ["x_train.npy", "some data", "(20, 0)"]),
    ({"y_test": np.zeros(0, int)}, ["y_test.npy", "some data", "(0,)"]),
    (
        {"x_train": np.zeros((1, 4, 3, 2), np.uint8), "y_train": np.zeros(1, int)},
        ["expected 2 or more training samples", "found 1"],
    ),
    ({"x_train": b""}, ["x_train.npy", "npy header", "b''"]),
    ({"x_train": b"\x93NUMPX\1\0 and more"}, ["npy header of version", "NUMPX"]),
    ({"x_train": npy_header("'|u1'", X_SHAPE)[:40]}, ["npy header"]),
    ({"x_train": npy_header("'|u1'", X_SHAPE, b"\3\0")}, ["version 1.0 or 2.0"]),
    ({"x_train": npy_header("'|u1'", "-" * 9900 + "1")}, ["npy header"]),
    ({"x_train": npy_header("'|u1'", "((((")}, ["npy header"]),
    ({"x_train": npy_header("'|u1'", "(20.0, 4)")}, ["npy header", "shape is not valid"]),
    ({"x_train": npy_header("('|u1', -1)", X_SHAPE)}, ["x_train.npy"]),
    ({"x_train": npy_header("[()]", X_SHAPE)}, ["npy header"]),
    ({"x_train": npy_header("[('a', '|u1')]", X_SHAPE)}, ["expected dtype", "'a'"]),
    ({"x_train": npy_header("'|u1'", "(-20, -24)") + bytes(480)}, ["found empty shape (-20"]),
    ({"x_train": npy_header("'|u1'", f"({2**40},)")}, [str(2**40), "x_train.npy", "found 0"]),
    ({"x_train": npy_header("'<f8'", f"({2**70}, 8)")}, [str(2**76), "found 0"]),
    ({"x_train": npy_header("'|u1'", X_SHAPE) + bytes(479)}, ["expected 480", "found 479"]),
    ({"x_train": npy_header("'|u1'", X_SHAPE) + bytes(481)}, ["expected 480", "found 481"]),
    ({"x_train": npy_bytes(np.array([{}] * 20), pickle=True)}, ["uint8", "found object"]),
    ({"y_train": npy_header("'|O'", "(20,)") + b"cos\nsystem\n."}, ["found object"]),
]


def larger_than_claimed(path: Path) -> None:
    header = npy_header("'|u1'", X_SHAPE)
    write_npz(path, x_train=header + bytes(64 << 20))
    claim_size(path, "x_train", len(header) + 480)


def smaller_than_claimed(path: Path) -> None:
    headers = {f"x_{p}": npy_header("'|u1'", f"({n}, {2**27})") for p, n in PART_SIZES.items()}
    write_npz(path, **{name: header + bytes(480) for name, header in headers.items()})
    for part, n in PART_SIZES.items():
        claim_size(path, f"x_{part}", len(headers[f"x_{part}"]) + n * 2**27)


def compressed(path: Path, method: int) -> Path:
    return write_zip(path, {n: npy_bytes(a) for n, a in sample_arrays().items()}, method)


WRONG_NPZ_FILES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "empty": (Path.touch, ["not a zip file"]),
    "text": (lambda p: p.write_text("text"), ["not a zip file"]),
    "npy": (lambda p: p.write_bytes(npy_bytes(np.zeros(3))), ["not a zip file"]),
    "a member twice": (lambda p: add_again(write_npz(p), "x_train"), ["once", "x_train.npy twice"]),
    "bzip2": (lambda p: compressed(p, zipfile.ZIP_BZIP2), ["stored or deflated", "method 12"]),
    "lzma": (lambda p: compressed(p, zipfile.ZIP_LZMA), ["stored or deflated", "method 14"]),
    "encrypted": (lambda p: encrypt(write_npz(p)), ["stored or deflated", "flags 0x1"]),
    "sample changed": (
        lambda p: spoil(compressed(p, zipfile.ZIP_STORED), sample_arrays()["x_test"].tobytes(), 7),
        ["x_test.npy: expected an intact .npz archive", "CRC"],
    ),
    "more than header and directory say": (
        larger_than_claimed,
        ["x_train.npy: expected 480 bytes", "found 481"],
    ),
    "less than header and directory say": (
        smaller_than_claimed,
        [f"expected {20 * 2**27} bytes", "found 480"],
    ),
}

# Samples in .npy files and others, without labels.

X = np.zeros((2, 3), np.uint8)
WRONG_SAMPLES: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": (".npy", b"", ["npy header", "b''"]),
    "junk": (".npy", b"junk", ["npy header", "junk"]),
    "another magic": (".npy", b"\x94" + npy_bytes(X)[1:], ["npy header"]),
    "newer version": (".npy", npy_bytes(X).replace(b"NUMPY\1", b"NUMPY\3"), ["version 1.0 or 2.0"]),
    "header cut": (".npy", npy_bytes(X)[:50], ["npy header"]),
    "large header": (".npy", b"\x93NUMPY\2\0" + b"\xff" * 4, ["npy header", "4294967295"]),
    "nested header": (".npy", npy_header("'|u1'", "(" * 5000), ["npy header"]),
    "zero in the header": (".npy", npy_header("'|u1\0'", "(2, 3)") + bytes(6), ["npy header"]),
    "byte missing": (".npy", npy_bytes(X)[:-1], ["expected 6 bytes of data", "found 5"]),
    "byte too many": (".npy", npy_bytes(X) + b"0", ["expected 6 bytes of data", "found 7"]),
    "huge": (".npy", npy_header("'|u1'", f"({2**40},)"), [f"expected {2**40} bytes", "found 0"]),
    "negative shape": (".npy", npy_header("'|u1'", "(-2, -3)") + bytes(6), ["shape (-2, -3)"]),
    "empty shape": (".npy", npy_bytes(X[:0]), ["expected some data, found empty shape (0, 3)"]),
    "70 axes": (".npy", npy_header("'|u1'", f"({'1, ' * 70})") + b"0", ["at most 32 sizes"]),
    "truth for a size": (".npy", npy_header("'|u1'", "(True, 6)") + bytes(6), ["(True, 6)"]),
    "integers": (".npy", npy_bytes(X.astype("<i8")), ["expected dtype uint8", "found int64"]),
    "complex": (".npy", npy_bytes(X.astype("<c16")), ["found complex128"]),
    "dates": (".npy", npy_bytes(X.astype("<M8[s]")), ["found datetime64"]),
    "text of no length": (".npy", npy_header("'<U0'", "(2, 3)"), ["found <U0"]),
    "pairs": (".npy", npy_header("('|u1', (2,))", "(3,)") + bytes(6), ["found ('u1', (2,))"]),
    "objects": (".npy", npy_bytes(X.astype(object), pickle=True), ["found object"]),
    "command": (".npy", npy_header("'|O'", "(1,)") + b"cos\nsystem\n.", ["found object"]),
    "member missing": (".npz", b"PK\5\6" + bytes(18), ["x.npy", "found no members"]),
    "no archive": (".npz", npy_bytes(X), ["not a zip file"]),
    "another kind": (".csv", b"1,2", ["expected a file .npz or .npy, an image (.png"]),
    "empty of another kind": ("", b"", ["expected a file .npz or .npy, an image (.png"]),
    "IDX cut": ("", idx_bytes(X)[:-1], ["expected 18 bytes", "found 17"]),
}


# IDX, and MNIST in it.

GOOD_IDX = idx_bytes(np.arange(60, dtype=np.uint8).reshape(5, 4, 3))
GOOD_GZIP = gzip.compress(GOOD_IDX)
HUGE_IDX = b"\0\0\x08\2" + struct.pack(">2I", 2**20, 2**20)
WRONG_IDX = {
    "empty": (b"", ["start of an IDX file", "an empty file"]),
    "no data declared": (
        idx_bytes(np.zeros((0, 2**20, 2**20), np.uint8)),
        ["expected some data", "found empty shape (0, "],
    ),
    "short magic": (b"\0\0\x08", ["found 00 00 08"]),
    "web page": (b"<html>", ["found 3c 68 74 6d"]),
    "unknown type": (b"\0\0\x0a\1\0\0\0\1\0", ["found 00 00 0a 01"]),
    "rank 0": (b"\0\0\x08\0\0", ["found 00 00 08 00"]),
    "rank 33": (b"\0\0\x08\x21" + bytes(400), ["found 00 00 08 21"]),
    "short header": (GOOD_IDX[:15], ["header of 16 bytes", "found 15"]),
    "no data": (GOOD_IDX[:16], ["expected 76 bytes", "found 16"]),
    "byte missing": (GOOD_IDX[:75], ["expected 76 bytes", "found 75"]),
    "too long": (GOOD_IDX + bytes(100), ["expected 76 bytes", "found at least 176"]),
    "huge": (HUGE_IDX, [f"expected {2**40 + 12} bytes", "found 12"]),
    "immense": (b"\0\0\x0e\x20" + b"\xff" * 128, ["expected", "found 132"]),
    "huge in gzip": (gzip.compress(HUGE_IDX), [f"expected {2**40 + 12} bytes", "found 12"]),
    "bomb": (gzip.compress(GOOD_IDX + bytes(64 << 20)), ["expected 76 bytes", "at least 77"]),
    "short in gzip": (gzip.compress(GOOD_IDX[:75]), ["expected 76 bytes", "found 75"]),
    "web page in gzip": (gzip.compress(b"<html>"), ["found 3c 68 74 6d"]),
    "gzip and garbage": (
        GOOD_GZIP + b"garbage",
        ["complete gzip stream", f"found {len(GOOD_GZIP) + 7} bytes"],
    ),
    "gzip and gzip": (GOOD_GZIP + gzip.compress(b"\0"), ["expected 76 bytes", "at least 77"]),
    "gzip checksum": (GOOD_GZIP[:-8] + b"12345678", ["complete gzip stream", "CRC"]),
}

WRONG_MNIST: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "19 labels for 20 images": (
        lambda p: write_mnist(p, changes={"y_train": np.zeros(19, np.uint8)}),
        ["train-labels", "expected 20 labels", "found 19"],
    ),
    "test images of another shape": (
        lambda p: write_mnist(p, changes={"x_test": np.zeros((5, 2, 3), np.uint8)}),
        ["t10k-images", "shape (4, 3, 1)", "found (2, 3, 1)"],
    ),
    "labels for images": (
        lambda p: write_mnist(p, changes={"x_test": np.zeros(5, np.uint8)}),
        ["t10k-images", "3 dimensions", "uint8 of 1"],
    ),
    "images for labels": (
        lambda p: write_mnist(p, changes={"y_test": np.zeros((5, 1, 1), np.uint8)}),
        ["t10k-labels", "1 dim", "uint8 of 3"],
    ),
    "images of floats": (
        lambda p: (
            write_mnist(p),
            write(p, {"train-images-idx3-ubyte": idx_bytes(np.zeros((20, 3, 2), "f4"), 13)}),
        ),
        ["train-images", "expected uint8", "float32"],
    ),
    "labels cut": (
        lambda p: (write_mnist(p), write(p, {"train-labels-idx1-ubyte": b"\0\0\x08\1"})),
        ["train-labels", "header of 8 bytes", "found 4"],
    ),
}

# CIFAR-10.

GOOD_BATCH = binary_bytes(1)
WRONG_BINARY = {
    "empty": (b"", ["expected 30730 bytes", "found 0"]),
    "byte missing": (GOOD_BATCH[:-1], ["10 records", "found 30729"]),
    "record missing": (GOOD_BATCH[:-3073], ["found 27657"]),
    "byte too many": (GOOD_BATCH + b"\0", ["found at least 30731"]),
    "record too many": (
        GOOD_BATCH + GOOD_BATCH[:3073],
        ["expected 30730 bytes", "found at least 33803"],
    ),
    "web page": (b"<html>" * 9, ["found 54", "download it again"]),
    "label 10": (b"\x0a" + GOOD_BATCH[1:], ["labels of 0 to 9", "found 10 in record 0"]),
    "label 255": (GOOD_BATCH[:3073] + b"\xff" + GOOD_BATCH[3074:], ["found 255 in record 1"]),
    "shifted": (GOOD_BATCH[5:] + GOOD_BATCH[:5], ["labels of 0 to 9", "in record"]),
}
WRONG_NAMES = {
    "nine": NAMES[:9],
    "eleven": [*NAMES, "x"],
    "twice": [*NAMES[:9], "cat"],
    "unprintable": [*NAMES[:9], "a\x1b[2J"],
    "nameless": [*NAMES[:9], ""],
}


# Would leave a file, if it were run.
COMMAND = b"touch ran"


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
    "too large": (b"\x80\2}" + b"0" * (1 << 20), ["at most 1048576 bytes"]),
}


# Images.


def png(width: int, height: int, content: bytes = b"", kind: bytes = b"\x08\2\0\0\0") -> bytes:
    """Return a PNG file with a header that may say anything."""

    def chunk(name: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">II", width, height) + kind)
        + chunk(b"IDAT", zlib.compress(content))
        + chunk(b"IEND", b"")
    )


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x55]) + content[at:][1:]


def text_chunk(size: int) -> bytes:
    body = b"a\0\0" + zlib.compress(bytes(size))
    crc = zlib.crc32(b"zTXt" + body)
    return struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", crc)


WRONG_IMAGES: dict[str, tuple[Callable[[], bytes], str, list[str]]] = {
    "empty": (lambda: b"", "png", ["another kind of file"]),
    "text": (lambda: b"hello", "png", ["intact image in PNG, JPEG", "another kind of file"]),
    "web page": (lambda: b"<html>", "jpg", ["another kind of file"]),
    "pickle": (lambda: b"cos\nsystem\n(S'touch ran'\ntR.", "png", ["another kind of file"]),
    "gif": (lambda: encoded(pixels(1), "GIF"), "png", ["another kind of file"]),
    "tiff": (lambda: encoded(pixels(1), "TIFF"), "png", ["another kind of file"]),
    "eps": (lambda: encoded(pixels(1), "EPS"), "png", ["another kind of file"]),
    "zip": (lambda: b"PK\5\6" + bytes(18), "png", ["another kind of file"]),
    "png signature": (lambda: b"\x89PNG\r\n\x1a\n", "png", ["intact image"]),
    "png without pixels": (lambda: png(5, 4), "png", ["found damage"]),
    "png not deflated": (lambda: flip(png(5, 4, bytes(64)), 44), "png", ["found damage"]),
    "png checksum": (lambda: flip(encoded(pixels(1)), -20), "png", ["found damage"]),
    "png last checksum": (lambda: flip(encoded(pixels(1)), -14), "png", ["found damage"]),
    "png of no height": (lambda: png(5, 0), "png", ["intact image"]),
    "png bomb": (lambda: png(2**16, 2**16), "png", ["67108864 pixels", "found many more"]),
    "png large bomb": (
        lambda: png(8193, 8192),
        "png",
        ["expected 1 to 67108864 pixels, found 8192 x 8193"],
    ),
    "png immense": (lambda: png(2**31 - 1, 2**31 - 1), "png", ["67108864 pixels"]),
    "png text bomb": (
        lambda: png(5, 4, bytes(64))[:33] + text_chunk(100 << 20) + png(5, 4, bytes(64))[33:],
        "png",
        ["found damage"],
    ),
    "png of 16 bits": (
        lambda: png(2, 2, bytes(10), b"\x10\0\0\0\0"),
        "png",
        ["8 bits a channel", "mode I"],
    ),
    "png cut": (lambda: encoded(pixels(1))[:-1], "png", ["found its end too early"]),
    "jpeg cut": (lambda: encoded(pixels(1), "JPEG")[:-2], "jpg", ["found its end too early"]),
    "jpeg head": (lambda: encoded(pixels(1), "JPEG")[:100], "jpeg", ["intact image"]),
    "bmp cut": (lambda: encoded(pixels(1), "BMP")[:-2], "bmp", ["found damage"]),
    "bmp bomb": (
        lambda: struct.pack("<2sIIIIiiHH", b"BM", 54, 0, 54, 40, 60000, 60000, 1, 24) + bytes(24),
        "bmp",
        ["67108864 pixels"],
    ),
    "ppm cut": (lambda: encoded(pixels(1), "PPM")[:-1], "ppm", ["found damage"]),
    "ppm bomb": (lambda: b"P6 99999 99999 255 abc", "ppm", ["67108864 pixels"]),
    "ppm of numbers cut": (lambda: b"P3 5 4 255 1 2 3", "ppm", ["found damage"]),
    "ppm of a negative size": (lambda: b"P6 -5 4 255 abc", "ppm", ["intact image"]),
    "pgm of 16 bits": (lambda: b"P5 2 2 65535 12345678", "pgm", ["8 bits a channel"]),
    "pfm": (lambda: b"Pf 1 1 -1.0\n1234", "pgm", ["expected"]),
    "another size": (lambda: encoded(pixels(1, (5, 4, 3))), "png", ["4 x 5", "found 5 x 4"]),
}
FEW = {"a": 3, "b": 3}
WRONG_FOLDERS: dict[str, tuple[Any, ...]] = {
    "train without test": (
        lambda p: write_classes(p / "train", FEW),
        ["a folder test beside train"],
        FileNotFoundError,
    ),
    "one class": (lambda p: write_classes(p, {"cat": 5}), ["2 or more classes, found cat"]),
    "no class": (lambda p: p.joinpath("x.txt").touch(), ["2 or more classes, found none"]),
    "images beside": (
        lambda p: (write_classes(p, FEW), write(p, {"x.png": b""})),
        ["in a folder for each class", "x.png beside them"],
    ),
    "empty class": (
        lambda p: (write_classes(p, FEW), (p / "c").mkdir()),
        ["c: expected images in the folder of a class, found none"],
    ),
    "hidden file only": (
        lambda p: (write_classes(p, FEW), write(p, {"c/.keep": b""})),
        ["c: expected images"],
    ),
    "another file": (
        lambda p: (write_classes(p, FEW), write(p, {"b/notes.txt": b""})),
        ["notes.txt: expected only files named .png"],
    ),
    "another format": (
        lambda p: (write_classes(p, FEW), write(p, {"b/x.webp": b""})),
        ["x.webp: expected only files named .png"],
    ),
    "folder in a class": (
        lambda p: (write_classes(p, FEW), write(p, {"b/deep/x.png": b""})),
        ["deep: expected only files"],
    ),
    "folder named as an image": (
        lambda p: (write_classes(p, FEW), write(p, {"b/deep.png/x.png": b""})),
        ["deep.png: expected only files"],
    ),
    "pipe": (
        lambda p: (write_classes(p, FEW), os.mkfifo(p / "b" / "pipe.png")),
        ["pipe.png: expected only files"],
    ),
    "dead link": (
        lambda p: (write_classes(p, FEW), (p / "b" / "x.png").symlink_to("nowhere")),
        ["x.png: expected only files"],
    ),
    "two images in a class": (
        lambda p: write_classes(p, {"a": 3, "b": 2}),
        ["b: expected 3 or more images", "found 2"],
    ),
    "class of an unreadable name": (
        lambda p: (write_classes(p, FEW), os.mkdir(os.fsencode(p) + b"/\xff\xfe")),
        ["names of one line in UTF-8", r"b'\xff\xfe'"],
    ),
    "file of an unreadable name": (
        lambda p: (write_classes(p, FEW), open(os.fsencode(p) + b"/a/\xff.png", "w").close()),
        ["names of one line in UTF-8", r"b'\xff.png'"],
    ),
    "class of two lines": (
        lambda p: write_classes(p, {"a\nb": 3, "c": 3}),
        ["names of one line", r"b'a\nb'"],
    ),
    "unknown test class": (
        lambda p: (write_classes(p / "train", FEW), write_classes(p / "test", {"c": 1})),
        ["c: expected a class that the training part has"],
    ),
    "empty test": (
        lambda p: (write_classes(p / "train", FEW), (p / "test").mkdir()),
        ["test: expected a folder for each class, found none"],
    ),
    "empty val": (
        lambda p: (
            write_classes(p / "train", FEW),
            write_classes(p / "test", FEW),
            (p / "val").mkdir(),
        ),
        ["val: expected a folder for each class, found none"],
    ),
    "one training class": (
        lambda p: (write_classes(p / "train", {"a": 3}), write_classes(p / "test", {"a": 3})),
        ["train: expected folders of 2 or more classes, found a"],
    ),
    "one training image": (
        lambda p: (write_classes(p / "train", {"a": 3, "b": 1}), write_classes(p / "test", FEW)),
        ["b: expected 2 or more images", "found 1"],
    ),
    "test of another size": (
        lambda p: (
            write_classes(p / "train", FEW),
            write_classes(p / "test", FEW, shape=(5, 5, 3)),
        ),
        ["test/a/000.png: expected 4 x 5 pixels", "found 5 x 5", "size=(h, w)"],
    ),
}

# What is of no kind, or not there.

WRONG_PLACES: dict[
    str,
    tuple[dict[str, bytes], Callable[[Path], object], type[Exception], list[str]],
] = {
    "no such data": ({}, at("none.npz", data.load), FileNotFoundError, ["none.npz"]),
    "no such name": (
        {},
        lambda folder: data.load("digitz"),
        FileNotFoundError,
        ["digitz: expected 'digits'", "found nothing there"],
    ),
    "no such model": ({}, at("none.npz", cnn.load), FileNotFoundError, ["none.npz"]),
    "a folder for a model": ({}, cnn.load, IsADirectoryError, ["Is a directory"]),
    "a folder for samples": ({}, data.read_samples, IsADirectoryError, ["Is a directory"]),
    "an empty folder": ({}, data.load, DATA_FORMAT, ["IDX files", "CIFAR-10", "an empty one"]),
    "another file": (
        {"a.csv": b"1,2"},
        at("a.csv", data.load),
        DATA_FORMAT,
        ["a.csv", "'digits'", "another kind"],
    ),
    "a folder of text": ({"a.txt": b""}, data.load, DATA_FORMAT, ["IDX files", "found 'a.txt'"]),
    "a deep image": ({"a/b/c.png": b""}, data.load, DATA_FORMAT, ["images", "found 'a'"]),
    "deep text": ({"a/b.txt": b""}, data.load, DATA_FORMAT, ["images", "found 'a'"]),
    "many files": (
        {f"{i}\n.txt": b"" for i in range(9)},
        data.load,
        DATA_FORMAT,
        [r"'0\n.txt'", r"'5\n.txt' and 3 more"],
    ),
    "one file of MNIST": (
        {"t10k-labels.idx1-ubyte": idx_bytes(np.zeros(5, np.uint8))},
        data.load,
        FileNotFoundError,
        ["train-images-idx3-ubyte or", ".gz"],
    ),
    "one batch of CIFAR-10": (
        {"data_batch_1": pickled()},
        data.load,
        FileNotFoundError,
        ["found no data_batch_2"],
    ),
}


# The table.


def all_cases() -> Iterator[Case]:
    configurations = {
        name: ({"meta": np.frombuffer(text, np.uint8)}, words)
        for name, (text, words) in WRONG_CONFIGURATIONS.items()
    }
    for name, (changes, words) in (configurations | WRONG_MODEL_MEMBERS).items():
        make = at("bad.npz", partial(write_model, changes=changes))
        yield Case("model", name, make, at("bad.npz", cnn.load), ["bad.npz", *words])
    for name, (make, words) in WRONG_MODEL_FILES.items():
        read = at("bad.npz", cnn.load)
        yield Case("model file", name, at("bad.npz", make), read, ["bad.npz", *words])
    for number, (changes, words) in enumerate(WRONG_NPZ_MEMBERS):
        make, read = at("bad.npz", partial(write_npz, **changes)), at("bad.npz", data.load_npz)
        yield Case("npz", f"{number} {words[0]}", make, read, ["bad.npz", *words])
    for name, (make, words) in WRONG_NPZ_FILES.items():
        read = at("bad.npz", data.load_npz)
        yield Case("npz file", name, at("bad.npz", make), read, ["bad.npz", *words])
    for name, (ending, content, words) in WRONG_SAMPLES.items():
        file = f"bad{ending}"
        yield Case("samples", name, put(file, content), at(file, data.read_samples), [file, *words])
    for name, (content, words) in WRONG_IDX.items():
        words = ["bad-idx", *words]
        yield Case("idx", name, put("bad-idx", content), at("bad-idx", data.read_idx), words)
    for name, (make, words) in WRONG_MNIST.items():
        yield Case("mnist", name, make, data.load, words)
    for name, (content, words) in WRONG_BINARY.items():
        for file in ("data_batch_2.bin", "test_batch.bin"):
            make = after(write_binary, put(file, content))
            yield Case("cifar", f"{name} {file}", make, data.load, [file, *words])
    for name, (content, words) in WRONG_PICKLES.items():
        make = after(write_python, put("data_batch_3", content))
        yield Case("cifar pickle", name, make, data.load, ["data_batch_3", *words])
    for name, (pickled_command, word) in HOSTILE.items():
        for file in ("data_batch_4", "batches.meta"):
            make = after(write_python, put(file, pickled_command(COMMAND)))
            words = [file, word, "nothing in it was executed"]
            yield Case("cifar pickle", f"{name} {file}", make, data.load, words)
    for name, found in WRONG_NAMES.items():
        words = ["batches.meta", "10 different class names"]
        text = after(write_binary, put("batches.meta.txt", "\n".join(found).encode()))
        yield Case("cifar", f"{name} text", text, data.load, words)
        names = after(write_python, put("batches.meta", meta_bytes(found)))
        yield Case("cifar", f"{name} pickle", names, data.load, words)
    for name, (content, ending, words) in WRONG_IMAGES.items():
        make = after(lambda p: write_classes(p, FEW), put(f"b/wrong.{ending}", content))
        words = [f"wrong.{ending}: expected", *words]
        yield Case("image", name, make, data.load, words)
    for name, (make, words, *error) in WRONG_FOLDERS.items():
        yield Case("images", name, make, data.load_images, words, *error)
    for name, (files, read, error, words) in WRONG_PLACES.items():
        yield Case("place", name, partial(write, files=files), read, words, error)


CASES = list(all_cases())


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=f"{case.kind}: {case.name}",
            marks=[needs_pillow] if case.kind.startswith("image") else [],
        )
        for case in CASES
    ],
)
def test_a_wrong_file(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert_refused(lambda: case.read(tmp_path), *case.words, error=case.error)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_table_is_long_and_all_of_it_runs() -> None:
    (mark,) = (mark for mark in test_a_wrong_file.pytestmark if mark.name == "parametrize")
    assert [parameter.values[0] for parameter in mark.args[1]] == CASES
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES) >= 60
    without_pillow = [case for case in CASES if not case.kind.startswith("image")]
    assert len(without_pillow) >= 60
    assert all(case.words for case in CASES)


@pytest.mark.parametrize("make", [make for make, _ in HOSTILE.values()], ids=HOSTILE)
def test_a_hostile_pickle_would_run_its_command(
    make: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = make(COMMAND).replace(b"numpy.core", b"numpy._core")
    pickle.loads(content, encoding="latin-1")
    assert os.listdir() == ["ran"]


# Right files, cut and changed at random.


class Good(NamedTuple):
    """A right file, and how it is read."""

    file: str
    make: Callable[[Path], object]  # in an empty folder
    read: Callable[[Path], Any]  # from that folder
    checksummed: bool = True
    head: int | None = None  # so many bytes of it are worth a change


GOOD = {
    "model": Good("a.npz", at("a.npz", partial(write_model, changes={})), at("a.npz", cnn.load)),
    "npz": Good(
        "a.npz", at("a.npz", partial(compressed, method=zipfile.ZIP_STORED)),
        at("a.npz", data.load_npz),
    ),
    "deflated npz": Good("a.npz", at("a.npz", write_npz), at("a.npz", data.load_npz)),
    "npy": Good("a.npy", put("a.npy", npy_bytes(X)), at("a.npy", data.read_samples), False),
    "idx": Good("a", put("a", GOOD_IDX), at("a", data.read_idx), False),
    "gzipped idx": Good("a", put("a", GOOD_GZIP), at("a", data.read_idx)),
    "cifar": Good("data_batch_2.bin", write_binary, data.load, False),
    "cifar pickle": Good(
        "data_batch_1", write_python, data.load, False,
        pickled().index(batch(0)[0].tobytes()[:9]),
    ),
    "cifar names": Good("batches.meta", write_python, data.load, False),
    **{
        ending: Good(
            f"a.{ending}",
            # Rows of 24 or 8 bytes: a BMP image pads others to a multiple of 4, which may miss.
            put(
                f"a.{ending}",
                partial(encoded, pixels(1, (4, 8, 1) if ending == "pgm" else (4, 8, 3)), form),
            ),
            at(f"a.{ending}", data.read_image),
            False,
        )
        for form, ending in FORMATS
    },
}  # fmt: skip
every_good = pytest.mark.parametrize(
    "good",
    [
        pytest.param(
            good, id=name, marks=[needs_pillow] if name in dict(map(reversed, FORMATS)) else []
        )
        for name, good in GOOD.items()
    ],
)


def contents(found: Any) -> list[tuple[Any, ...]]:
    """What was read, for comparisons."""
    arrays = [found[path] for path in found.paths()] if isinstance(found, cnn.Model) else found
    return [(a.dtype, a.shape, a.tobytes()) for a in map(np.asarray, arrays)]


@every_good
def test_a_file_cut_anywhere_is_refused(good: Good, tmp_path: Path) -> None:
    good.make(tmp_path)
    path = tmp_path / good.file
    content = path.read_bytes()
    random = np.random.RandomState(0)
    places = {*range(100), *random.randint(0, len(content), 150), len(content) - 1}
    for size in sorted(place for place in places if place < len(content)):
        path.write_bytes(content[:size])
        assert_refused(lambda: good.read(tmp_path), good.file)


def change(content: bytes, random: np.random.RandomState, head: int | None) -> bytes:
    """Change a byte, some bytes, or take out, double or blank a piece."""
    changed = bytearray(content)
    place, length = random.randint(0, head or len(content)), random.randint(1, 40)
    piece = changed[place : place + length]
    kind = random.randint(6)
    if kind == 0:
        changed[place] ^= 1 << random.randint(8)
    elif kind == 1:
        changed[place] = random.choice([0, 0x7F, 0x80, 0xFF])
    elif kind == 2:
        for at in random.randint(0, head or len(content), 3):
            changed[at] = random.randint(256)
    elif kind == 3:
        changed[place : place + length] = piece * 2
    elif kind == 4:
        changed[place : place + length] = bytes(len(piece))
    else:
        del changed[place : place + length]
    return bytes(changed)


@every_good
def test_a_file_changed_at_random_is_refused_or_read(good: Good, tmp_path: Path) -> None:
    good.make(tmp_path)
    path = tmp_path / good.file
    content, right = path.read_bytes(), contents(good.read(tmp_path))
    random = np.random.RandomState(1)
    messages = []
    tracemalloc.start()
    try:
        for _ in range(200):
            path.write_bytes(change(content, random, good.head))
            try:
                found = good.read(tmp_path)
            except cnn.DataFormatError as error:
                messages.append(str(error))
            else:
                # Else it was in what carries no meaning, such as a date.
                assert not good.checksummed or contents(found) == right
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert len(messages) >= 40
    assert all(good.file in message for message in messages)


# Of a right configuration each value in turn becomes each of these.
ODD = [
    None, True, False, 0, -1, 1, 2**31 - 1, 2**31, 2**64, HUGE, -HUGE, 0.5, 1e308, float("inf"),
    "", "x", "a\0b", "\ud800", [], [1], [[1, 2], [3, 4]], [1, 2, 3, 4, 5], [None], {}, {"a": 1},
    {"type": 5}, {"type": "ReLU"}, {"type": "He"}, {"type": "L2", "strength": 1}, nested(2),
]  # fmt: skip


def changed_values(value: Any) -> Iterator[Any]:
    """Copies of a tree of lists and dicts, each with one odd value."""
    yield from ODD
    items = value.items() if isinstance(value, dict) else ()
    for key, within in enumerate(value) if isinstance(value, list) else items:
        for odd in changed_values(within):
            copy = value.copy()
            copy[key] = odd
            yield copy


def test_an_odd_value_anywhere_in_a_configuration(tmp_path: Path) -> None:
    net = [
        cnn.Conv2d(2, 3, padding="same", init="glorot"), cnn.BatchNorm(), cnn.LeakyReLU(),
        cnn.MaxPool2d(2), cnn.Residual([cnn.Conv2d(2, 1, init=cnn.init.SmallGaussian())]),
        cnn.Concat([[], cnn.AvgPool2d(1)]), cnn.Flatten(), cnn.Maxout(2), cnn.ELU(),
        cnn.Dropout(0.5), cnn.Affine(2, name="last"),
    ]  # fmt: skip
    model = cnn.Model(
        net, (4, 4, 1), regularization=cnn.L2(1e-3), classes=["a", "b"],
        preprocessing=[cnn.ZeroCenter(), cnn.Whiten(kind="zca", eps=0.1), cnn.Normalize()],
    )  # fmt: skip
    model.fit_preprocessing(np.random.RandomState(0).rand(9, 4, 4, 1))
    path, again = tmp_path / "a.npz", tmp_path / "again.npz"
    model.save(path)
    with np.load(path) as source:
        arrays = dict(source)
    members = {name: npy_bytes(array) for name, array in arrays.items()}
    changed = list(changed_values(json.loads(bytes(arrays["meta"]))))
    messages = []
    for chosen in np.random.RandomState(0).choice(len(changed), 400, replace=False):
        text = json.dumps(changed[chosen]).replace("Infinity", "1e999").encode()
        write_zip(path, members | {"meta": npy_bytes(np.frombuffer(text, np.uint8))}, 0)
        try:
            found = cnn.load(path)
        except DATA_FORMAT as error:
            messages.append(str(error))
        else:
            found.save(again)
            assert cnn.load(again).digest() == model.digest()
    assert 200 < len(messages) < 390
    assert all("a.npz: " in message for message in messages)
