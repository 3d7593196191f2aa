"""Problems for single kernels, from the text files in benchmarks/shapes.

A line is an op, its arguments' shapes and attributes under the library's own names, a colon, and
the passes to time, each with the share of the machine's limit to reach, in percent, if there is
one. `gemm` is written m, n, k, and becomes a pass of an affine layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from cnncore import reference
from cnncore.ceiling import Alone
from cnncore.plan import CONSTANTS, Op, Tensor, kernel_fields, op_bytes, op_cost, signature

SHAPES = Path(__file__).parents[1] / "shapes"
Shape = tuple[int, ...]
Array = np.ndarray[Any, np.dtype[Any]]
# A pass's function, and the gradients it is to compute: all if empty.
PASSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "forward": ("forward", ()),
    "backward": ("backward", ()),
    "update": ("update", ()),
    "dx": ("backward", ("dx",)),
    "dw": ("backward", ("dw",)),
}


@dataclass(frozen=True)
class Problem:
    """One pass of one op. wanted: the gradients to compute, all if empty. target: percent of the
    limit, or None."""

    group: str  # the file it is from
    name: str
    op: str
    function: str
    shapes: dict[str, Shape]
    attributes: dict[str, Any] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()
    target: float | None = None
    gemm: str = ""  # NN, NT or TN

    @cached_property
    def batch(self) -> int:
        """Examples; 1 for an update, which has none."""
        return 1 if self.function == "update" else next(iter(self.shapes.values()))[0]

    def plan_op(self, dtype: str) -> Op:
        """The op with tensors of its own, as a plan has it."""
        module = reference.op(self.op)
        kinds = dict(getattr(module, "DTYPES", {}))
        kinds["data"] = "uint8" if self.attributes.get("bytes") else dtype
        attributes = {n: v for n, v in self.attributes.items() if n != "bytes"}
        first = "update" if self.function == "update" else "forward"
        given = {n: s for n, s in self._all_shapes().items() if n in signature(self.op, first)}
        batch = {"n": self.batch} if self.op == "gather" else {}
        results, attributes = module.infer(**given, **attributes, **batch)

        def tensor(name: str, shape: Shape) -> Tensor:
            base = {"base": CONSTANTS} if name == "segments" else {}
            return Tensor(name, shape, kinds.get(name, dtype), **base)

        if self.function != "backward":
            inputs = {n: tensor(n, s) for n, s in given.items()}
            outputs = {n: inputs.get(n) or tensor(n, s) for n, s in results.items()}
        else:
            known = given | results | {f"d{n}": s for n, s in results.items()}
            names = [n for n in signature(self.op, "backward") if n in known]
            inputs = {n: tensor(n, known[n]) for n in names}
            taken = {n: v for n, v in attributes.items() if n in signature(self.op, "backward")}
            gives = module.infer_backward(**{n: known[n] for n in names}, **taken).results
            fields = kernel_fields()[f"{self.op}_backward"]
            outputs = {
                n: tensor(n, s)
                for n, s in gives.items()
                if n in fields and n in (self.wanted or gives)
            }
            attributes = {n: v for n, v in attributes.items() if n in fields}
        return Op(self.op, self.function, inputs, outputs, attributes)

    def _all_shapes(self) -> dict[str, Shape]:
        """The given shapes, and those that follow from them."""
        shapes = dict(self.shapes)
        if self.op == "batchnorm":
            shapes |= dict.fromkeys(("gamma", "beta"), shapes["x"][-1:])
        elif self.op == "softmax_cross_entropy":
            shapes["target"] = shapes["x"][:1]
        elif self.op == "gather":
            shapes["labels"] = shapes["data"][:1]
        elif self.function == "update":
            states = set(signature(self.op, "update")) & {"m", "v", "cache"}
            shapes |= dict.fromkeys(("dw", *states), shapes["w"])
            shapes["segments"] = (1, 3)
        return shapes


class Prepared:
    """A problem with data, ready to be timed. arrays: its inputs by name, as views."""

    def __init__(
        self, problem: Problem, dtype: str, isa: str, fused: dict[str, int] | None = None
    ) -> None:
        self.problem = problem
        self.op = replace(problem.plan_op(dtype), fused=fused or {})
        segments = np.array([[0, problem.shapes.get("w", (0,))[0], 0]], np.float64).tobytes()
        self.alone = Alone.of([self.op], dtype, isa, problem.batch, segments)
        self.flops, self.moved = op_cost(self.op)[0], op_bytes(self.op)
        self.in_place = problem.function == "update"
        self.index = np.random.default_rng(0).permutation(problem.batch).astype(np.int64)
        fields = kernel_fields()[self.op.kernel]
        self.arrays = {
            name: self.alone.runner.value(t)
            for name, t in self.op.inputs.items()
            if name in fields and t.base != CONSTANTS
        }
        for name, array in self.arrays.items():
            array[...] = self.draw(name, array.shape, array.dtype)

    @property
    def elements(self) -> int:
        """Of the largest array."""
        return max(array.size for array in self.arrays.values())

    def draw(self, name: str, shape: Shape, dtype: Any) -> Array:
        """Values that an argument of this name may have."""
        random = np.random.default_rng(1)
        if dtype == np.uint8:
            return random.integers(0, 256, shape, np.uint8)
        if name in ("target", "labels", "winner"):
            window = int(self.problem.attributes.get("size", 1)) ** 2
            classes = self.problem.shapes.get("x", (1,))[-1]
            below = {"target": classes, "winner": window}.get(name, 1)
            return random.integers(0, below, shape).astype(dtype)
        values = np.resize(random.standard_normal(1 << 16), shape)
        positive = name in ("v", "cache", "var", "prob")
        return (abs(values) + 0.1 if positive else values).astype(dtype)

    def run(self, threads: int) -> Tape:
        """A problem too small for more threads gets one, as it would in a net."""
        team = 1 if self.alone.runner.program.small else threads
        lr = 1e-9 if self.in_place else 0.0
        return Tape(self.alone, team, index=self.index, lr=lr)


class Tape:
    """A timing.Run of one of a tape's kernels; remembers the fastest step of all."""

    def __init__(
        self, alone: Alone, threads: int, op: int = 0, index: Array | None = None, lr: float = 0
    ) -> None:
        self.alone, self.threads, self.op, self.index, self.lr = alone, threads, op, index, lr
        self.fastest = inf

    def __call__(self, repeats: int) -> float:
        alone, index, lr = self.alone, self.index, self.lr
        seconds = alone.steps(repeats, self.threads, self.op, index=index, lr=lr)
        self.fastest = min(self.fastest, float(seconds.min()))
        return float(seconds.mean())


