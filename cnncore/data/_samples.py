"""Read samples without labels, as they are given to a trained model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy.typing as npt

from ..errors import DataFormatError
from ..npz import Archive, read_npy
from ._idx import is_idx, read_idx
from ._images import SUFFIXES, is_image, read_image
from ._npz import SAMPLE_TYPES

_MEMBERS = ("x", "x_test")


def read_samples(path: str | os.PathLike[str], colour: bool = False) -> npt.NDArray[Any]:
    """Return the samples in a file, (n, ...): one of numpy, one in IDX format or an image.

    Of an .npz file the member x is read, or x_test if there is none; n of an image is 1. uint8
    stands for x / 255, as everywhere.

    Args:
        path: The file.
        colour: Give grey images, of which the format is PNG, JPEG, BMP or PGM, three channels.

    Raises:
        DataFormatError: the file is damaged or of another kind.
        ImportError: it is an image, and Pillow is not installed.
        OSError: it cannot be opened.
    """
    place = Path(path)
    source = os.fspath(path)
    if is_image(place):
        return read_image(place, colour)[None]
    with open(place, "rb") as stream:
        if place.suffix.lower() == ".npz":
            archive = Archive(stream, source)
            name = next((name for name in _MEMBERS if name in archive), _MEMBERS[0])
            return archive.read(archive.member(name, SAMPLE_TYPES))
        if place.suffix.lower() == ".npy":
            return read_npy(stream, source, SAMPLE_TYPES)
    if not is_idx(place):
        raise DataFormatError(
            f"{source}: expected a file .npz or .npy, an image ({' '.join(SUFFIXES)}) or a file "
            "in IDX format, found another kind"
        )
    return read_idx(place)
