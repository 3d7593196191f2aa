"""Read folders of images, one folder for each class.

Pillow decodes them. It is an extra: nothing else here needs it, and it is imported where it is
used. It gets to read four formats only, and whatever it raises is the fault of the file.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DataFormatError
from ..npz import read_bounded
from ..shapes import integer
from ._dataset import DEFAULT_VALIDATION, Dataset, Part, Shape, check_fraction, divide

Bytes: TypeAlias = npt.NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")
DEFAULT_TEST = 0.1
_FORMATS = ("PNG", "JPEG", "BMP", "PPM")
# 8192 x 8192, and what these take uncompressed with four channels.
_MOST_PIXELS = 1 << 26
_MOST_BYTES = 4 * _MOST_PIXELS
# Pillow's modes of 8 bits a channel and below.
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "RGB", "RGBA", "CMYK")
# What stands before the last data of an image, and what has to come after them, where the decoder
# does not insist on that but fills up what is missing. Neither occurs in the data of a JPEG scan.
_ENDS = {"PNG": (b"IDAT", b"IEND\xae\x42\x60\x82"), "JPEG": (b"\xff\xda", b"\xff\xd9")}


class _Head(NamedTuple):
    """What the header of an image says."""

    height: int
    width: int
    grey: bool


class _Listing(NamedTuple):
    """Paths of images and the numbers of their classes."""

    paths: list[Path]
    labels: npt.NDArray[np.int64]


def is_image(path: Path) -> bool:
    """Tell whether the name is that of an image."""
    return path.suffix.lower() in SUFFIXES


def has_images(folder: Path) -> bool:
    """Tell whether a folder has images in the places where `load_images` looks for them."""
    return any(is_image(path) for form in ("*/*", "train/*/*") for path in folder.glob(form))


def load_images(
    folder: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    validation: float = DEFAULT_VALIDATION,
    test: float = DEFAULT_TEST,
) -> Dataset:
    """Load a folder of PNG, JPEG, BMP, PPM or PGM images; the extra `images` has what reads them.

    The folder has either <class>/<image>, of which parts are held out, or train/<class>/<image>,
    test/<class>/<image> and perhaps val/<class>/<image>. Classes are numbered in the order of
    their sorted names, which `classes` of the result keeps; images come in the order of classes
    and names. They become uint8 (n, height, width, 1) if all are grey, otherwise
    (n, height, width, 3). Transparency and orientation tags are ignored, hidden files are too.

    Args:
        folder: The folder.
        size: (height, width) to which all are resized, bilinearly. Without it, all have to be of
            one size.
        validation: The fraction of the training part to hold out where there is no val folder.
        test: The fraction to hold out for testing where there are no train and test folders. Both
            are fractions of all images, random but the same every time, and of every class.

    Raises:
        DataFormatError: an image is damaged or of another kind or size, or the folder is not as
            described above.
        FileNotFoundError: there is a train folder but no test folder.
        ImportError: Pillow is not installed.
        ValueError, TypeError: an argument is not as described above.
    """
    check_fraction(validation)
    check_fraction(test, "test")
    if validation + test >= 1:
        raise ValueError(f"validation + test must be below 1, got {validation + test}")
    size = None if size is None else _check_target(size)
    _pillow()
    place = Path(folder)
    classes, parts = _list_parts(place, validation, test)
    paths = [path for part in parts for path in part.paths]
    with warnings.catch_warnings():
        # Pillow warns of images that are large, though smaller than what is refused here.
        warnings.simplefilter("ignore")
        heads = [_read_head(path) for path in paths]
        if size is None:
            _check_alike(paths, heads)
        shape = (*(size or heads[0][:2]), 1 if all(head.grey for head in heads) else 3)
        train, val, test_part = (_read_part(part, shape, size is not None) for part in parts)
    return Dataset(*train, *val, *test_part, classes=classes)


def read_image(path: str | os.PathLike[str], colour: bool = False) -> Bytes:
    """Return one image as uint8 (height, width, channels): 1 channel if it is grey, otherwise 3.

    Args:
        path: The file.
        colour: Give a grey image three channels, too.

    Raises:
        DataFormatError: the image is damaged or of another kind.
        ImportError: Pillow is not installed.
        OSError: the file cannot be opened.
    """
    place = Path(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = _read_head(place)
        shape = (head.height, head.width, 1 if head.grey and not colour else 3)
        return _read_pixels(place, shape, resize=False)


def _check_target(size: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(size, tuple | list):
        raise TypeError(f"size must be (height, width), not {size!r}")
    if len(size) != 2:
        raise ValueError(f"size must be (height, width), not {size!r}")
    height, width = integer("height", size[0]), integer("width", size[1])
    if height * width > _MOST_PIXELS:
        raise ValueError(f"size must be of at most {_MOST_PIXELS} pixels, not {size!r}")
    return height, width


def _list_parts(
    place: Path, validation: float, test: float
) -> tuple[tuple[str, ...], list[_Listing]]:
    """Return the names of the classes, and what is in the parts train, val and test."""
    train_folder = place / "train"
    if not (train_folder.is_dir() and any(path.is_dir() for path in train_folder.iterdir())):
        classes, listing = _list_classes(place)
        fractions = (validation, test)
        return classes, _divide(place, listing, fractions, classes)
    if not (place / "test").is_dir():
        raise FileNotFoundError(f"{place}: expected a folder test beside train, found none")
    classes, train = _list_classes(train_folder)
    _, test_part = _list_classes(place / "test", classes)
    if (place / "val").is_dir():
        _, val = _list_classes(place / "val", classes)
        return classes, [train, val, test_part]
    train, val = _divide(train_folder, train, (validation,), classes)
    return classes, [train, val, test_part]


def _divide(
    place: Path, listing: _Listing, fractions: Sequence[float], classes: Iterable[str]
) -> list[_Listing]:
    rows_of_parts = divide(listing.labels, fractions, [str(place / name) for name in classes])
    return [
        _Listing([listing.paths[row] for row in rows], listing.labels[rows])
        for rows in rows_of_parts
    ]


def _list_classes(
    folder: Path, known: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...], _Listing]:
    """Return the classes in a folder, of which the `known` ones give the numbers, and the images.

    Raises:
        DataFormatError: there are less than two classes, or others than those known; a class has
            no images, or something else.
    """
    entries = _entries(folder)
    found = tuple(path.name for path in entries if path.is_dir())
    stray = [path.name for path in entries if is_image(path) and not path.is_dir()]
    if stray:
        raise DataFormatError(
            f"{folder}: expected images in a folder for each class, found {stray[0]} beside them"
        )
    if known is None:
        known = found
        if len(known) < 2:
            names = ", ".join(known) or "none"
            raise DataFormatError(f"{folder}: expected folders of 2 or more classes, found {names}")
    paths: list[Path] = []
    labels: list[int] = []
    for name in found:
        if name not in known:
            raise DataFormatError(
                f"{folder / name}: expected a class that the training part has, found another"
            )
        images = _list_images(folder / name)
        paths += images
        labels += [known.index(name)] * len(images)
    if not paths:
        raise DataFormatError(f"{folder}: expected a folder for each class, found none")
    return known, _Listing(paths, np.array(labels, np.int64))


def _list_images(folder: Path) -> list[Path]:
    paths = _entries(folder)
    for path in paths:
        if not (is_image(path) and path.is_file()):
            raise DataFormatError(
                f"{path}: expected only files named {' '.join(SUFFIXES)} in the folder of a "
                "class, found this"
            )
    if not paths:
        raise DataFormatError(f"{folder}: expected images in the folder of a class, found none")
    return paths


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, except for hidden files, sorted by name."""
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    for name in names:
        # Other names can neither be printed nor kept in a file.
        if any("\ud800" <= c <= "\udfff" for c in name) or name.splitlines() != [name]:
            raise DataFormatError(
                f"{folder}: expected names of one line in UTF-8, found {os.fsencode(name)!r}"
            )
    return [folder / name for name in names]


