"""Gradient checking of a whole model (cs231n, neural networks 3).

The gradient that the compiled kernels give, in float64, against central differences of the loss as
the NumPy twins compute it: two independent programs, joined only by the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .inputs import Examples
from .interpret import Interpreter
from .model import Model
from .plan import GRADIENTS, PARAMETERS, PREPROCESSING, STATISTICS, Plan
from .program import Batches
from .reference.case import Array
from .shapes import Shape, integer, number
from .solver import Solver
from .updates import SGD, Update
from .vector import Vector

INPUT = "x"
DATA_LOSS, PENALTY = "data_loss", "penalty"  # as plans name their results
# The notes' bands of the relative error.
HAPPY, WITH_KINKS, UNCOMFORTABLE = 1e-7, 1e-4, 1e-2
PASSING = 1e-6
TINY = 1e-10
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Coordinate:
    """One checked partial derivative, at the h that served it best. `rounding`: what rounding alone
    can make of the difference. `crossed`: a ReLU or a maximum changed its winner between the two
    evaluations, so the difference is no derivative and nothing is concluded."""

    path: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    rounding: float
    crossed: bool
    h: float

    @property
    def difference(self) -> float:
        return abs(self.analytic - self.numeric)

    @property
    def tolerance(self) -> float:
        return PASSING * max(abs(self.analytic), abs(self.numeric)) + self.rounding

    @property
    def passed(self) -> bool:
        return self.crossed or self.difference <= self.tolerance

    @property
    def relative_error(self) -> float:
        """|a - n| / max(|a|, |n|); 0 where both are 0."""
        return relative_error(self.analytic, self.numeric)

    @property
    def rounded(self) -> bool:
        """Passed without being happy, and half of the difference or more may be rounding: nothing
        speaks against the gradient. All that passes with an error above 2e-6 is of this kind."""
        half = self.difference <= 2 * self.rounding
        return self.passed and self.relative_error > HAPPY and half

    def __str__(self) -> str:
        return (
            f"{self.path}{list(self.index)}: analytic {self.analytic:.9e}, numeric "
            f"{self.numeric:.9e} with h = {self.h:g}, allowed difference {self.tolerance:.1e}"
        )


@dataclass(frozen=True)
class PathCheck:
    """What was found for one parameter, or for the input, "x".

    `kinks`: whether the function checked has any. `by_h`: the worst relative error of the settled
    (not crossed) coordinates at each h tried, rounding or not."""

    path: str
    coordinates: tuple[Coordinate, ...] = field(repr=False)
    kinks: bool
    by_h: Mapping[float, float]

    @property
    def passed(self) -> bool:
        return all(c.passed for c in self.coordinates)

    @property
    def largest(self) -> float:
        """The largest |gradient|."""
        return _worst(abs(c.analytic) for c in self.coordinates)

    @property
    def telling(self) -> tuple[Coordinate, ...]:
        """The coordinates that tell something: neither crossed nor lost in rounding."""
        return tuple(c for c in self.coordinates if not c.crossed and not c.rounded)

    @property
    def worst(self) -> float:
        """The largest relative error of the telling coordinates; 0 if there are none."""
        return _worst(c.relative_error for c in self.telling)

    @property
    def verdict(self) -> str:
        """The notes' word for the worst error: "happy" up to 1e-7, "fine with kinks" up to 1e-4,
        but "uncomfortable" if there are none, as up to 1e-2; above "wrong". Where no coordinate
        tells anything, "rounding" or "crossed"."""
        if not self.telling:
            return "crossed" if all(c.crossed for c in self.coordinates) else "rounding"
        if not self.worst <= UNCOMFORTABLE:
            return "wrong"
        if self.worst > (WITH_KINKS if self.kinks else HAPPY):
            return "uncomfortable"
        return "fine with kinks" if self.worst > HAPPY else "happy"

    @property
    def warning(self) -> str:
        """What makes the check of this path weak, or nothing."""
        if all(c.crossed for c in self.coordinates):
            return f"{self.path}: every coordinate crossed a kink; take fewer examples or smaller h"
        if self.largest < TINY:
            return (
                f"{self.path}: its largest |gradient| is {self.largest:.1e}, below {TINY:g}; scale "
                f"the loss up, unless it must be 0, as a bias before batch normalization"
            )
        return ""

    @property
    def steps(self) -> tuple[float, ...]:
        """The h that were compared: none if there was one."""
        return tuple(self.by_h) if len(self.by_h) > 1 else ()

    @property
    def row(self) -> tuple[str, ...]:
        crossed = sum(c.crossed for c in self.coordinates)
        rounded = len(self.coordinates) - crossed - len(self.telling)
        return (
            self.path,
            f"{len(self.coordinates)}",
            f"{crossed}",
            f"{rounded}",
            f"{self.largest:.3e}",
            f"{self.worst:.1e}" if self.telling else "-",
            *(f"{self.by_h[h]:.1e}" for h in self.steps),
            self.verdict,
            "pass" if self.passed else "FAIL",
        )


@dataclass(frozen=True)
class Part:
    """The check of the data loss or of the penalty alone: `name` is "data_loss" or "penalty"."""

    name: str
    loss: float
    twin_loss: float
    paths: tuple[PathCheck, ...]

    @property
    def passed(self) -> bool:
        same = abs(self.loss - self.twin_loss) <= 1e-9 * max(abs(self.loss), 1e-3)
        return same and all(p.passed for p in self.paths)

    @property
    def shown(self) -> tuple[PathCheck, ...]:
        """Without the parameters that carry no penalty: there both gradients are exactly 0."""
        return tuple(
            p
            for p in self.paths
            if self.name == DATA_LOSS or any(c.analytic or c.numeric for c in p.coordinates)
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(p.warning for p in self.shown if p.warning)

    def __str__(self) -> str:
        name = self.name.replace("_", " ")
        lines = [f"{name} {self.loss:.12g}, of the NumPy twins {self.twin_loss:.12g}"]
        if self.shown:
            steps = self.shown[0].steps
            head = ("path", "checked", "crossed", "rounding", "largest |gradient|")
            more = ("worst relative error", *(f"h = {h:g}" for h in steps), "verdict", "")
            lines += _table([head + more, *(p.row for p in self.shown)])
        rest = [p.path for p in self.paths if p not in self.shown]
        if rest:
            lines.append(f"no {name} on {', '.join(rest)}")
        lines += [f"  {c}" for p in self.paths for c in p.coordinates if not c.passed]
        return "\n".join(lines)


@dataclass(frozen=True)
class GradientCheck:
    """The outcome: true if every coordinate passed and the losses agree.

    `parts`: the data loss, and the penalty if the model has one. `burn_in`: the losses of the steps
    taken before."""

    parts: tuple[Part, ...]
    burn_in: tuple[float, ...] = ()

    @property
    def passed(self) -> bool:
        return all(part.passed for part in self.parts)

    @property
    def coordinates(self) -> tuple[Coordinate, ...]:
        return tuple(c for part in self.parts for p in part.paths for c in p.coordinates)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the check weak: gradients too small to tell, paths where all crossed."""
        return tuple(warning for part in self.parts for warning in part.warnings)

    def __bool__(self) -> bool:
        return self.passed

    def __getitem__(self, part: str) -> dict[str, PathCheck]:
        """What was found for each path of a part: `check["data_loss"]["0.w"].verdict`. KeyError
        for "penalty" if the model has none."""
        return {p.path: p for p in {found.name: found for found in self.parts}[part].paths}

    def __str__(self) -> str:
        lines = [str(part) for part in self.parts]
        if self.burn_in:
            first, last = self.burn_in[0], self.burn_in[-1]
            steps = f"{len(self.burn_in)} steps of burn-in: loss {first:.4g} to {last:.4g}"
            lines.insert(0, steps)
        lines += [f"warning: {warning}" for warning in self.warnings]
        lines.append("gradients " + ("agree" if self.passed else "DIFFER"))
        return "\n".join(lines)


