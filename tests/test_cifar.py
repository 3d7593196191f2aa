"""CIFAR-10 in both published forms; wrong files are in `test_wrong_files.py`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnncore import data
from cnncore.cli import main
from small_files import (
    BATCHES,
    NAMES,
    batch,
    meta_bytes,
    pickled,
    string,
    write_binary,
    write_python,
)

pytestmark = pytest.mark.usefixtures("small_batches")
WRITERS = [write_binary, write_python]


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


def test_the_command_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = b"cos\nsystem\n" + string(f"touch '{tmp_path}/ran'".encode()) + b"\x85R"
    (write_python(tmp_path) / "test_batch").write_bytes(pickled(extra=string(b"more") + command))
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
