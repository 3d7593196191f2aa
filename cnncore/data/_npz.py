"""Data sets in .npz files."""

from __future__ import annotations

import os

from ..npz import Archive, Member
from ._dataset import (
    DEFAULT_VALIDATION,
    Dataset,
    check_alike,
    check_fraction,
    check_part,
    hold_out,
    make_part,
)

SAMPLE_TYPES = ("uint8", "float32", "float64")
LABEL_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def load_npz(path: str | os.PathLike[str], validation: float | None = None) -> Dataset:
    """Load a data set from a file made by `numpy.savez` or `numpy.savez_compressed`.

    The file holds x_train, y_train, x_test and y_test, and perhaps x_val and y_val; further
    members are ignored. x is (n, features), (n, height, width) or (n, height, width, channels)
    of uint8, float32 or float64, y is (n,) of any integer type. Samples of three axes get a
    channel axis of length 1. Nothing is ever unpickled.

    Args:
        path: The file.
        validation: For a file without x_val, the fraction of the training part to hold out, by
            default 0.1. The choice is random, not stratified, but the same every time: see
            `hold_out` in `_dataset.py`.

    Raises:
        DataFormatError: the file is damaged, contradicts itself or is not as described above.
        ValueError: `validation` is not between 0 and 1, or is given for a file with x_val.
        OSError: the file cannot be opened.
    """
    source = os.fspath(path)
    if validation is not None:
        check_fraction(validation)
    with open(source, "rb") as stream:
        archive = Archive(stream, source)
        own = "x_val" in archive or "y_val" in archive
        if own and validation is not None:
            raise ValueError(f"{source} has a validation part, so validation cannot be given")
        names = ["train", "test", "val"] if own else ["train", "test"]
        members = {name: _members(archive, name) for name in names}
        check_alike({x.name: (x.shape, x.dtype) for x, _ in members.values()})
        parts = {
            name: make_part(y.name, archive.read(x), archive.read(y))
            for name, (x, y) in members.items()
        }
    if not own:
        fraction = DEFAULT_VALIDATION if validation is None else validation
        parts["train"], parts["val"] = hold_out(source, parts["train"], fraction)
    return Dataset(*parts["train"], *parts["val"], *parts["test"])


def _members(archive: Archive, part: str) -> tuple[Member, Member]:
    x = archive.member(f"x_{part}", SAMPLE_TYPES)
    y = archive.member(f"y_{part}", LABEL_TYPES)
    check_part(x.name, x.shape, y.name, y.shape)
    return x, y
