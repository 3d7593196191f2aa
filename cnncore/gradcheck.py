"""Gradient checking of a whole model (cs231n, neural networks 3).

The gradient that the compiled kernels give, in float64, against central differences of the loss as
the NumPy twins compute it: two independent programs, joined only by the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .inputs import Examples
from .interpret import Interpreter
from .model import Model
from .plan import GRADIENTS, PARAMETERS, PREPROCESSING, STATISTICS
from .program import Batches
from .reference.case import Array
from .shapes import integer, number

INPUT = "x"


@dataclass(frozen=True)
class Coordinate:
    """One checked partial derivative. `crossed`: a ReLU or a maximum changed its winner between
    the two evaluations, so the difference is no derivative and nothing is concluded."""

    path: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    tolerance: float
    crossed: bool

    @property
    def passed(self) -> bool:
        return self.crossed or abs(self.analytic - self.numeric) <= self.tolerance

    @property
    def relative_error(self) -> float:
        """|a - n| / max(|a|, |n|); 0 where both are 0."""
        size = max(abs(self.analytic), abs(self.numeric))
        return abs(self.analytic - self.numeric) / size if size else 0.0


@dataclass(frozen=True)
class GradientCheck:
    """The outcome: true if every coordinate passed and the two losses agree."""

    loss: float
    twin_loss: float
    coordinates: tuple[Coordinate, ...] = field(repr=False)

    @property
    def passed(self) -> bool:
        same = abs(self.loss - self.twin_loss) <= 1e-9 * max(abs(self.loss), 1e-3)
        return same and all(c.passed for c in self.coordinates)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        rows = [("path", "checked", "crossed", "largest |gradient|", "worst relative error", "")]
        for path in dict.fromkeys(c.path for c in self.coordinates):
            mine = [c for c in self.coordinates if c.path == path]
            settled = [c for c in mine if not c.crossed]
            rows.append(
                (
                    path,
                    str(len(mine)),
                    str(len(mine) - len(settled)),
                    f"{max((abs(c.analytic) for c in mine), default=0):.3e}",
                    f"{max((c.relative_error for c in settled), default=0):.1e}",
                    "pass" if all(c.passed for c in mine) else "FAIL",
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        lines += [self._describe(c) for c in self.coordinates if not c.passed]
        lines.append(f"loss {self.loss:.12g}, of the NumPy twins {self.twin_loss:.12g}")
        lines.append("gradients " + ("agree" if self.passed else "DIFFER"))
        return "\n".join(lines)

    @staticmethod
    def _describe(c: Coordinate) -> str:
        return (
            f"  {c.path}{list(c.index)}: analytic {c.analytic:.9e}, numeric {c.numeric:.9e}, "
            f"allowed difference {c.tolerance:.1e}"
        )


def gradcheck(
    model: Model, x: Any, y: Any, weight: Any = None, *, num_checks: int = 10, h: float = 1e-5,
    t: int = 1, seed: int = 0, verbose: bool = True,
) -> GradientCheck:  # fmt: skip
    """Checks random coordinates of every parameter and of the input; prints a report.

    x (n, ...), y (n,) or (n, m), weight (n,): few examples are best (2 or 3), for fewer kinks.
    num_checks: coordinates of each parameter. h: half the distance of the two evaluations. t: the
    iteration whose dropout masks are used, in every evaluation. A float32 model is checked on a
    float64 copy.

    A coordinate passes if |a - n| <= 1e-6 max(|a|, |n|) + 10 eps (|f(x+h)| + |f(x-h)|) / (2h): the
    second term is what rounding of the loss alone can make of a derivative that is 0."""
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model, not {type(model).__name__}")
    integer("num_checks", num_checks)
    integer("t", t)
    integer("seed", seed, 0, 2**32 - 1)
    number("h", h, 0, 1, open_low=True)
    model = in_float64(model)
    examples = model.labelled(x, y, weight)
    data = examples.x / 255 if examples.x.dtype == np.uint8 else examples.x
    examples = examples._replace(x=data.astype(np.float64))
    runner, gradients = model.gradient_runner(examples, input_gradient=True)
    runner.bind(examples.bindings)
    n = len(examples.x)
    loss = float(runner.run(Batches.one(n, t, model.seed)).sum())
    # Of the data: the plan's x is what the gather op has shifted and scaled.
    dx = runner.value(runner.program.plan.named["dx"], n) * model.preprocessing.scale
    runner.release()
    twin = Twin(runner.program.plan, model, examples, t)
    twin_loss = twin.loss()[0]
    random = np.random.RandomState(seed)
    checked = []
    for path in model.architecture.parameters:
        if path in model.frozen:
            continue
        view = twin.parameters[path]
        checked += _check(path, view, gradients.part(path), twin, num_checks, h, random)
    checked += _check(INPUT, twin.data, dx, twin, num_checks, h, random)
    outcome = GradientCheck(loss, twin_loss, tuple(checked))
    if verbose:
        print(outcome)
    return outcome


def in_float64(model: Model) -> Model:
    """The model itself if it is float64, else a float64 copy of it."""
    if model.dtype == "float64":
        return model
    return model.clone(dtype="float64")


def numerical_gradient(f: Callable[[Array], Any], x: Any, df: Any = 1, h: float = 1e-5) -> Array:
    """The gradient of sum(f(x) * df) with respect to x, by central differences in float64.

    f: a function of an array like x; df: what reaches f's result from above, 1 for a scalar loss.
    2 evaluations for each element of x (cs231n, `gradient_check.py`)."""
    value = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(value)
    for index in np.ndindex(value.shape):
        before = value[index]
        value[index] = before + h
        up = np.array(f(value), dtype=np.float64)
        value[index] = before - h
        down = np.array(f(value), dtype=np.float64)
        value[index] = before
        gradient[index] = ((up - down) * df).sum() / (2 * h)
    return gradient


def relative_error(a: Any, b: Any, definition: str = "maximum") -> float:
    """The largest relative error between two gradients; 0 where both are 0.

    definition: "maximum", |a - b| / max(|a|, |b|) (the notes), or "sum", |a - b| / max(1e-8,
    |a| + |b|) (the assignments). By the notes' bands, with h = 1e-5 in float64: above 1e-2 usually
    wrong, below 1e-4 fine only for functions with kinks, 1e-7 and less happy."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(f"the gradients have shapes {a.shape} and {b.shape}")
    if definition == "sum":
        size = np.maximum(1e-8, abs(a) + abs(b))
    elif definition == "maximum":
        size = np.maximum(abs(a), abs(b))
    else:
        raise ValueError(f'definition must be "maximum" or "sum", not {definition!r}')
    difference = abs(a - b)
    return float(np.divide(difference, size, out=np.zeros_like(size), where=size > 0).max())