def problems(pattern: str = "") -> Iterator[Problem]:
    """Those whose group or name has all words of the pattern in it."""
    words = pattern.lower().split()
    for path in sorted(SHAPES.glob("*.txt")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                try:
                    found = list(parse(line, path.stem))
                except (ValueError, KeyError) as error:
                    raise SystemExit(f"{path}:{number}: {line!r}: {error}") from None
                for problem in found:
                    if all(w in f"{problem.group} {problem.name}".lower() for w in words):
                        yield problem


def parse(line: str, group: str) -> Iterator[Problem]:
    """The problems of one line, one for each pass."""
    what, _, passes = line.partition(":")
    op, *settings = what.split()
    values = dict(setting.split("=") for setting in settings)
    words = passes.split()
    for i, word in enumerate(words):
        if word.replace(".", "").isdigit():
            continue
        follows = words[i + 1] if i + 1 < len(words) else ""
        target = float(follows) if follows.replace(".", "").isdigit() else None
        if op == "gemm":
            yield _gemm(group, word, values, target)
            continue
        function, wanted = PASSES[word]
        arguments = signature(op, "update" if function == "update" else "forward")
        unknown = set(values) - set(arguments) - {"bytes"}
        if unknown:
            raise ValueError(f"{op} has no {', '.join(sorted(unknown))}")
        kinds = kernel_fields()[f"{op}_{'update' if function == 'update' else 'forward'}"]
        shapes = {
            n: tuple(int(d) for d in v.split("x"))
            for n, v in values.items()
            if kinds.get(n) == "tensor"
        }
        attributes = {n: _number(v) for n, v in values.items() if n not in shapes}
        words_shown = [v if n in shapes else f"{n}={v}" for n, v in values.items()]
        name = " ".join([op, word, *words_shown])
        yield Problem(group, name, op, function, shapes, attributes, wanted, target)


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)


def _gemm(group: str, kind: str, values: dict[str, str], target: float | None) -> Problem:
    m, n, k = (int(values[letter]) for letter in "mnk")
    x, w, function, wanted = {
        "NN": ((m, k), (k, n), "forward", ()),
        "NT": ((m, n), (n, k), "backward", ("dx",)),
        "TN": ((k, m), (m, n), "backward", ("dw",)),
    }[kind]
    shapes = {"x": x, "w": w}
    name = f"gemm {kind} {m}x{n}x{k}"
    return Problem(group, name, "affine", function, shapes, {}, wanted, target, kind)
