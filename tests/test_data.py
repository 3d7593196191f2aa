"""The data sets from right files; wrong ones are in `test_wrong_files.py`."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cnncore import data
from small_files import idx_bytes, sample_arrays, write_mnist, write_npz

Array = npt.NDArray[Any]
IDX_TYPES = [(8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")]


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


def test_load_finds_the_reader(tmp_path: Path) -> None:
    np.testing.assert_array_equal(data.load("digits").x_val, data.digits().x_val)
    path = write_npz(tmp_path / "A.NPZ")
    np.testing.assert_array_equal(data.load(str(path)).x_test, sample_arrays()["x_test"])
