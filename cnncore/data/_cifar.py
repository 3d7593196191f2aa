"""Read CIFAR-10 as it is published, in its binary or its Python version.

The formats are those on the page of the data set by A. Krizhevsky, V. Nair and G. Hinton: five
training batches and a test batch of 10,000 images of 32 x 32 pixels, channel-first, in ten classes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DataFormatError
from ..npz import read_bounded
from ._dataset import DEFAULT_VALIDATION, Dataset, Part, check_fraction, hold_out
from ._pickled import read_pickle

Bytes: TypeAlias = npt.NDArray[np.uint8]

_RECORDS = 10_000
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE
_CLASSES = 10
_PYTHON = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_BINARY = tuple(f"{name}.bin" for name in _PYTHON)
# A published pickle has 31.04 million bytes, a list of names some 100.
_MOST_BYTES = 1 << 25
_ADVICE = "download it again"


def is_cifar10(folder: Path) -> bool:
    """Tell whether the folder has a batch of CIFAR-10, by name."""
    return any((folder / name).is_file() for name in (*_BINARY, *_PYTHON))


def load_cifar10(folder: str | os.PathLike[str], validation: float = DEFAULT_VALIDATION) -> Dataset:
    """Load the six files of CIFAR-10, of its binary or of its Python version.

    They are data_batch_1 to data_batch_5 and test_batch, with .bin or without; of a folder with
    some of both, the version with more files is read. x becomes uint8 (n, 32, 32, 3). The names
    of the classes are taken from batches.meta.txt or batches.meta, if it is there. The pickles of
    the Python version are read by a reader of their own, which executes nothing.

    Args:
        folder: The folder that holds the files.
        validation: The fraction of the training part to hold out, as `load_npz` does.

    Raises:
        DataFormatError: a file is damaged or not of the published form.
        FileNotFoundError: one of the six files is missing.
        ValueError: `validation` is not between 0 and 1.
    """
    check_fraction(validation)
    place = Path(folder)
    names = max((_BINARY, _PYTHON), key=lambda names: sum((place / n).is_file() for n in names))
    for name in names:
        if not (place / name).is_file():
            raise FileNotFoundError(
                f"{place}: expected the files {', '.join(names)}, found no {name}"
            )
    binary = names is _BINARY
    classes = _read_names(place, binary)
    if binary:
        for name in names:
            _check_size(place / name, (place / name).stat().st_size)
    train = _read_part([place / name for name in names[:-1]], binary)
    test = _read_part([place / names[-1]], binary)
    train, val = hold_out(str(place), train, validation)
    return Dataset(*train, *val, *test, classes=classes)


def _read_part(paths: list[Path], binary: bool) -> Part:
    x = np.empty((len(paths), _RECORDS, _SIDE, _SIDE, 3), np.uint8)
    y = np.empty((len(paths), _RECORDS), np.int64)
    for path, images, labels in zip(paths, x, y, strict=True):
        pixels, classes = (_read_binary if binary else _read_python)(path)
        images[...] = pixels.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)
        labels[...] = classes
    return Part(x.reshape(-1, _SIDE, _SIDE, 3), y.reshape(-1))


def _read_binary(path: Path) -> tuple[Bytes, Bytes]:
    """Return pixels (n, 3072) and labels (n,)."""
    data = _read_file(path, _RECORDS * (1 + _PIXELS))
    _check_size(path, len(data))
    records = np.frombuffer(data, np.uint8).reshape(_RECORDS, 1 + _PIXELS)
    labels = records[:, 0]
    wrong = np.flatnonzero(labels >= _CLASSES)
    if len(wrong):
        _refuse_label(path, int(wrong[0]), labels[wrong[0]])
    return records[:, 1:], labels


def _check_size(path: Path, found: int) -> None:
    expected = _RECORDS * (1 + _PIXELS)
    if found != expected:
        more = "at least " if found > expected else ""
        raise DataFormatError(
            f"{path}: expected {expected} bytes, {_RECORDS} records of a label and {_PIXELS} "
            f"pixels, found {more}{found}; {_ADVICE}"
        )


def _read_python(path: Path) -> tuple[Bytes, list[int]]:
    """Return pixels (n, 3072) and labels (n,)."""
    found = _read_dictionary(path)
    pixels, labels = (_item(path, found, key) for key in (b"data", b"labels"))
    if not isinstance(pixels, np.ndarray) or pixels.shape != (_RECORDS, _PIXELS):
        kind = getattr(pixels, "shape", f"a value of type {type(pixels).__name__}")
        raise DataFormatError(
            f"{path}: expected data of shape {(_RECORDS, _PIXELS)}, found {kind}; {_ADVICE}"
        )
    if type(labels) is not list or len(labels) != _RECORDS:
        kind = f"{len(labels)}" if type(labels) is list else f"a {type(labels).__name__}"
        raise DataFormatError(f"{path}: expected a list of {_RECORDS} labels, found {kind}")
    for row, label in enumerate(labels):
        if type(label) is not int or not 0 <= label < _CLASSES:
            _refuse_label(path, row, label)
    return pixels, labels


def _read_dictionary(path: Path) -> dict[bytes, Any]:
    data = _read_file(path, _MOST_BYTES)
    if len(data) > _MOST_BYTES:
        raise DataFormatError(
            f"{path}: expected at most {_MOST_BYTES} bytes, found more; {_ADVICE}"
        )
    return read_pickle(str(path), data)


def _item(path: Path, found: dict[bytes, Any], key: bytes) -> Any:
    if key not in found:
        keys = ", ".join(ascii(k.decode("latin-1")) for k in sorted(found)[:10]) or "nothing"
        raise DataFormatError(f"{path}: expected {key.decode()!r} in the pickle, found {keys}")
    return found[key]


def _refuse_label(path: Path, row: int, label: Any) -> None:
    found = str(label) if isinstance(label, (int, np.integer)) else f"a {type(label).__name__}"
    raise DataFormatError(
        f"{path}: expected labels of 0 to {_CLASSES - 1}, found {found} in record {row}"
    )


def _read_file(path: Path, limit: int) -> bytearray:
    """Return the contents, or one byte more than `limit` of them."""
    with open(path, "rb") as file:
        return read_bounded(file, limit + 1)


def _read_names(folder: Path, binary: bool) -> tuple[str, ...]:
    """Return the names of the classes, or () without the file that gives them."""
    path = folder / ("batches.meta.txt" if binary else "batches.meta")
    if not path.is_file():
        return ()
    if binary:
        names = [line.strip() for line in bytes(_read_file(path, _MOST_BYTES)).split(b"\n")]
        names = [name for name in names if name]
    else:
        names = _item(path, _read_dictionary(path), b"label_names")
    found = tuple(map(_text, names)) if type(names) is list else ()
    if len(found) != _CLASSES or len(set(found)) < _CLASSES or "" in found:
        raise DataFormatError(f"{path}: expected {_CLASSES} different class names; {_ADVICE}")
    return found


def _text(name: Any) -> str:
    """Return a name as text; "" if it is none, or none that fits a line."""
    text = name.decode("ascii", "replace") if type(name) is bytes else ""
    return text if text.isprintable() else ""