def gradcheck(
    model: Model, x: Any, y: Any, weight: Any = None, *, num_checks: int = 10,
    h: float | Sequence[float] = 1e-5, t: int = 1, seed: int = 0, burn_in: int = 0,
    update: Update | None = None, verbose: bool = True,
) -> GradientCheck:  # fmt: skip
    """Checks some coordinates of every trained parameter and of the input; prints a report.

    The data loss is checked alone, then the penalty alone.

    x (n, ...), y (n,) or (n, m), weight (n,): few examples are best (2 or 3), for fewer kinks.
    num_checks: coordinates of each parameter, spread over it. h: half the distance of the two
    evaluations; of several the one with the smallest relative error counts, for each coordinate.
    t: the iteration whose dropout masks are used, in every evaluation. burn_in: steps of `update`
    (SGD(0.01)) on these examples before the check, since the gradient at the initial weights may
    not be characteristic. All is done on a float64 copy of the model, which stays as it is.

    A coordinate passes if |a - n| <= 1e-6 max(|a|, |n|) + 10 eps (|f(x+h)| + |f(x-h)|) / (2h): the
    second term is what rounding of the loss alone can make of a derivative that is 0.

    Raises TypeError or ValueError naming the argument; DivergenceError from the burn-in."""
    if not isinstance(model, Model):
        raise TypeError(f"model must be a Model, not {type(model).__name__}")
    integer("num_checks", num_checks)
    integer("t", t)
    integer("seed", seed, 0, 2**32 - 1)
    integer("burn_in", burn_in, 0)
    steps = _steps(h)
    model = model.clone(dtype="float64")
    examples = model.labelled(x, y, weight)
    losses = _burn_in(model, (x, y, weight), len(examples.x), burn_in, update)
    data = examples.x / 255 if examples.x.dtype == np.uint8 else examples.x
    examples = examples._replace(x=data.astype(np.float64))
    sampling = Sampling(num_checks, steps, np.random.RandomState(seed))
    outcome = GradientCheck(tuple(_parts(model, examples, t, sampling)), losses)
    if verbose:
        print(outcome)
    return outcome


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
    with np.errstate(invalid="ignore"):
        # Not `size > 0`, which would make 0 of NaN.
        ratio = np.divide(abs(a - b), size, out=np.zeros_like(size), where=size != 0)
    return float(ratio.max())


