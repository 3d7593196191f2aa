"""Read data sets in the IDX format of MNIST, plain or gzipped.

The format is the one given on the page of the MNIST database by Y. LeCun, C. Cortes and
C. J. C. Burges: two zero bytes, a type code, the number of dimensions, the dimensions as
big-endian 32-bit numbers, then the data in C order, big-endian.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataFormatError
from ..npz import MAX_RANK, Readable, native, read_bounded
from ._dataset import (
    DEFAULT_VALIDATION,
    Dataset,
    Part,
    check_alike,
    check_fraction,
    check_part,
    hold_out,
    make_part,
)

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP_MAGIC = b"\x1f\x8b"
_ADVICE = "download it again"
# Beginnings and ends of the names of MNIST's files: images and labels, for training and testing.
_STEMS = (
    ("train-images", "idx3-ubyte"),
    ("train-labels", "idx1-ubyte"),
    ("t10k-images", "idx3-ubyte"),
    ("t10k-labels", "idx1-ubyte"),
)


def read_idx(path: str | os.PathLike[str]) -> npt.NDArray[Any]:
    """Return the array in an IDX file, in native byte order.

    Whether the file is gzipped shows in its first bytes, not in its name. Memory is taken only
    for data that is really there, whatever the header declares.

    Raises:
        DataFormatError: the file is not an IDX file, is empty, or is shorter or longer than its
            header declares; or its gzip stream is damaged or followed by something else.
        OSError: the file cannot be opened.
    """
    source = os.fspath(path)
    with open(source, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        zipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        if not zipped:
            return _read_stream(source, file, size)
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                return _read_stream(source, stream, None)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataFormatError(
                f"{source}: expected a complete gzip stream, found {size} bytes of damaged, cut "
                f"off or over-long gzip data ({error}); {_ADVICE}"
            ) from error


def _read_stream(source: str, stream: Readable, size: int | None) -> npt.NDArray[Any]:
    """Read an IDX stream of `size` bytes, or of unknown size."""
    shape, dtype = _read_header(source, stream)
    expected = math.prod(shape) * dtype.itemsize
    header = 4 + 4 * len(shape)
    if size is not None:
        _check_size(source, header, expected, size - header)
    data = read_bounded(stream, expected + 1)
    _check_size(source, header, expected, len(data))
    return native(np.frombuffer(data, dtype).reshape(shape))


def _read_header(source: str, stream: Readable) -> tuple[tuple[int, ...], np.dtype[Any]]:
    magic = stream.read(4)
    if (
        len(magic) < 4
        or magic[:2] != b"\0\0"
        or magic[2] not in _TYPES
        or not 1 <= magic[3] <= MAX_RANK
    ):
        raise DataFormatError(
            f"{source}: expected the start of an IDX file (00 00, a type of 08 to 0e, a rank of "
            f"01 to {MAX_RANK:02x}), found {magic.hex(' ') or 'an empty file'}; {_ADVICE}"
        )
    rank = magic[3]
    sizes = stream.read(4 * rank)
    if len(sizes) < 4 * rank:
        raise DataFormatError(
            f"{source}: expected a header of {4 + 4 * rank} bytes, found {4 + len(sizes)}; "
            f"{_ADVICE}"
        )
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    if min(shape) < 1:
        raise DataFormatError(f"{source}: expected some data, found empty shape {shape}")
    return shape, np.dtype(_TYPES[magic[2]])


def _check_size(source: str, header: int, expected: int, found: int) -> None:
    if found != expected:
        more = "at least " if found > expected else ""
        raise DataFormatError(
            f"{source}: expected {header + expected} bytes (unzipped) by its header, found "
            f"{more}{header + found}; {_ADVICE}"
        )


def load_idx(folder: str | os.PathLike[str], validation: float = DEFAULT_VALIDATION) -> Dataset:
    """Load the four files of MNIST, or of a data set published in the same form.

    They are train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
    t10k-labels-idx1-ubyte, each possibly with a dot for the hyphen before "idx" and possibly
    with .gz; the first one found in the order plain, .gz, dotted, dotted .gz is used. The images
    become uint8 (n, height, width, 1).

    Args:
        folder: The folder that holds the files.
        validation: The fraction of the training part to hold out, as `load_npz` does.

    Raises:
        DataFormatError: a file is damaged (see `read_idx`), or they do not fit together.
        FileNotFoundError: one of the four files is missing.
        ValueError: `validation` is not between 0 and 1.
    """
    check_fraction(validation)
    place = Path(folder)
    found = [_find(place, *stem) for stem in _STEMS]
    paths = [(found[0], found[1]), (found[2], found[3])]
    train, test = (_read_part(x_path, y_path) for x_path, y_path in paths)
    forms = [(part.x.shape, part.x.dtype) for part in (train, test)]
    check_alike({str(x_path): form for (x_path, _), form in zip(paths, forms, strict=True)})
    train, val = hold_out(str(place), train, validation)
    return Dataset(*train, *val, *test)


def is_idx(path: Path) -> bool:
    """Tell whether a file begins as one in IDX format or a gzipped one does."""
    with open(path, "rb") as file:
        return file.read(2) in (b"\0\0", _GZIP_MAGIC)


def is_mnist(folder: Path) -> bool:
    """Tell whether the folder has one of the four files of MNIST, by name."""
    return any((folder / name).is_file() for stem in _STEMS for name in _names(*stem))


def _names(stem: str, ending: str) -> list[str]:
    return [f"{stem}{mark}{ending}{zipped}" for mark in "-." for zipped in ("", ".gz")]


def _find(folder: Path, stem: str, ending: str) -> Path:
    names = _names(stem, ending)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: expected a file {' or '.join(names)}, found none of them")


def _read_part(x_path: Path, y_path: Path) -> Part:
    x, y = _read_bytes(x_path, 3), _read_bytes(y_path, 1)
    check_part(str(x_path), x.shape, str(y_path), y.shape)
    return make_part(str(y_path), x, y)


def _read_bytes(path: Path, rank: int) -> npt.NDArray[Any]:
    array = read_idx(path)
    if array.dtype != np.uint8 or array.ndim != rank:
        raise DataFormatError(
            f"{path}: expected uint8 of {rank} dimensions, found {array.dtype} of {array.ndim}"
        )
    return array
