"""Preprocessing: fitted on the training data, applied wherever data enter a model.

(cs231n, neural networks 2, "Data preprocessing".) Examples x are (n, d) or (n, h, w, c); uint8
means x / 255. All statistics are computed in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, prod
from typing import Any, ClassVar

import numpy as np

from . import inputs, ops
from .errors import NotFittedError
from .reference.case import Array
from .shapes import Shape, integer, number, one_of

# Elements of the examples that are worked on at a time, as float64.
CHUNK = 1 << 21
# Features of which a covariance matrix is still taken: 2 GiB of it.
MOST_FEATURES = 1 << 14

Source = Callable[[], Iterable[Array]]


class Preprocessing:
    """One step of preprocessing. `arrays` holds what it was fitted to, nothing before."""

    arrays: dict[str, Array]

    def __post_init__(self) -> None:
        self.arrays = {}

    @property
    def fitted(self) -> bool:
        return bool(self.arrays)

    def fit(self, x: Any) -> Any:
        """Takes its statistics from x (n, ...) and returns itself. ValueError or TypeError for what
        is not an array of finite numbers."""
        data = _examples(x)
        self.learn(lambda: chunks(data), data.shape[1:])
        return self

    def transform(self, x: Any) -> Array:
        """x (n, ...) preprocessed: float64 if x is, else float32. NotFittedError before `fit`,
        ValueError for examples of another shape."""
        data = _examples(x)
        self.check_fitted(data.shape[1:])
        dtype = "float64" if data.dtype == np.float64 else "float32"
        return np.concatenate([self.apply(chunk, dtype) for chunk in chunks(data)])

    def fit_transform(self, x: Any) -> Array:
        """`fit` and then `transform`."""
        transformed: Array = self.fit(x).transform(x)
        return transformed

    def check_fitted(self, shape: Shape) -> None:
        if not self.fitted:
            raise NotFittedError(f"{self} is not fitted yet: call fit(x_train) first")
        for name, expected in self.array_shapes(shape).items():
            if self.arrays[name].shape != expected:
                raise ValueError(f"{self} was not fitted to examples of shape {shape}")

    def infer(self, shape: Shape) -> Shape:
        """The shape of an example afterwards."""
        return shape

    def array_shapes(self, shape: Shape) -> dict[str, Shape]:
        """Of `arrays`, fitted to examples of this shape."""
        raise NotImplementedError

    def learn(self, source: Source, shape: Shape) -> None:
        """Fills `arrays` from the float64 chunks that `source()` gives, as often as it is asked."""
        raise NotImplementedError

    def apply(self, x: Array, dtype: str) -> Array:
        """The float64 examples x preprocessed, as `dtype`."""
        raise NotImplementedError


class Scaling(Preprocessing):
    """(x - mean) * scale, either of which may be absent. `per`: what has a value of its own."""

    PER: ClassVar[tuple[str, ...]] = ("dataset", "channel", "feature")
    shifts: ClassVar[bool]
    scales: ClassVar[bool]
    per: str

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("per", self.per, self.PER)

    def value_shape(self, shape: Shape) -> Shape:
        """Of mean and scale: (), (c,) or an example's."""
        return {"dataset": (), "channel": shape[-1:], "feature": shape}[self.per]

    def array_shapes(self, shape: Shape) -> dict[str, Shape]:
        present = {"mean": self.shifts, "scale": self.scales}
        return {name: self.value_shape(shape) for name, is_there in present.items() if is_there}

    def apply(self, x: Array, dtype: str) -> Array:
        if self.shifts:
            x = x - self.arrays["mean"]
        if self.scales:
            x = x * self.arrays["scale"]
        return x.astype(dtype, copy=False)

    def _axes(self, shape: Shape) -> tuple[int, ...]:
        """Of a chunk, that a statistic is taken over."""
        return tuple(range(1 + len(shape) - len(self.value_shape(shape))))

    def _mean(self, source: Source, shape: Shape) -> Array:
        """Differences from the first are added, so that a constant has exactly itself as mean."""
        axes, total, count = self._axes(shape), 0.0, 0
        first = next(iter(source()))[(0,) * len(axes)]
        for x in source():
            total = total + (x - first).sum(axis=axes)
            count += prod(x.shape[axis] for axis in axes)
        return np.asarray(first + total / count)


@dataclass(eq=False)
class ZeroCenter(Scaling):
    """x - mean. per: "dataset", one number; "channel", one of the last axis; "feature", the mean
    example (of images: the mean image)."""

    per: str = "feature"
    shifts = True
    scales = False

    def learn(self, source: Source, shape: Shape) -> None:
        self.arrays = {"mean": self._mean(source, shape)}


