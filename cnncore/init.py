"""Initial weights. Each draws from a frozen stream: one generator for each seed and path.

The variance is what the names say; fan_in counts the inputs of one neuron (r s c of a filter)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from .reference.case import Array
from .shapes import Shape, number, settle


def generator(seed: int, path: str) -> np.random.RandomState:
    """Philox keyed by seed and path, under RandomState, whose distributions never change."""
    import hashlib

    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    key = np.array([seed, int.from_bytes(digest, "little")], np.uint64)
    return np.random.RandomState(np.random.Philox(key=key))


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of weights (d, m) or filters (r, s, c, k)."""
    window = prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


@dataclass(frozen=True)
class Initialization:
    """Zero-mean gaussian weights; a subclass says with which standard deviation."""

    def std(self, shape: Shape) -> float:
        raise NotImplementedError

    def draw(self, seed: int, path: str, shape: Shape) -> Array:
        """float64 values of the given shape."""
        return generator(seed, path).standard_normal(shape) * self.std(shape)


@dataclass(frozen=True)
class SmallGaussian(Initialization):
    """0.01 randn: for small nets only, deeper ones lose their signal (cs231n, setting up)."""

    scale: float = 0.01

    def __post_init__(self) -> None:
        settle(self, scale=number("scale", self.scale, 0, float("inf"), open_high=True))

    def std(self, shape: Shape) -> float:
        return self.scale


@dataclass(frozen=True)
class LeCun(Initialization):
    """randn / sqrt(fan_in) (LeCun et al. 1998), which the course's early notes call Xavier."""

    def std(self, shape: Shape) -> float:
        return 1 / sqrt(fans(shape)[0])


@dataclass(frozen=True)
class Glorot(Initialization):
    """Variance 2 / (fan_in + fan_out) (Glorot and Bengio 2010)."""

    def std(self, shape: Shape) -> float:
        return sqrt(2 / sum(fans(shape)))


@dataclass(frozen=True)
class He(Initialization):
    """Variance 2 / fan_in, for layers before a ReLU (He et al. 2015)."""

    def std(self, shape: Shape) -> float:
        return sqrt(2 / fans(shape)[0])


NAMES: dict[str, Initialization] = {
    "gaussian": SmallGaussian(),
    "lecun": LeCun(),
    "glorot": Glorot(),
    "he": He(),
}


def resolve(init: object, rectified: bool) -> Initialization:
    """The initialization meant by `init`: an instance, a name, or None for He before a ReLU and
    LeCun elsewhere."""
    if init is None:
        return NAMES["he" if rectified else "lecun"]
    if isinstance(init, str) and init in NAMES:
        return NAMES[init]
    if isinstance(init, Initialization):
        return init
    raise ValueError(f"init must be one of {', '.join(NAMES)} or an Initialization, not {init!r}")
