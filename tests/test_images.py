"""Folders of images, and the many ways in which they are no data set."""

from __future__ import annotations

import io
import os
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cnncore import data
from cnncore.cli import main
from cnncore.data import _images

try:
    from PIL import Image
except ImportError:
    Image = None

Array = npt.NDArray[Any]
needs_pillow = pytest.mark.skipif(Image is None, reason="Pillow is not installed")
FORMATS = [("PNG", "png"), ("BMP", "bmp"), ("PPM", "ppm"), ("PPM", "pgm"), ("JPEG", "jpg")]


def pixels(number: int, shape: tuple[int, ...] = (4, 5, 3)) -> Array:
    return np.random.RandomState(number).randint(0, 256, shape).astype(np.uint8)


def encoded(array: Array, form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """Return an array (h, w, c) as the contents of an image file."""
    image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    stream = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(stream, form, **options)
    return stream.getvalue()


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_classes(folder: Path, counts: Mapping[str, int], **options: Any) -> dict[str, Array]:
    """Write as many images of each class; return them by class."""
    shape = options.pop("shape", (4, 5, 3))
    made = {}
    for number, (name, count) in enumerate(counts.items()):
        made[name] = np.array([pixels(100 * number + i, shape) for i in range(count)])
        images = {f"{name}/{i:03}.png": encoded(x, **options) for i, x in enumerate(made[name])}
        write(folder, images)
    return made


def assert_refused(read: Callable[[], object], *words: str) -> None:
    """Check that `read` raises DataFormatError with all the words, and allocates little."""
    tracemalloc.start()
    try:
        with pytest.raises(data.DataFormatError) as caught:
            read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    for word in words:
        assert word in str(caught.value)


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
    write_classes(tmp_path, FEW)
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


def text_chunk(size: int) -> bytes:
    body = b"a\0\0" + zlib.compress(bytes(size))
    crc = zlib.crc32(b"zTXt" + body)
    return struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", crc)


@needs_pillow
@pytest.mark.parametrize(("make", "ending", "words"), WRONG_IMAGES.values(), ids=WRONG_IMAGES)
def test_wrong_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, ending: str, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_classes(tmp_path, {"a": 3, "b": 3})
    write(tmp_path, {f"b/wrong.{ending}": make()})
    assert_refused(lambda: data.load(tmp_path), f"wrong.{ending}: expected", *words)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@needs_pillow
@pytest.mark.parametrize(("form", "ending"), FORMATS)
def test_an_image_truncated_anywhere(tmp_path: Path, form: str, ending: str) -> None:
    # The rows of a BMP image are padded to a multiple of 4 bytes, and the last pad may be missing.
    content = encoded(pixels(1, (4, 8, 1) if ending == "pgm" else (4, 8, 3)), form)
    path = tmp_path / f"a.{ending}"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert_refused(lambda: data.read_image(path), f"a.{ending}: expected")


@needs_pillow
@pytest.mark.parametrize(("form", "ending"), FORMATS)
def test_an_image_changed_anywhere_is_refused_or_read(
    tmp_path: Path, form: str, ending: str
) -> None:
    content = encoded(pixels(1, (4, 5, 1) if ending == "pgm" else (4, 5, 3)), form)
    path = tmp_path / f"a.{ending}"
    messages = []
    for at in range(len(content)):
        path.write_bytes(flip(content, at))
        try:
            found = data.read_image(path)
        except data.DataFormatError as error:
            messages.append(str(error))
        else:
            assert found.dtype == np.uint8
    assert messages
    assert all(f"a.{ending}: expected" in message for message in messages)


FEW = {"a": 3, "b": 3}
WRONG_FOLDERS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
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


@needs_pillow
@pytest.mark.parametrize(("make", "words"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_wrong_folder(tmp_path: Path, make: Callable[[Path], object], words: list[str]) -> None:
    make(tmp_path)
    assert_refused(lambda: data.load_images(tmp_path), *words)


@needs_pillow
def test_train_without_test(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", FEW)
    with pytest.raises(FileNotFoundError, match="a folder test beside train"):
        data.load(tmp_path)


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


@pytest.mark.parametrize("files", [{}, {"a.txt": b""}, {"a/b/c.png": b""}, {"a/b.txt": b""}])
def test_a_folder_of_no_known_kind(tmp_path: Path, files: dict[str, bytes]) -> None:
    write(tmp_path, files)
    words = ["IDX files", "CIFAR-10", "images", "found 'a" if files else "found an empty one"]
    assert_refused(lambda: data.load(tmp_path), *words)


def test_a_folder_of_no_known_kind_with_many_files(tmp_path: Path) -> None:
    write(tmp_path, {f"{i}\n.txt": b"" for i in range(9)})
    assert_refused(lambda: data.load(tmp_path), r"'0\n.txt'", r"'5\n.txt' and 3 more")


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