@dataclass(eq=False)
class Normalize(Scaling):
    """x / standard deviation (kind "std"; after ZeroCenter, which it does not replace), or linearly
    to -1 .. 1 between minimum and maximum (kind "minmax"). per: as for ZeroCenter.

    What has no variance is not divided: centred it stays 0."""

    kind: str = "std"
    per: str = "feature"
    scales = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("kind", self.kind, ("std", "minmax"))

    @property
    def shifts(self) -> bool:  # type: ignore[override]
        return self.kind == "minmax"

    def learn(self, source: Source, shape: Shape) -> None:
        if self.kind == "std":
            self.arrays = {"scale": _reciprocal(self._standard_deviation(source, shape))}
        else:
            low, high = self._range(source, shape)
            self.arrays = {
                "mean": np.asarray(low + (high - low) / 2),
                "scale": 2 * _reciprocal(high - low),
            }

    def _standard_deviation(self, source: Source, shape: Shape) -> Array:
        mean, axes = self._mean(source, shape), self._axes(shape)
        total, count = 0.0, 0
        for x in source():
            total = total + ((x - mean) ** 2).sum(axis=axes)
            count += prod(x.shape[axis] for axis in axes)
        return np.sqrt(np.asarray(total) / count)

    def _range(self, source: Source, shape: Shape) -> tuple[Array, Array]:
        axes = self._axes(shape)
        low = high = None
        for x in source():
            least, most = x.min(axis=axes), x.max(axis=axes)
            low = least if low is None else np.minimum(low, least)
            high = most if high is None else np.maximum(high, most)
        return np.asarray(low), np.asarray(high)


class Rotation(Preprocessing):
    """(x - mean) @ matrix, both from the eigenvectors U and eigenvalues S of the covariance
    X^T X / n of the centred examples, as vectors. `arrays["variances"]` are the k largest S.

    U and S come from LAPACK, whose last bits may differ between machines and numbers of threads;
    once fitted, what is made of the data does not."""

    k: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k is not None:
            self.k = integer("k", self.k)

    def array_shapes(self, shape: Shape) -> dict[str, Shape]:
        features = prod(shape)
        if features > MOST_FEATURES:
            raise ValueError(
                f"{self} needs the covariance matrix of {features} features; "
                f"at most {MOST_FEATURES} are supported"
            )
        kept = features if self.k is None else self.k
        if kept > features:
            raise ValueError(f"{self}: k must be at most {features}, the features of an example")
        width = prod(self.infer(shape))
        return {"mean": (features,), "matrix": (features, width), "variances": (kept,)}

    def infer(self, shape: Shape) -> Shape:
        return (prod(shape) if self.k is None else self.k,)

    def learn(self, source: Source, shape: Shape) -> None:
        (kept,) = self.array_shapes(shape)["variances"]
        vectors = ZeroCenter()
        vectors.learn(lambda: (x.reshape(len(x), -1) for x in source()), (prod(shape),))
        mean, count = vectors.arrays["mean"], 0
        covariance = np.zeros((len(mean), len(mean)))
        for x in source():
            centred = x.reshape(len(x), -1) - mean
            covariance += centred.T @ centred
            count += len(x)
        values, u = np.linalg.eigh(covariance / count)
        # The largest first, each with its largest entry positive: eigenvectors have no sign.
        values, u = np.maximum(values[::-1][:kept], 0), u[:, ::-1][:, :kept]
        u = u * np.where(u[abs(u).argmax(axis=0), np.arange(kept)] < 0, -1.0, 1.0)
        self.arrays = {"mean": mean, "matrix": self._matrix(u, values), "variances": values}

    def _matrix(self, u: Array, values: Array) -> Array:
        raise NotImplementedError

    def apply(self, x: Array, dtype: str) -> Array:
        centred = (x.reshape(len(x), -1) - self.arrays["mean"]).astype(dtype, copy=False)
        # Not NumPy's product: a row's bits would depend on its companions and on the threads.
        w = self.arrays["matrix"].astype(dtype, copy=False)
        y = ops.affine.forward(x=centred, w=w)["y"]
        return y.reshape(len(x), *self.infer(x.shape[1:]))


@dataclass(eq=False)
class PCA(Rotation):
    """Principal components: (x - mean) @ U, the k of largest variance; None keeps all."""

    k: int | None = None

    def _matrix(self, u: Array, values: Array) -> Array:
        return u


@dataclass(eq=False)
class Whiten(Rotation):
    """Principal components over the root of their variances: (x - mean) @ U / sqrt(S + eps).

    kind: "pca", vectors of k components, or "zca", which rotates back, @ U^T, so that an image
    remains one. eps keeps the noise of components with almost no variance from being blown up."""

    kind: str = "pca"
    k: int | None = None
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("kind", self.kind, ("pca", "zca"))
        self.eps = number("eps", self.eps, 0, inf, open_low=True, open_high=True)

    def infer(self, shape: Shape) -> Shape:
        return shape if self.kind == "zca" else super().infer(shape)

    def _matrix(self, u: Array, values: Array) -> Array:
        white = u / np.sqrt(values + self.eps)
        return white @ u.T if self.kind == "zca" else white


STEPS = (ZeroCenter, Normalize, PCA, Whiten)