class Twin:
    """A part of the loss of one batch by the NumPy twins, as a function of parameters and data."""

    def __init__(self, plan: Plan, model: Model, examples: Examples, t: int, part: str) -> None:
        self.parameters = model.parameters.copy()
        self.data = examples.x.copy()
        vectors = {
            PARAMETERS: self.parameters,
            STATISTICS: model.statistics.copy(),
            PREPROCESSING: model.vectors[PREPROCESSING],
            GRADIENTS: np.zeros_like(self.parameters),
        }
        arrays = examples.bindings | {"data": self.data}
        plan = replace(plan, results={part: plan.results[part]})
        self.interpreter = Interpreter(plan, vectors, arrays)
        self.step = {"index": np.arange(len(self.data)), "t": t, "seed": model.seed, "lr": 0.0}

    def loss(self) -> tuple[float, list[Array]]:
        """The loss, and the winner of every kink on the way."""
        (result,) = self.interpreter.step(only_results=True, **self.step).values()
        return result, list(self.interpreter.winners)

    def kinks(self) -> bool:
        """Whether the last evaluation met any; a user's own layer may hide some."""
        hosts = (op.call is not None for op in self.interpreter.result_ops)
        return bool(self.interpreter.winners) or any(hosts)


class Compiled(NamedTuple):
    """What the compiled kernels make of a batch: losses by the plan's names, and gradients."""

    plan: Plan
    losses: dict[str, float]
    gradients: Vector
    dx: Array


@dataclass(frozen=True)
class Sampling:
    """Where a gradient is looked at: how many coordinates of each array, and with which h."""

    count: int
    steps: tuple[float, ...]
    random: np.random.RandomState

    def pick(self, shape: Shape) -> list[tuple[int, ...]]:
        """Different coordinates of such an array, spread over each of its axes (a Latin hypercube),
        so that every example, channel and output unit has its turn."""
        size = prod(shape)
        count = min(self.count, size)
        axes = [
            (self.random.permutation(count) + self.random.random_sample(count)) * length / count
            for length in shape
        ]
        cells = [axis.astype(np.int64) for axis in axes]
        # A product may be rounded up to the length itself.
        picked = np.unique(np.ravel_multi_index(cells, shape, mode="clip"))
        others = self.random.permutation(np.delete(np.arange(size), picked))
        flat = np.concatenate([picked, others[: count - len(picked)]])
        return [
            tuple(map(int, index)) for index in zip(*np.unravel_index(flat, shape), strict=True)
        ]


