"""A model to a file and back: what of it is saved, and how it is checked on the way in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from . import config, files, inputs, levels
from .architecture import DTYPES, architecture
from .errors import DataFormatError
from .layers import Sequential
from .preprocessing import Chain
from .reference.case import Array
from .system import version

DECLARATIONS = ("net", "loss", "regularization", "preprocessing")
PLAIN = ("input_shape", "input_layout", "dtype", "seed", "classes", "precision")


def save(
    path: Any, arguments: Mapping[str, Any], preprocessing: Chain, state: Mapping[str, Array]
) -> None:
    """Writes a model file: what `Model` was called with, and its arrays."""
    meta = {name: config.to_json(arguments[name]) for name in DECLARATIONS}
    meta |= {name: arguments[name] for name in PLAIN}
    meta |= {"version": version(), "fitted": [step.fitted for step in preprocessing.steps]}
    files.save(path, meta, {**state, **preprocessing.members()})


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """The arguments for `Model` and its state, from a file that `save` wrote.

    Raises DataFormatError if it is anything else, OSError if it cannot be opened."""
    source = os.fspath(path)
    with open(source, "rb") as stream:
        file = files.ModelFile(stream, source)
        try:
            arguments, fitted = _arguments(file.meta)
            shape = inputs.input_shape(arguments["input_shape"], arguments["input_layout"])
            chain = Chain(arguments["preprocessing"], shape)
            members = chain.member_shapes(fitted)
            made = architecture(
                arguments["net"], chain.output_shape, arguments["dtype"],
                tuple(chain.lengths.items()), levels.precision(arguments["precision"]),
            )  # fmt: skip
        except (ValueError, TypeError, KeyError) as error:
            raise DataFormatError(f"{source}: its configuration is wrong: {error}") from None
        shapes = {path: layout.shape(path) for layout in made.layouts for path in layout}
        # Read before the model takes memory: what is not in the file is not allocated.
        arrays = file.arrays(shapes, arguments["dtype"])
        chain.take(file.arrays(members, "float64"))
        file.expect_only({**shapes, **members})
    return arguments | {"preprocessing": chain.steps}, arrays


def _arguments(meta: Mapping[str, Any]) -> tuple[dict[str, Any], list[bool]]:
    """Model's arguments from a file's meta, and which steps of preprocessing are fitted; KeyError,
    TypeError or ValueError if they are not."""
    # The first files did not have these.
    meta = {"preprocessing": [], "fitted": [], "classes": None, "precision": None, **meta}
    arguments = {name: config.from_json(meta[name]) for name in DECLARATIONS}
    if not isinstance(arguments["net"], Sequential):
        raise ValueError("net is not a Sequential")
    shape = meta["input_shape"]
    if not isinstance(shape, list):
        raise TypeError("input_shape is not a list")
    if meta["dtype"] not in DTYPES:
        raise ValueError(f"dtype {meta['dtype']!r} is unknown")
    steps, fitted = arguments["preprocessing"], meta["fitted"]
    if not isinstance(steps, tuple) or not isinstance(fitted, list) or len(fitted) != len(steps):
        raise ValueError("preprocessing and fitted are not lists of the same length")
    return arguments | {n: meta[n] for n in PLAIN} | {"input_shape": tuple(shape)}, fitted
