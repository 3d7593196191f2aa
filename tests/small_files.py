"""Small files of every kind that the package reads, as right or as wrong as a test wants them."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import cnncore as cnn
from cnncore import data

try:
    from PIL import Image
except ImportError:
    Image = None

Array = npt.NDArray[Any]
needs_pillow = pytest.mark.skipif(Image is None, reason="Pillow is not installed")
# No file made here is a tenth as large, but for those that are full of zeros.
MOST_MEMORY = 8 << 20


def assert_refused(
    read: Callable[[], object], *words: str, error: type[Exception] = data.DataFormatError
) -> None:
    """Check that `read` raises the error with all the words, and allocates little."""
    tracemalloc.start()
    try:
        with pytest.raises(error) as caught:
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.type is error
    assert peak < MOST_MEMORY
    for word in words:
        assert word in str(caught.value)


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


# Archives and arrays of numpy.


def sample_arrays() -> dict[str, Array]:
    """Return a small data set: 20 training and 5 test images of 4 x 3 x 2, labels 0..4."""
    rng = np.random.RandomState(3)
    return {
        "x_train": rng.randint(0, 256, (20, 4, 3, 2)).astype(np.uint8),
        "y_train": np.arange(20) % 5,
        "x_test": rng.randint(0, 256, (5, 4, 3, 2)).astype(np.uint8),
        "y_test": np.arange(5),
    }


def npy_bytes(array: Array, *, pickle: bool = False) -> bytes:
    """Return the array as the contents of an .npy file."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=pickle)
    return stream.getvalue()


def npy_header(descr: str, shape: str, version: bytes = b"\1\0") -> bytes:
    """Return an .npy header that may say anything."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text


def write_zip(path: Path, members: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write the members, x_train for x_train.npy, into a zip archive."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def claim_size(path: Path, name: str, size: int) -> None:
    """Let the directory of a zip archive say that a member has `size` bytes uncompressed."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(f"{name}.npy".encode()) - 46
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)


def write_npz(path: Path, **changes: bytes | Array | None) -> Path:
    """Write the sample arrays with members replaced, added or (None) left out."""
    members: dict[str, bytes] = {}
    for name, value in {**sample_arrays(), **changes}.items():
        if value is not None:
            members[name] = value if isinstance(value, bytes) else npy_bytes(value)
    return write_zip(path, members)


def small_model() -> cnn.Model:
    net = [cnn.Affine(4, name="first"), cnn.BatchNorm(), cnn.ReLU(), cnn.Affine(3)]
    return cnn.Model(net, (6,), regularization=cnn.L2(1e-3), classes=["a", "b", "c"])


def write_model(
    path: Path, changes: Mapping[str, bytes | Array | None], method: int = zipfile.ZIP_STORED
) -> Path:
    """Save a model with members replaced, added or (None) left out."""
    small_model().save(path)
    with zipfile.ZipFile(path) as archive:
        members = {n.removesuffix(".npy"): archive.read(n) for n in archive.namelist()}
    for name, value in changes.items():
        members.pop(name, None)
        if value is not None:
            members[name] = value if isinstance(value, bytes) else npy_bytes(value)
    return write_zip(path, members, method)


# IDX.


def idx_bytes(array: Array, code: int = 8) -> bytes:
    """Return the array as the contents of an IDX file."""
    magic = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return magic + array.astype(array.dtype.newbyteorder(">")).tobytes()


def write_mnist(
    folder: Path, ending: str = "-idx{}-ubyte", changes: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """Write the four files of MNIST, 20 + 5 images of 4 x 3; return what they hold."""
    arrays = sample_arrays()
    files_of = {
        "x_train": ("train-images", 3, arrays["x_train"][..., 0]),
        "y_train": ("train-labels", 1, arrays["y_train"]),
        "x_test": ("t10k-images", 3, arrays["x_test"][..., 0]),
        "y_test": ("t10k-labels", 1, arrays["y_test"]),
    }
    written = {}
    for key, (stem, rank, array) in files_of.items():
        written[key] = (changes or {}).get(key, array.astype(np.uint8))
        content = idx_bytes(written[key])
        packed = gzip.compress(content) if ending.endswith(".gz") else content
        (folder / (stem + ending.format(rank))).write_bytes(packed)
    return written


# CIFAR-10, of which the fixture `small_batches` makes a batch have as few records.

RECORDS = 10
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
U1_STATE = b"(K\3U\1|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"
U1 = DTYPE + b"U\2u1K\0K\1\x87R" + U1_STATE + b"b"
NOTHING = RECONSTRUCT + NDARRAY + b"K\0\x85U\1b\x87R"


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


# Images.

FORMATS = [("PNG", "png"), ("BMP", "bmp"), ("PPM", "ppm"), ("PPM", "pgm"), ("JPEG", "jpg")]


def pixels(number: int, shape: tuple[int, ...] = (4, 5, 3)) -> Array:
    return np.random.RandomState(number).randint(0, 256, shape).astype(np.uint8)


def encoded(array: Array, form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """Return an array (h, w, c) as the contents of an image file."""
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    stream = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(stream, form, **options)
    return stream.getvalue()


def write_classes(folder: Path, counts: Mapping[str, int], **options: Any) -> dict[str, Array]:
    """Write as many images of each class; return them by class."""
    shape = options.pop("shape", (4, 5, 3))
    made = {}
    for number, (name, count) in enumerate(counts.items()):
        made[name] = np.array([pixels(100 * number + i, shape) for i in range(count)])
        images = {f"{name}/{i:03}.png": encoded(x, **options) for i, x in enumerate(made[name])}
        write(folder, images)
    return made
