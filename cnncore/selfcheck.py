"""Every compiled kernel against its twin, and every gradient against central differences.

Tests and `cnncore check` run the same functions over the same case tables. A comparison can fail in
every way: NaN fails, results are prefilled with NaN and guarded on both sides, and bounds come from
the arithmetic, not from what happens to pass."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from . import levels, ops, reference
from .plan import signature
from .reference.case import Array, Case

DTYPES = ("float32", "float64")
THREADS = (1, 3)
# A denormal is zero by contract, so every partial sum may be off by the smallest normal number.
_TINY_TERMS = 1e6
_STEP_SIZE = 1e-6
GUARD = 64  # elements


class Problem(NamedTuple):
    """One kernel and the case it is to compute."""

    op: str
    function: str
    case: Case

    def __str__(self) -> str:
        return f"{self.op}.{self.function}-{self.case.name.replace(' ', '-')}"


def problems() -> Iterator[Problem]:
    for op in reference.names():
        for case in reference.op(op).CASES:
            for function in reference.functions(op):
                yield Problem(op, function, case)


def arguments(problem: Problem, dtype: str) -> dict[str, Array]:
    """Arrays for the function: a forward's own draws; for a backward also the forward's results,
    rounded to the dtype, and a random cotangent for each."""
    module = reference.op(problem.op)
    fixed = getattr(module, "DTYPES", {})
    drawn = problem.case.make(dtype, fixed)
    if problem.function != "backward":
        return drawn
    names = signature(problem.op, "backward")
    results = module.forward(
        **{n: a for n, a in widen(drawn).items() if n in signature(problem.op, "forward")},
        **problem.case.attributes, **problem.case.step,
    )  # fmt: skip
    known = drawn | {
        name: np.asarray(value) if name in fixed else np.asarray(value, dtype)
        for name, value in results.items()
    }
    random = np.random.RandomState(1)
    for name in results:
        known["d" + name] = random.standard_normal(known[name].shape).astype(dtype)
    if "dw" in names:  # a gradient that is added to
        known["dw"] = random.standard_normal(known["w"].shape).astype(dtype)
    return {name: known[name] for name in names if name in known}


def extras(problem: Problem) -> dict[str, Any]:
    """Attributes and step values that the function takes."""
    given = {**problem.case.attributes, **problem.case.step}
    return {n: v for n, v in given.items() if n in signature(problem.op, problem.function)}


def widen(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Floating-point arrays in float64."""
    return {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}