def _check_alike(paths: Sequence[Path], heads: Sequence[_Head]) -> None:
    first = heads[0]
    for path, head in zip(paths, heads, strict=True):
        if head[:2] != first[:2]:
            raise DataFormatError(
                f"{path}: expected {first.height} x {first.width} pixels as in {paths[0]}, found "
                f"{head.height} x {head.width}; load_images(folder, size=(h, w)) resizes"
            )


def _read_part(listing: _Listing, shape: Shape, resize: bool) -> Part:
    x = np.empty((len(listing.paths), *shape), np.uint8)
    for row, path in enumerate(listing.paths):
        x[row] = _read_pixels(path, shape, resize)
    return Part(x, listing.labels)


def _read_head(path: Path) -> _Head:
    """Return what the header says; the file is checked as far as that goes without decoding."""
    with _opened(path) as image:
        width, height = image.size
        grey, file_format = image.mode in _GREY, image.format
        # Of a PNG image, this compares the checksums.
        image.verify()
    if file_format in _ENDS:
        last, end = _ENDS[file_format]
        data = _contents(path)
        if data.rfind(end) < data.rfind(last):
            raise _damage(path, "its end too early")
    return _Head(height, width, grey)


def _read_pixels(path: Path, shape: Shape, resize: bool) -> Bytes:
    height, width, channels = shape
    with _opened(path) as image:
        image.info.pop("transparency", None)
        plain = image.convert("L" if channels == 1 else "RGB")
        if resize and plain.size != (width, height):
            plain = plain.resize((width, height), _pillow().Resampling.BILINEAR)
        return np.array(plain, np.uint8).reshape(shape)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image with Pillow; what goes wrong then is the fault of the file."""
    pillow = _pillow()
    stream = io.BytesIO(_contents(path))
    try:
        with pillow.open(stream, formats=_FORMATS) as image:
            width, height = image.size
            if not 1 <= width * height <= _MOST_PIXELS:
                raise _bomb(path, f"{height} x {width}")
            if image.mode not in (*_GREY, *_COLOUR):
                raise DataFormatError(
                    f"{path}: expected 8 bits a channel, found an image of mode {image.mode}"
                )
            yield image
    except (DataFormatError, MemoryError):
        raise
    except pillow.DecompressionBombError as error:
        raise _bomb(path, "many more") from error
    except pillow.UnidentifiedImageError as error:
        raise _damage(path, "another kind of file") from error
    except Exception as error:
        raise _damage(path, f"damage ({error})") from error


def _damage(path: Path, found: str) -> DataFormatError:
    return DataFormatError(
        f"{path}: expected an intact image in PNG, JPEG, BMP, PPM or PGM format, found {found}"
    )


def _bomb(path: Path, found: str) -> DataFormatError:
    return DataFormatError(f"{path}: expected 1 to {_MOST_PIXELS} pixels, found {found}")


def _contents(path: Path) -> bytearray:
    # Not to wait for what may never come from a pipe of that name.
    if not stat.S_ISREG(path.stat().st_mode):
        raise _damage(path, "another kind of file")
    with open(path, "rb") as file:
        data = read_bounded(file, _MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise _damage(path, f"more than {_MOST_BYTES} bytes")
    return data


def _pillow() -> Any:
    try:
        from PIL import Image  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise ImportError(
            "reading images needs Pillow: pip install 'cnncore[images]' brings it"
        ) from error
    return Image