class Chain:
    """The steps of a model. Up to the last rotation they work once on arrays that enter; the rest,
    shift and scale, are two vectors that a plan's first op reads."""

    def __init__(self, steps: Iterable[Preprocessing], shape: Shape) -> None:
        try:
            self.steps = tuple(copy.deepcopy(step) for step in steps)
        except TypeError:
            raise TypeError(f"preprocessing must be a list of steps, not {steps!r}") from None
        self.shapes = [shape]  # of an example before each step, and after the last
        for step in self.steps:
            if not isinstance(step, Preprocessing):
                raise TypeError(
                    f"preprocessing must be of ZeroCenter, Normalize, PCA and Whiten, not {step!r}"
                )
            step.array_shapes(self.shapes[-1])
            if step.fitted:
                step.check_fitted(self.shapes[-1])
            self.shapes.append(step.infer(self.shapes[-1]))
        last = max((i for i, s in enumerate(self.steps) if isinstance(s, Rotation)), default=-1)
        self.entering = self.steps[: last + 1]
        self.scalings = [step for step in self.steps[last + 1 :] if isinstance(step, Scaling)]

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self.steps))}]"

    @property
    def output_shape(self) -> Shape:
        return self.shapes[-1]

    @property
    def fitted(self) -> bool:
        return all(step.fitted for step in self.steps)

    def fit(self, data: Array, name: str) -> None:
        """Fits the steps that are not fitted yet, each to what those before it make of the data."""

        def source(before: int) -> Iterator[Array]:
            for x in chunks(data, name):
                for step in self.steps[:before]:
                    x = step.apply(x, "float64")
                yield x

        for i, step in enumerate(self.steps):
            if not step.fitted:
                step.learn(lambda i=i: source(i), self.shapes[i])  # type: ignore[misc]

    def enter(self, data: Array, dtype: str) -> Array:
        """Checked examples as a plan reads them."""
        if not self.fitted:
            raise NotFittedError(
                "the model's preprocessing is not fitted: a Solver with train=(x, y) does it, "
                "or model.fit_preprocessing(x)"
            )
        if not self.entering:
            return data
        entered = np.empty((len(data), *self.output_shape), dtype)
        done = 0
        for x in chunks(data, finite=False):
            for step in self.entering:
                x = step.apply(x, "float64" if step is not self.entering[-1] else dtype)
            entered[done : done + len(x)] = x
            done += len(x)
        return entered

    @property
    def lengths(self) -> dict[str, int]:
        """Of the vectors `mean` and `scale`, those of them that there are."""
        found: dict[str, int] = {}
        for step in self.scalings:
            width = prod(step.value_shape(self.output_shape))
            if step.shifts:  # in units of what the steps before it have scaled
                found["mean"] = max(width, *found.values(), 0)
            if step.scales:
                found["scale"] = max(width, found.get("scale", 0))
        return found

    @property
    def scale(self) -> Array:
        """What a gathered example is multiplied by, a number or an array that broadcasts."""
        return self._combined()[1]

    def vectors(self) -> dict[str, Array]:
        """(x - mean) * scale of all scalings together, each vector flat."""
        mean, scale = self._combined()
        both = {"mean": mean, "scale": scale}
        return {name: both[name].ravel() for name in self.lengths}

    def _combined(self) -> tuple[Array, Array]:
        mean, scale = np.zeros(()), np.ones(())
        for step in self.scalings:
            if step.shifts:
                mean = mean + step.arrays["mean"] / scale
            if step.scales:
                scale = scale * step.arrays["scale"]
        return mean, scale

    def members(self) -> dict[str, Array]:
        """All that was fitted, by names for a file."""
        return {
            f"preprocessing.{i}.{name}": array
            for i, step in enumerate(self.steps)
            for name, array in step.arrays.items()
        }

    def member_shapes(self, fitted: Iterable[bool]) -> dict[str, Shape]:
        """Of `members`, where the given steps are fitted."""
        return {
            f"preprocessing.{i}.{name}": expected
            for i, (step, there) in enumerate(zip(self.steps, fitted, strict=True))
            if there
            for name, expected in step.array_shapes(self.shapes[i]).items()
        }

    def take(self, members: Mapping[str, Array]) -> None:
        """The arrays that `members` gave."""
        for path, array in members.items():
            _, i, name = path.split(".")
            self.steps[int(i)].arrays[name] = array


def chunks(data: Array, name: str = "x", *, finite: bool = True) -> Iterator[Array]:
    """The examples as float64, some at a time. `finite`: ValueError for NaN or infinity."""
    rows = max(1, CHUNK // prod(data.shape[1:]))
    for start in range(0, len(data), rows):
        x = data[start : start + rows].astype(np.float64)
        if data.dtype == np.uint8:
            x /= 255
        elif finite and not np.isfinite(x).all():
            row = start + np.argwhere(~np.isfinite(x))[0][0]
            raise ValueError(f"{name}[{row}] holds NaN or infinity")
        yield x


def _examples(x: Any) -> Array:
    shape = np.shape(x)[1:]
    return inputs.examples("x", x, shape or (1,), "nhwc", "float64")


def _reciprocal(value: Array) -> Array:
    """1 / value, 1 where it is 0."""
    return np.asarray(1 / np.where(value > 0, value, 1.0))