def expected(
    problem: Problem, given: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The twin's results in float64, and the error bounds in units of epsilon."""
    module, wide, more = reference.op(problem.op), widen(given), extras(problem)
    function = getattr(module, problem.function)
    bound = getattr(module, f"{problem.function}_bound")
    return function(**wide, **more), bound(**wide, **more)


class Guarded:
    """Allocates arrays filled with NaN, between guards that must not change."""

    def __init__(self) -> None:
        self.blocks: list[tuple[Array, int]] = []

    def __call__(self, shape: Any, dtype: str) -> Array:
        count = int(np.prod(shape))
        raw = np.empty(count + 2 * GUARD, dtype)
        raw.view(np.uint8)[...] = 0xFF  # NaN as floats, no valid index as integers
        self.blocks.append((raw, count))
        return raw[GUARD : GUARD + count].reshape(shape)

    def intact(self) -> bool:
        return all(
            (raw[:GUARD].view(np.uint8) == 0xFF).all()
            and (raw[GUARD + count :].view(np.uint8) == 0xFF).all()
            for raw, count in self.blocks
        )


def compute(
    problem: Problem, given: Mapping[str, Array], isa: str, threads: int
) -> dict[str, Array]:
    """The compiled results. RuntimeError if the kernel wrote beside them."""
    function = getattr(getattr(ops, problem.op), problem.function)
    allocate = Guarded()
    results: dict[str, Array] = function.compute(
        {**given, **extras(problem)}, isa, threads, allocate
    )
    if not allocate.intact():
        raise RuntimeError(f"{problem}: the kernel wrote outside its results")
    return results


def error(
    results: Mapping[str, Array],
    wanted: Mapping[str, Array],
    bounds: Mapping[str, Array],
    dtype: str,
) -> float:
    """Largest error as a share of its bound: at most 1 is right. Infinite for a missing result, a
    wrong shape, NaN, or any difference where the bound is 0."""
    worst = 0.0
    limits = np.finfo(dtype)
    for name, want in wanted.items():
        if name not in results:
            if name in ("dx", "dw", "db"):
                return np.inf
            continue
        got = results[name]
        if got.shape != want.shape:
            return np.inf
        allowed = bounds[name] * limits.eps + _TINY_TERMS * limits.tiny * (want.dtype.kind == "f")
        difference = abs(got.astype(np.float64) - want.astype(np.float64))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(difference == 0, 0.0, difference / allowed)
        worst = max(worst, float(np.where(np.isnan(difference), np.inf, share).max(initial=0.0)))
    return worst


def check(problem: Problem, dtype: str, isa: str, threads: int) -> float:
    """`error` of the compiled kernel."""
    given = arguments(problem, dtype)
    return error(compute(problem, given, isa, threads), *expected(problem, given), dtype)


def differentiable() -> Iterator[Problem]:
    return (p for p in problems() if p.function == "backward" and p.case.smooth)


def gradient_error(problem: Problem, gradients: Mapping[str, Array]) -> float:
    """Largest error of gradients, by name, against central differences of the twin, as a share of
    what rounding allows: a random direction in each argument against the random cotangent."""
    module = reference.op(problem.op)
    given = arguments(problem, "float64")
    inputs = problem.case.make("float64", getattr(module, "DTYPES", {}))
    inputs = {n: a for n, a in inputs.items() if n in signature(problem.op, "forward")}
    more = {**problem.case.attributes, **problem.case.step}
    random = np.random.RandomState(2)
    worst = 0.0
    for name, gradient in gradients.items():
        argument = name[1:]
        if argument not in inputs:
            continue
        if name in given:
            gradient = gradient - given[name]
        direction = random.standard_normal(inputs[argument].shape)
        values = []
        size = 0.0
        for sign in (1, -1):
            moved = inputs | {argument: inputs[argument] + sign * _STEP_SIZE * direction}
            results = module.forward(**moved, **more)
            terms = [results[r] * given["d" + r] for r in results if "d" + r in given] or [
                results["loss" if "loss" in results else "penalty"]
            ]
            values.append(sum(float(term.sum()) for term in terms))
            size += sum(float(abs(term).sum()) for term in terms)
        numeric = (values[0] - values[1]) / (2 * _STEP_SIZE)
        analytic = float((gradient * direction).sum())
        scale = float(abs(gradient * direction).sum())
        allowed = 1e-6 * scale + 10 * np.finfo(np.float64).eps * size / (2 * _STEP_SIZE)
        difference = abs(analytic - numeric)
        if not difference <= allowed:
            return difference / allowed if np.isfinite(difference) else np.inf
        worst = max(worst, difference / allowed if difference else 0.0)
    return worst


def check_gradient(problem: Problem, isa: str) -> float:
    """`gradient_error` of the compiled backward pass in float64."""
    given = arguments(problem, "float64")
    return gradient_error(problem, compute(problem, given, isa, 1))


def main() -> int:
    """Checks every kernel on this machine, prints a table, returns an exit code."""
    start = time.monotonic()
    failures = total = 0
    print(
        f"{'op':<24}"
        + "".join(f"{isa + ' ' + d:>20}" for isa in levels.available() for d in DTYPES)
    )
    for op in reference.names():
        mine = [p for p in problems() if p.op == op]
        cells = []
        for isa in levels.available():
            for dtype in DTYPES:
                errors = [check(p, dtype, isa, threads) for p in mine for threads in THREADS]
                if dtype == "float64":
                    errors += [check_gradient(p, isa) for p in differentiable() if p.op == op]
                bad = sum(not e <= 1 for e in errors)
                failures += bad
                total += len(errors)
                cells.append(f"FAIL {bad}/{len(errors)}" if bad else f"ok {max(errors):.2f}")
        print(f"{op:<24}" + "".join(f"{cell:>20}" for cell in cells))
    print("each cell: the largest error as a share of its bound, over all cases, 1 and 3 threads")
    print(f"{total - failures} of {total} checks passed in {time.monotonic() - start:.1f} s")
    return 1 if failures else 0
