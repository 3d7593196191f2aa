"""The second executor: a plan's plain ops run by the NumPy twins, in float64.

It knows nothing of fusion, arenas, chunks or threads; the compiled tape is checked against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from . import reference
from .plan import ARENA, BOUND, CONSTANTS, Op, Plan, Tensor, signature
from .reference.case import Array


class Interpreter:
    """Values of a plan's tensors during one step.

    vectors: float64 arrays by base ("parameters", "gradients", ...), read and written in place."""

    def __init__(
        self, plan: Plan, vectors: Mapping[str, Array], arrays: Mapping[str, Array]
    ) -> None:
        self.plan = plan
        self.vectors = vectors
        self.arrays = arrays
        self.values: dict[Tensor, Array] = {}
        self.memo: dict[Any, Any] = {}  # what host ops keep from forward to backward
        self.winners: list[Array] = []  # of every kink that the step met, in order
        self.result_ops = _leading_to(plan.plain_ops, plan.results.values())

    def step(self, *, only_results: bool = False, **step: Any) -> dict[str, float]:
        """Runs one step and returns the plan's results; `only_results`: nothing that they do not
        depend on, which is the forward pass. `step`: index, t, seed, lr."""
        self.values.clear()
        self.winners.clear()
        for op in self.result_ops if only_results else self.plan.plain_ops:
            self.run(op, step)
        return {name: float(self.value(t)) for name, t in self.plan.results.items()}

    def run(self, op: Op, step: Mapping[str, Any]) -> None:
        if op.call is not None:
            arrays = {name: self.value(tensor) for name, tensor in op.inputs.items()}
            n = len(step["index"])
            made = {
                name: np.zeros((n, *t.shape[1:]) if t.batch else t.shape)
                for name, t in op.outputs.items()
            }
            op.call(arrays | made, self.memo)
            results: Mapping[str, Array] = made
        else:
            module = reference.op(op.op)
            arguments = {name: self.value(tensor) for name, tensor in op.inputs.items()}
            varying = {name: step[name] for name in getattr(module, "STEP", ())}
            results = getattr(module, op.function)(**arguments, **varying, **op.attributes)
            if op.function == "forward" and hasattr(module, "winners"):
                known = {**arguments, **results}
                names = signature(op.op, "winners")
                self.winners.append(module.winners(*(known[name] for name in names)))
        for name, tensor in op.outputs.items():
            self._set(tensor, results[name])

    def value(self, tensor: Tensor) -> Array:
        if tensor.base == BOUND:
            return self.arrays[tensor.name]
        if tensor.base == CONSTANTS:
            end = tensor.offset + tensor.size
            flat = np.frombuffer(self.plan.constants[tensor.offset : end], tensor.dtype)
            return flat.reshape(tensor.shape)
        if tensor.base != ARENA:
            return self._view(tensor)
        value = self.values[tensor.root]
        return value.reshape((len(value), *tensor.shape[1:])) if tensor.batch else value

    def _view(self, tensor: Tensor) -> Array:
        item = 4 if tensor.dtype == "float32" else 8
        flat = self.vectors[tensor.base][tensor.offset // item :][: int(np.prod(tensor.shape))]
        return flat.reshape(tensor.shape)

    def _set(self, tensor: Tensor, value: Array) -> None:
        if tensor.base == BOUND:
            self.arrays[tensor.name][: len(value)] = value
        elif tensor.base == ARENA:
            self.values[tensor.root] = np.asarray(value)
        else:
            self._view(tensor)[...] = value


def _leading_to(ops: Sequence[Op], results: Iterable[Tensor]) -> list[Op]:
    """The ops that the results depend on, in order."""
    needed = {tensor.root for tensor in results}
    chosen = []
    for op in reversed(ops):
        if any(tensor.root in needed for tensor in op.outputs.values()):
            needed.update(tensor.root for tensor in op.inputs.values())
            chosen.append(op)
    return chosen[::-1]
