"""Folders of images; wrong ones are in `test_wrong_files.py`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnncore import data
from cnncore.cli import main
from cnncore.data import _images
from small_files import (
    FORMATS,
    Image,
    assert_refused,
    encoded,
    needs_pillow,
    pixels,
    write,
    write_classes,
)


@needs_pillow
@pytest.mark.parametrize("load", [data.load_images, data.load])
def test_classes_in_folders_are_split_class_by_class(
    tmp_path: Path, load: Callable[[Path], data.Dataset]
) -> None:
    made = write_classes(tmp_path, {"dog": 20, "cat": 11, "Eel": 3})
    write(tmp_path, {"README.txt": b"about", ".hidden/x.txt": b"", "cat/.hidden.txt": b""})
    found = load(tmp_path)
    assert found.classes == ("Eel", "cat", "dog")
    assert [np.bincount(y).tolist() for y in found[1::2]] == [[1, 9, 16], [1, 1, 2], [1, 1, 2]]
    seen = {name: [] for name in made}
    for x, y in (found[0:2], found[2:4], found[4:6]):
        assert x.shape[1:] == (4, 5, 3)
        assert (x.dtype, y.dtype) == (np.uint8, np.int64)
        assert (np.diff(y) >= 0).all()
        for image, label in zip(x, y, strict=True):
            seen[found.classes[label]].append(image)
    for name, images in made.items():
        assert sorted(x.tobytes() for x in seen[name]) == sorted(x.tobytes() for x in images)


@needs_pillow
def test_the_split_is_frozen(tmp_path: Path) -> None:
    made = write_classes(tmp_path, {"a": 10, "b": 10})
    found = data.load_images(tmp_path, validation=0.2, test=0.3)
    stream = np.random.RandomState(0)
    orders = [stream.permutation(10) for _ in "ab"]
    for i, chosen in enumerate([slice(5, None), slice(2), slice(2, 5)]):
        parts = [made[n][np.sort(o[chosen])] for n, o in zip("ab", orders, strict=True)]
        np.testing.assert_array_equal(found[2 * i], np.concatenate(parts))


@needs_pillow
@pytest.mark.parametrize(("validation", "test"), [(0.9, 0.05), (0.05, 0.9), (1e-9, 1e-9)])
def test_every_class_is_in_every_part(tmp_path: Path, validation: float, test: float) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    found = data.load_images(tmp_path, validation=validation, test=test)
    assert [y.tolist() for y in found[1::2]] == [[0, 1]] * 3


@needs_pillow
@pytest.mark.parametrize("own_validation", [False, True])
def test_train_test_and_perhaps_val(tmp_path: Path, own_validation: bool) -> None:
    train = write_classes(tmp_path / "train", {"a": 4, "b": 10})
    test = write_classes(tmp_path / "test", {"b": 2, "a": 1})
    val = write_classes(tmp_path / "val", {"b": 3}) if own_validation else {}
    found = data.load(tmp_path)
    assert found.classes == ("a", "b")
    np.testing.assert_array_equal(found.x_test, np.concatenate([test["a"], test["b"]]))
    assert found.y_test.tolist() == [0, 1, 1]
    if own_validation:
        np.testing.assert_array_equal(found.x_train, np.concatenate([train["a"], train["b"]]))
        np.testing.assert_array_equal(found.x_val, val["b"])
        assert found.y_val.tolist() == [1, 1, 1]
    else:
        assert [np.bincount(y).tolist() for y in (found.y_train, found.y_val)] == [[3, 9], [1, 1]]


@needs_pillow
def test_train_may_be_a_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"train": 3, "bus": 3})
    assert data.load(tmp_path).classes == ("bus", "train")


@needs_pillow
@pytest.mark.parametrize(("form", "ending"), FORMATS)
def test_formats(tmp_path: Path, form: str, ending: str) -> None:
    shape = (4, 5, 1) if ending == "pgm" else (4, 5, 3)
    content = encoded(pixels(1, shape), form)
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image).reshape(shape)
    if form != "JPEG":
        np.testing.assert_array_equal(expected, pixels(1, shape))
    for name in (f"a.{ending}", f"b.{ending.upper()}"):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_array_equal(data.read_image(tmp_path / name), expected)
        np.testing.assert_array_equal(data.read_samples(tmp_path / name), expected[None])


@needs_pillow
def test_grey_stays_grey_unless_some_are_not(tmp_path: Path) -> None:
    made = write_classes(tmp_path, {"a": 3, "b": 3}, shape=(4, 5, 1))
    assert data.load(tmp_path).x_train.shape == (2, 4, 5, 1)
    write(tmp_path, {"b/colour.png": encoded(pixels(7))})
    found = data.load(tmp_path)
    assert found.x_train.shape[1:] == (4, 5, 3)
    grey = np.concatenate([x[y == 0] for x, y in (found[0:2], found[2:4], found[4:6])])
    assert sorted(x[..., 2].tobytes() for x in grey) == sorted(x.tobytes() for x in made["a"])


@needs_pillow
@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3)],
)
def test_modes_of_eight_bits(tmp_path: Path, mode: str, channels: int) -> None:
    options = {"transparency": b"\0\1"} if mode == "P" else {}
    (tmp_path / "a.png").write_bytes(encoded(pixels(1), mode=mode, **options))
    assert data.read_image(tmp_path / "a.png").shape == (4, 5, channels)
    assert data.read_image(tmp_path / "a.png", colour=True).shape == (4, 5, 3)


@needs_pillow
def test_size_resizes_all(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3})
    write_classes(tmp_path, {"b": 3}, shape=(9, 2, 3))
    found = data.load_images(tmp_path, size=(6, 8))
    assert [x.shape for x in found[0::2]] == [(2, 6, 8, 3)] * 3
    flat = np.full((3, 3, 3), 99, np.uint8)
    write(tmp_path / "flat", {f"{c}/{i}.png": encoded(flat) for c in "ab" for i in range(3)})
    assert (data.load_images(tmp_path / "flat", size=(5, 4)).x_train == 99).all()


@needs_pillow
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"validation": 0.0}, ValueError, "validation must be above 0"),
        ({"test": 1.0}, ValueError, "test must be above 0"),
        ({"validation": 0.5, "test": 0.5}, ValueError, "must be below 1"),
        ({"size": (0, 5)}, ValueError, "height must be"),
        ({"size": (5, 2.5)}, TypeError, "width must be an integer"),
        ({"size": (2**20, 2**20)}, ValueError, "at most 67108864 pixels"),
        ({"size": 5}, TypeError, "size must be"),
        ({"size": (5, 5, 3)}, ValueError, "size must be"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: Any, error: Any, words: str) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(error, match=words):
        data.load_images(tmp_path, **arguments)


@needs_pillow
def test_a_file_beyond_any_image_is_not_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_images, "_MOST_BYTES", 1000)
    (tmp_path / "a.bmp").write_bytes(encoded(pixels(1, (40, 50, 3)), "BMP"))
    assert_refused(lambda: data.read_image(tmp_path / "a.bmp"), "a.bmp", "more than 1000 bytes")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    os.mkfifo(tmp_path / "a.png")
    assert_refused(lambda: data.read_image(tmp_path / "a.png"), "another kind of file")


def test_without_pillow_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, {f"{c}/{i}.png": b"x" for c in "ab" for i in range(3)})
    monkeypatch.setitem(sys.modules, "PIL", None)
    for read in (data.load, data.load_images, lambda p: data.read_samples(p / "a/0.png")):
        with pytest.raises(ImportError, match=r"pip install 'cnncore\[images\]'"):
            read(tmp_path)
    assert main(["train", "--data", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "pip install 'cnncore[images]'" in err
    assert err.count("\n") == 1


@needs_pillow
def test_the_command_trains_on_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "pets", {"cat": 20, "dog": 20})
    monkeypatch.chdir(tmp_path)
    job = ["--model", "mlp", "--iterations", "3", "--batch-size", "8", "--out", "out"]
    assert main(["train", "--data", "pets", *job]) == 0
    assert "32 training, 4 validation, 4 test examples of 4x5x3, 2 classes" in (
        capsys.readouterr().out
    )