def _steps(h: Any) -> tuple[float, ...]:
    values = tuple(h) if isinstance(h, (tuple, list, np.ndarray)) else (h,)
    if not values:
        raise ValueError("h is empty, expected one number or several")
    return tuple(dict.fromkeys(number("h", value, 0, 1, open_low=True) for value in values))


def _burn_in(
    model: Model, batch: tuple[Any, Any, Any], size: int, count: int, update: Update | None
) -> tuple[float, ...]:
    """Trains the model on the batch; the loss of each step."""
    if not count:
        return ()
    solver = Solver(model, update=SGD() if update is None else update, batch_size=size)
    return tuple(solver.step(*batch) for _ in range(count))


def _parts(model: Model, examples: Examples, t: int, sampling: Sampling) -> list[Part]:
    """The data loss, without regularization; and the penalty, as what it adds to the gradient."""
    whole = data = _differentiate(model, examples, t)
    if PENALTY in whole.losses:
        model.regularization = None
        data = _differentiate(model, examples, t)
    penalty = whole.gradients - data.gradients
    # The sum was rounded before the data loss was taken off again.
    blur = {DATA_LOSS: np.zeros_like(penalty), PENALTY: EPS * abs(whole.gradients)}
    parts = []
    for name, gradients in (DATA_LOSS, data.gradients), (PENALTY, penalty):
        if name in whole.losses:
            twin = Twin(whole.plan, model, examples, t, name)
            wanted = {
                path: (twin.parameters[path], gradients[path], blur[name][path])
                for path in model.architecture.parameters
                if path not in model.frozen
            }
            if name == DATA_LOSS:
                wanted[INPUT] = twin.data, data.dx, np.zeros_like(data.dx)
            loss = data.losses[name] if name == DATA_LOSS else whole.losses[name]
            parts.append(_check(name, loss, twin, wanted, sampling))
    return parts


def _differentiate(model: Model, examples: Examples, t: int) -> Compiled:
    n = len(examples.x)
    runner, gradients = model.gradient_runner(examples, input_gradient=True)
    runner.bind(examples.bindings)
    found = runner.run(Batches.one(n, t, model.seed))[0]
    plan = runner.program.plan
    # Of the data: the plan's x is what the gather op has shifted and scaled.
    dx = runner.value(plan.named["dx"], n) * model.preprocessing.scale
    runner.release()
    return Compiled(plan, dict(zip(plan.results, map(float, found), strict=True)), gradients, dx)


def _check(
    name: str, loss: float, twin: Twin, wanted: Mapping[str, tuple[Array, Array, Array]],
    sampling: Sampling,
) -> Part:  # fmt: skip
    """wanted: by path an array that the twin's loss reads, its gradient, and that one's error."""
    twin_loss, kinks = twin.loss()[0], twin.kinks()
    paths = []
    for path, (value, gradient, blur) in wanted.items():
        tried = [
            [
                _coordinate(path, value, index, float(gradient[index]), float(blur[index]), twin, h)
                for h in sampling.steps
            ]
            for index in sampling.pick(value.shape)
        ]
        by_h = {
            h: _worst(c.relative_error for c in column if not c.crossed)
            for h, column in zip(sampling.steps, zip(*tried, strict=True), strict=True)
        }
        best = [min(row, key=lambda c: (c.crossed, c.relative_error)) for row in tried]
        paths.append(PathCheck(path, tuple(best), kinks, by_h))
    return Part(name, loss, twin_loss, tuple(paths))


def _coordinate(
    path: str, value: Array, index: tuple[int, ...], analytic: float, blur: float, twin: Twin,
    h: float,
) -> Coordinate:  # fmt: skip
    before = value[index]
    value[index] = before + h
    up, winners_up = twin.loss()
    value[index] = before - h
    down, winners_down = twin.loss()
    value[index] = before
    rounding = 10 * EPS * (abs(up) + abs(down)) / (2 * h) + blur
    crossed = any((a != b).any() for a, b in zip(winners_up, winners_down, strict=True))
    return Coordinate(path, index, analytic, (up - down) / (2 * h), rounding, crossed, h)


def _worst(values: Iterable[float]) -> float:
    """The largest; 0 of none, NaN where one is."""
    return float(np.max(list(values), initial=0.0))


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
