"""The data sets: right results from right files, and a clear refusal of all others."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cnncore import data

Array = npt.NDArray[Any]
IDX_TYPES = [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]


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


def assert_refused(read: Callable[[], object], *words: str) -> None:
    """Check that `read` raises DataFormatError with all the words, and allocates little."""
    tracemalloc.start()
    try:
        with pytest.raises(data.DataFormatError) as caught:
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    for word in words:
        assert word in str(caught.value)


def assert_held_out(found: data.Dataset, x: Array, y: Array, count: int) -> None:
    """Check that train and validation are the training part, divided by the frozen shuffle."""
    order = np.random.RandomState(0).permutation(len(y))
    for part, chosen in ((found[0:2], order[:-count]), (found[2:4], order[-count:])):
        np.testing.assert_array_equal(part[0], x[np.sort(chosen)])
        np.testing.assert_array_equal(part[1], y[np.sort(chosen)])


def test_digits_shapes_and_types() -> None:
    found = data.digits()
    assert [len(array) for array in found] == [1257, 1257, 180, 180, 360, 360]
    for x, y in (found[0:2], found[2:4], found[4:6]):
        assert x.shape[1:] == (8, 8, 1)
        assert x.dtype == np.uint8
        assert y.dtype == np.int64


def test_digits_split_is_stratified() -> None:
    found = data.digits()
    total = np.bincount(np.concatenate([found.y_train, found.y_val, found.y_test]))
    assert total.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for labels, share in ((found.y_train, 0.7), (found.y_val, 0.1), (found.y_test, 0.2)):
        assert np.abs(np.bincount(labels) - share * total).max() < 1.5


def test_digits_are_those_of_the_file_without_loss() -> None:
    with (files(data) / "digits.npz").open("rb") as stream, np.load(stream) as source:
        images, labels, split = source["images"], source["labels"], source["split"]
    assert images.max() == 16
    found = data.digits()
    for number, (x, y) in enumerate((found[0:2], found[2:4], found[4:6])):
        levels = np.rint(x[..., 0] * (16 / 255)).astype(np.uint8)
        np.testing.assert_array_equal(levels, images[split == number])
        np.testing.assert_array_equal(y, labels[split == number])
    assert np.unique(found.x_train).tolist() == [round(v * 255 / 16) for v in range(17)]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: (x / 7).astype("<f4"),
        lambda x: (x / 7).astype(">f4"),
        lambda x: (x / 7).astype("<f8"),
        lambda x: (x / 7).astype(">f8"),
        np.asfortranarray,
        lambda x: np.asfortranarray((x / 7).astype(">f8")),
        lambda x: x.reshape(len(x), -1),
    ],
    ids=["uint8", "float32", "big float32", "float64", "big float64", "fortran", "both", "rows"],
)
def test_npz_round_trip(tmp_path: Path, save: Any, change: Callable[[Array], Array]) -> None:
    arrays = {k: change(v) if k[0] == "x" else v for k, v in sample_arrays().items()}
    save(tmp_path / "a.npz", **arrays)
    found = data.load_npz(tmp_path / "a.npz")
    assert_held_out(found, arrays["x_train"], arrays["y_train"], 2)
    np.testing.assert_array_equal(found.x_test, arrays["x_test"])
    np.testing.assert_array_equal(found.y_test, arrays["y_test"])
    for x in (found.x_train, found.x_val, found.x_test):
        assert x.dtype == arrays["x_train"].dtype.newbyteorder("=")
        assert x.dtype.isnative
        assert x.flags.c_contiguous
        assert x.flags.writeable


@pytest.mark.parametrize("dtype", ["i1", ">i2", "<i4", ">i8", "u1", ">u2", "<u4", ">u8"])
def test_npz_labels_become_int64(tmp_path: Path, dtype: str) -> None:
    path = write_npz(tmp_path / "a.npz", y_test=np.array([4, 3, 2, 1, 0], dtype))
    found = data.load_npz(path)
    assert found.y_test.dtype == np.int64
    assert found.y_test.tolist() == [4, 3, 2, 1, 0]


def test_npz_own_validation_part_is_kept(tmp_path: Path) -> None:
    x_val, y_val = sample_arrays()["x_test"] + 1, np.array([9, 8, 7, 6, 5])
    path = write_npz(tmp_path / "a.npz", x_val=x_val, y_val=y_val)
    found = data.load_npz(path)
    np.testing.assert_array_equal(found.x_train, sample_arrays()["x_train"])
    np.testing.assert_array_equal(found.x_val, x_val)
    assert found.y_val.tolist() == [9, 8, 7, 6, 5]
    with pytest.raises(ValueError, match="has a validation part"):
        data.load_npz(path, validation=0.1)


@pytest.mark.parametrize(("fraction", "count"), [(0.25, 5), (1e-9, 1), (1 - 1e-9, 19)])
def test_npz_validation_fraction(tmp_path: Path, fraction: float, count: int) -> None:
    found = data.load_npz(write_npz(tmp_path / "a.npz"), validation=fraction)
    assert_held_out(found, sample_arrays()["x_train"], sample_arrays()["y_train"], count)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_validation_fraction_out_of_range(tmp_path: Path, fraction: float) -> None:
    write_mnist(tmp_path)
    path = write_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="above 0 and below 1"):
        data.load_npz(path, validation=fraction)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        data.load_idx(tmp_path, validation=fraction)


def test_npz_images_without_channels_get_one(tmp_path: Path) -> None:
    grey = {k: v[..., 0] for k, v in sample_arrays().items() if k[0] == "x"}
    found = data.load_npz(write_npz(tmp_path / "a.npz", **grey))
    np.testing.assert_array_equal(found.x_test, grey["x_test"][..., np.newaxis])


def test_npz_compressed_as_far_as_deflate_goes_is_read(tmp_path: Path) -> None:
    path = write_npz(
        tmp_path / "a.npz",
        x_train=np.zeros((20, 400, 300, 2), np.uint8),
        x_test=np.zeros((5, 400, 300, 2), np.uint8),
    )
    assert path.stat().st_size < 10_000
    assert data.load_npz(path).x_test.shape == (5, 400, 300, 2)


X_SHAPE = "(20, 4, 3, 2)"
PART_SIZES = {"train": 20, "test": 5}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
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
    ],
)
def test_npz_wrong_member_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    path = write_npz(tmp_path / "bad.npz", **changes)
    with warnings.catch_warnings():
        # numpy warns where it takes a damaged header for one of Python 2.
        warnings.simplefilter("ignore")
        assert_refused(lambda: data.load_npz(path), "bad.npz", *words)


@pytest.mark.parametrize(
    "content", [b"", b"text", npy_bytes(np.zeros(3))], ids=["empty", "text", "npy"]
)
def test_npz_that_is_no_zip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    assert_refused(lambda: data.load_npz(tmp_path / "bad.npz"), "bad.npz", "not a zip file")


def test_npz_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    content = write_npz(tmp_path / "good.npz").read_bytes()
    for size in range(0, len(content), 97):
        (tmp_path / "bad.npz").write_bytes(content[:size])
        assert_refused(lambda: data.load_npz(tmp_path / "bad.npz"), "bad.npz", "damage")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_npz_changed_anywhere_is_refused_or_harmless(tmp_path: Path, method: int) -> None:
    members = {name: npy_bytes(array) for name, array in sample_arrays().items()}
    path = write_zip(tmp_path / "bad.npz", members, method)
    good, content = data.load_npz(path), path.read_bytes()
    refusals = []
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        try:
            found = data.load_npz(path)
        except data.DataFormatError as error:
            refusals.append(str(error))
        else:
            for array, expected in zip(found, good, strict=True):
                np.testing.assert_array_equal(array, expected)
    assert len(refusals) > len(content) // 6
    assert all("bad.npz" in message for message in refusals)


def test_npz_with_a_name_twice_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "bad.npz")
    with (
        zipfile.ZipFile(path, "a") as archive,
        pytest.warns(UserWarning, match="Duplicate name"),
    ):
        archive.writestr("x_train.npy", npy_bytes(sample_arrays()["x_train"]))
    assert_refused(lambda: data.load_npz(path), "bad.npz", "once", "x_train.npy twice")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_compressed_in_another_way_is_refused(tmp_path: Path, method: int) -> None:
    members = {name: npy_bytes(array) for name, array in sample_arrays().items()}
    path = write_zip(tmp_path / "bad.npz", members, method)
    assert_refused(lambda: data.load_npz(path), "stored or deflated", f"method {method}")


def test_npz_with_more_data_than_header_and_directory_say_is_refused(tmp_path: Path) -> None:
    header = npy_header("'|u1'", X_SHAPE)
    path = write_npz(tmp_path / "bad.npz", x_train=header + bytes(64 << 20))
    claim_size(path, "x_train", len(header) + 480)
    assert_refused(lambda: data.load_npz(path), "x_train.npy: expected 480 bytes", "found 481")


def test_npz_with_less_data_than_header_and_directory_say_is_refused(tmp_path: Path) -> None:
    headers = {f"x_{p}": npy_header("'|u1'", f"({n}, {2**27})") for p, n in PART_SIZES.items()}
    path = write_npz(tmp_path / "bad.npz", **{k: h + bytes(480) for k, h in headers.items()})
    for part, n in PART_SIZES.items():
        claim_size(path, f"x_{part}", len(headers[f"x_{part}"]) + n * 2**27)
    assert_refused(lambda: data.load_npz(path), f"expected {20 * 2**27} bytes", "found 480")


@pytest.mark.parametrize(("code", "dtype"), IDX_TYPES)
@pytest.mark.parametrize("shape", [(6,), (3, 2), (1, 2, 3, 1)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_round_trip(
    tmp_path: Path, code: int, dtype: str, shape: tuple[int, ...], pack: Callable[[bytes], bytes]
) -> None:
    array = np.array([0, 1, 2, 100, -100, 7]).astype(dtype).reshape(shape)
    (tmp_path / "a").write_bytes(pack(idx_bytes(array, code)))
    found = data.read_idx(tmp_path / "a")
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    assert found.flags.writeable
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("mark", "-.")
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_mnist_folder(tmp_path: Path, mark: str, zipped: str) -> None:
    arrays = write_mnist(tmp_path, f"{mark}idx{{}}-ubyte{zipped}")
    for found in (data.load_idx(tmp_path), data.load(tmp_path)):
        assert_held_out(found, arrays["x_train"][..., np.newaxis], arrays["y_train"], 2)
        np.testing.assert_array_equal(found.x_test, arrays["x_test"][..., np.newaxis])
        np.testing.assert_array_equal(found.y_test, arrays["y_test"])
        assert found.x_test.dtype == np.uint8
        assert found.y_test.dtype == np.int64


GOOD_IDX = idx_bytes(np.arange(60, dtype=np.uint8).reshape(5, 4, 3))
GOOD_GZIP = gzip.compress(GOOD_IDX)
HUGE_IDX = b"\0\0\x08\2" + struct.pack(">2I", 2**20, 2**20)
WRONG_IDX = {
    "empty": (b"", ["start of an IDX file", "an empty file"]),
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


@pytest.mark.parametrize(("content", "words"), WRONG_IDX.values(), ids=WRONG_IDX)
def test_idx_wrong_file_is_refused(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "bad-idx").write_bytes(content)
    words = ["bad-idx", "download it again", *words]
    assert_refused(lambda: data.read_idx(tmp_path / "bad-idx"), *words)


def test_idx_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad-idx").write_bytes(idx_bytes(np.zeros((0, 2**20, 2**20), np.uint8)))
    assert_refused(lambda: data.read_idx(tmp_path / "bad-idx"), "bad-idx", "empty shape (0, ")


@pytest.mark.parametrize("content", [GOOD_IDX, GOOD_GZIP], ids=["plain", "gzip"])
def test_idx_truncated_anywhere_is_refused(tmp_path: Path, content: bytes) -> None:
    for size in range(len(content)):
        (tmp_path / "bad-idx").write_bytes(content[:size])
        assert_refused(lambda: data.read_idx(tmp_path / "bad-idx"), "bad-idx", "download it again")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_train": np.zeros(19, np.uint8)}, ["train-labels", "expected 20 labels", "found 19"]),
        (
            {"x_test": np.zeros((5, 2, 3), np.uint8)},
            ["t10k-images", "shape (4, 3, 1)", "found (2, 3, 1)"],
        ),
        ({"x_test": np.zeros(5, np.uint8)}, ["t10k-images", "3 dimensions", "uint8 of 1"]),
        ({"y_test": np.zeros((5, 1, 1), np.uint8)}, ["t10k-labels", "1 dim", "uint8 of 3"]),
    ],
)
def test_mnist_files_that_do_not_fit_are_refused(
    tmp_path: Path, changes: dict[str, Array], words: list[str]
) -> None:
    write_mnist(tmp_path, changes=changes)
    assert_refused(lambda: data.load_idx(tmp_path), *words)


def test_mnist_images_of_another_type_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    content = idx_bytes(np.zeros((20, 3, 2), np.float32), 13)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    assert_refused(lambda: data.load_idx(tmp_path), "train-images", "expected uint8", "float32")


def test_mnist_file_missing(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte or .*\.gz"):
        data.load_idx(tmp_path)


def test_load_finds_the_reader(tmp_path: Path) -> None:
    np.testing.assert_array_equal(data.load("digits").x_val, data.digits().x_val)
    path = write_npz(tmp_path / "A.NPZ")
    np.testing.assert_array_equal(data.load(str(path)).x_test, sample_arrays()["x_test"])


def test_load_of_anything_else(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    assert_refused(lambda: data.load(tmp_path / "a.csv"), "a.csv", "'digits'", "another kind")
    with pytest.raises(FileNotFoundError, match=r"digitz: expected 'digits'.* found nothing there"):
        data.load("digitz")
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        data.load(tmp_path / "none.npz")
