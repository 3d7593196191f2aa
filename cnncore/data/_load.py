"""The data set that comes with the package, and one entrance to all readers."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..errors import DataFormatError
from ..npz import Archive
from ._cifar import is_cifar10, load_cifar10
from ._dataset import Dataset, make_part
from ._idx import is_mnist, load_idx
from ._images import has_images, load_images
from ._npz import load_npz

_DIGITS_FILE = "digits.npz"
# Of the names in a folder that is none of those wanted.
_MOST_SHOWN = 6


def digits() -> Dataset:
    """Return 1,797 handwritten digits, 8 x 8 pixels each, without reading from the network.

    1,257 are for training, 180 for validation and 360 for testing, with the classes 0 to 9 in
    like shares. The grey levels 0..16 of the source are spread over 0..255 by
    round(v * 255 / 16), which keeps all 17 apart: uint8 stands for x / 255 in this library. x is
    uint8 (n, 8, 8, 1). Origin and licence: DIGITS.md beside this file.
    """
    with (files(__package__) / _DIGITS_FILE).open("rb") as stream:
        archive = Archive(stream, _DIGITS_FILE)
        levels, labels, split = (
            archive.read(archive.member(name, ("uint8",))) for name in ("images", "labels", "split")
        )
    images = np.rint(levels * (255 / 16)).astype(np.uint8)
    train, val, test = (
        make_part(_DIGITS_FILE, images[split == part], labels[split == part]) for part in range(3)
    )
    return Dataset(*train, *val, *test)


def load(path: str | os.PathLike[str]) -> Dataset:
    """Load the data set that `path` stands for.

    The string "digits" stands for `digits()` (a folder of that name is "./digits") and a name that
    ends in .npz for `load_npz`. What a folder stands for is seen by what is in it: `load_cifar10`
    by the names of its files, `load_idx` by theirs, otherwise `load_images`. All have their
    defaults.

    Raises:
        DataFormatError: the data are damaged, or the path is a file or folder of another kind.
        ImportError: it is a folder of images, and Pillow is not installed.
        OSError: there is nothing at the path, or it cannot be opened.
    """
    if path == "digits":
        return digits()
    place = Path(path)
    if place.is_dir():
        return _load_folder(place)
    if place.suffix.lower() == ".npz":
        return load_npz(place)
    expected = f"{place}: expected 'digits', an .npz file or a folder of data"
    if place.exists():
        raise DataFormatError(f"{expected}, found another kind of file")
    raise FileNotFoundError(f"{expected}, found nothing there")


def _load_folder(place: Path) -> Dataset:
    if is_cifar10(place):
        return load_cifar10(place)
    if is_mnist(place):
        return load_idx(place)
    if has_images(place):
        return load_images(place)
    names = sorted(os.listdir(place))
    found = ", ".join(map(ascii, names[:_MOST_SHOWN])) or "an empty one"
    if len(names) > _MOST_SHOWN:
        found += f" and {len(names) - _MOST_SHOWN} more"
    raise DataFormatError(
        f"{place}: expected a folder of IDX files (train-images-idx3-ubyte and so on), of CIFAR-10 "
        "(data_batch_1.bin or data_batch_1 and so on) or of images (<class>/*.png, or "
        f"train/<class>/*.png and test/<class>/*.png), found {found}"
    )