class Twin:
    """The loss of one batch by the NumPy twins, as a function of parameters and data."""

    def __init__(self, plan: Any, model: Model, examples: Examples, t: int) -> None:
        self.parameters = model.parameters.copy()
        self.data = examples.x.copy()
        vectors = {
            PARAMETERS: self.parameters,
            STATISTICS: model.statistics.copy(),
            PREPROCESSING: model.vectors[PREPROCESSING],
            GRADIENTS: np.zeros_like(self.parameters),
        }
        arrays = examples.bindings | {"data": self.data}
        self.interpreter = Interpreter(plan, vectors, arrays)
        self.step = {"index": np.arange(len(self.data)), "t": t, "seed": model.seed, "lr": 0.0}

    def loss(self) -> tuple[float, list[Array]]:
        """The total loss, and the winner of every kink on the way."""
        results = self.interpreter.step(only_results=True, **self.step)
        return sum(results.values()), list(self.interpreter.winners)


def _check(
    path: str, value: Array, gradient: Array, twin: Twin, count: int, h: float,
    random: np.random.RandomState,
) -> list[Coordinate]:  # fmt: skip
    """Random coordinates of `value`, an array that the twin's loss reads."""
    picked = random.permutation(value.size)[:count]
    return [
        _coordinate(path, value, gradient, twin, np.unravel_index(int(i), value.shape), h)
        for i in picked
    ]


def _coordinate(
    path: str, value: Array, gradient: Array, twin: Twin, index: Any, h: float
) -> Coordinate:
    before = value[index]
    value[index] = before + h
    up, winners_up = twin.loss()
    value[index] = before - h
    down, winners_down = twin.loss()
    value[index] = before
    analytic, numeric = float(gradient[index]), (up - down) / (2 * h)
    rounding = 10 * np.finfo(np.float64).eps * (abs(up) + abs(down)) / (2 * h)
    tolerance = 1e-6 * max(abs(analytic), abs(numeric)) + rounding
    crossed = any((a != b).any() for a, b in zip(winners_up, winners_down, strict=True))
    return Coordinate(
        path, tuple(int(i) for i in index), analytic, numeric, float(tolerance), crossed
    )
