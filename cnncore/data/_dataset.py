"""The data set type, its error, and the checks and the split that all readers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import DataFormatError

Samples: TypeAlias = npt.NDArray[np.uint8 | np.float32 | np.float64]
Labels: TypeAlias = npt.NDArray[np.int64]
Rows: TypeAlias = npt.NDArray[np.int64]
Shape: TypeAlias = tuple[int, ...]

DEFAULT_VALIDATION = 0.1
_SPLIT_SEED = 0


class _Parts(NamedTuple):
    x_train: Samples
    y_train: Labels
    x_val: Samples
    y_val: Labels
    x_test: Samples
    y_test: Labels


class Dataset(_Parts):
    """Samples and labels in three parts: a tuple of six arrays, and the names of the classes.

    The samples are images (n, height, width, channels) or feature rows (n, features), of one
    kind in all three parts: uint8, which stands for x / 255, or float32 / float64, which stands
    for itself. The labels are class numbers from 0, (n,) int64. `classes` has a name for each
    class, or is () where the source has no names; it is no item of the tuple.
    """

    classes: tuple[str, ...] = ()

    def __new__(
        cls,
        x_train: Samples,
        y_train: Labels,
        x_val: Samples,
        y_val: Labels,
        x_test: Samples,
        y_test: Labels,
        *,
        classes: tuple[str, ...] = (),
    ) -> Self:
        """Make a data set; see the class for what the arguments are."""
        made = super().__new__(cls, x_train, y_train, x_val, y_val, x_test, y_test)
        made.classes = classes
        return made


class Part(NamedTuple):
    """One part of a data set: samples (n, ...) and labels (n,)."""

    x: Samples
    y: Labels


def check_part(x_name: str, x_shape: Shape, y_name: str, y_shape: Shape) -> None:
    """Check that samples and labels have the right number of axes and belong together.

    Raises:
        DataFormatError: the samples have not 2 to 4 axes, the labels have not 1, or there are
            not as many labels as samples.
    """
    if not 2 <= len(x_shape) <= 4:
        raise DataFormatError(
            f"{x_name}: expected samples of shape (n, features), (n, height, width) or "
            f"(n, height, width, channels), found shape {x_shape}"
        )
    if len(y_shape) != 1:
        raise DataFormatError(f"{y_name}: expected labels of shape (n,), found shape {y_shape}")
    if x_shape[0] != y_shape[0]:
        raise DataFormatError(
            f"{y_name}: expected {x_shape[0]} labels, as many as samples in {x_name}, "
            f"found {y_shape[0]}"
        )


def check_alike(forms: Mapping[str, tuple[Shape, np.dtype[Any]]]) -> None:
    """Check that the samples of all parts, given by name, have one shape and one scale.

    Raises:
        DataFormatError: the parts differ in the shape of a sample, or some are uint8 (which is
            divided by 255 later) and some are floating point (which is not).
    """
    (first, (shape, dtype)), *others = forms.items()
    for name, (other_shape, other_dtype) in others:
        if other_shape[1:] != shape[1:]:
            raise DataFormatError(
                f"{name}: expected samples of shape {shape[1:]} as in {first}, "
                f"found {other_shape[1:]}"
            )
        if other_dtype.kind != dtype.kind:
            raise DataFormatError(
                f"{name}: expected samples of dtype {dtype} as in {first}, found {other_dtype} "
                "(uint8 stands for x / 255, floating point for itself)"
            )


def make_part(y_name: str, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Part:
    """Return checked arrays as a part; images (n, height, width) get a channel axis of 1.

    Raises:
        DataFormatError: a label is negative or does not fit into int64.
    """
    labels = y.astype(np.int64)
    # An unsigned label too large for int64 has become negative here.
    if labels.min() < 0:
        raise DataFormatError(
            f"{y_name}: expected class numbers from 0, found {y[labels.argmin()]}"
        )
    return Part(x[..., np.newaxis] if x.ndim == 3 else x, labels)


def check_fraction(fraction: float, name: str = "validation") -> None:
    """Raise ValueError unless the fraction is above 0 and below 1."""
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"{name} must be above 0 and below 1, got {fraction}")


def hold_out(source: str, part: Part, validation: float) -> tuple[Part, Part]:
    """Divide the training part into what remains of it and a validation part.

    The samples are shuffled, not stratified, and the last `validation` of them (rounded, but at
    least one sample on each side) are held out; both results keep the order of the file. The
    shuffle is that of `numpy.random.RandomState(0).permutation`, whose stream numpy has frozen,
    so a file is always divided in the same way.

    Raises:
        DataFormatError: there are fewer than two samples.
    """
    n = len(part.y)
    if n < 2:
        raise DataFormatError(
            f"{source}: expected 2 or more training samples to hold some out for validation, "
            f"found {n}"
        )
    count = min(max(round(n * validation), 1), n - 1)
    order = np.random.RandomState(_SPLIT_SEED).permutation(n)
    kept, held = np.sort(order[:-count]), np.sort(order[-count:])
    return Part(part.x[kept], part.y[kept]), Part(part.x[held], part.y[held])


def divide(labels: Labels, fractions: Sequence[float], names: Sequence[str]) -> list[Rows]:
    """Divide samples, class by class, into what remains and a part for each fraction.

    Every class gives each part its fraction (rounded, but at least one sample), by the frozen
    shuffle of `hold_out`, drawn for one class after the other. Returns the sorted rows of what
    remains and of each part.

    Raises:
        DataFormatError: a class, named by `names`, has not a sample for each part.
    """
    shuffle = np.random.RandomState(_SPLIT_SEED)
    parts: list[list[Rows]] = [[] for _ in range(len(fractions) + 1)]
    for number, name in enumerate(names):
        rows = shuffle.permutation(np.flatnonzero(labels == number))
        n = len(rows)
        if n < len(parts):
            raise DataFormatError(
                f"{name}: expected {len(parts)} or more images, one for each part, found {n}"
            )
        for i, fraction in enumerate(fractions):
            # One sample has to stay for each part still to come, and one in what remains.
            count = min(max(round(n * fraction), 1), len(rows) - len(fractions) + i)
            parts[i + 1].append(rows[:count])
            rows = rows[count:]
        parts[0].append(rows)
    return [np.sort(np.concatenate(part)) for part in parts]
