"""From declarations to plans: what a net, a loss and an update rule become for each purpose."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import fuse
from .layers.containers import Sequential, emit_all
from .losses import Loss
from .plan import (
    ARENA,
    BATCH,
    BOUND,
    CONSTANTS,
    GRADIENTS,
    PARAMETERS,
    Builder,
    Op,
    Plan,
    Tensor,
    backward,
    segments,
)  # fmt: skip
from .program import Program
from .shapes import Shape
from .updates import Update
from .vector import Layout

DTYPES = ("float32", "float64")
# How many architectures, and programs over all of them, are remembered.
REMEMBERED = 64


@lru_cache(REMEMBERED)
def architecture(
    net: Sequential, input_shape: Shape, dtype: str, scalings: tuple[tuple[str, int], ...] = (),
    precision: str = "fast",
) -> Architecture:  # fmt: skip
    return Architecture(net, input_shape, dtype, scalings, precision)


@lru_cache(4 * REMEMBERED)
def program(of: Architecture, purpose: Purpose) -> Program:
    return Program(of.plan(purpose))


class Purpose(NamedTuple):
    """What a plan is for.

    kind: "scores" or "probabilities" (forward at test time), "evaluate" (scores and loss),
    "gradients" (loss and gradients, nothing updated) or "train"."""

    kind: str
    capacity: int
    isa: str
    loss: Loss | None = None
    l2: float = 0.0
    update: Update | None = None  # with its lr left out of account
    input_gradient: bool = False
    keep: tuple[str, ...] = ()  # layers whose outputs survive the step
    weighted: bool = False  # whether examples have weights
    frozen: frozenset[str] = frozenset()  # paths of parameters that are not trained


def training(
    capacity: int, isa: str, loss: Loss, l2: float, update: Update, **more: Any
) -> Purpose:
    """The purpose of a training plan: the learning rate is data, never part of a plan."""
    return Purpose("train", capacity, isa, loss, l2, replace(update, lr=0.0), **more)


class Architecture:
    """A net for inputs of one shape and dtype: its parameters, and its plans for any purpose.

    scalings: names and lengths of the vectors, `mean` and `scale`, that a gathered example is
    shifted and scaled by. precision: "exact" keeps to the direct sums of convolutions."""

    def __init__(
        self, net: Sequential, input_shape: Shape, dtype: str,
        scalings: tuple[tuple[str, int], ...], precision: str,
    ) -> None:  # fmt: skip
        self.net, self.input_shape, self.dtype = net, input_shape, dtype
        self.precision = precision
        self.scaling_lengths = scalings
        builder = Builder(1, dtype, training=True)
        x = self._gather(builder)
        self.scores = self._emit(builder, x)
        self.layers = builder.layers
        self.forward_ops = builder.ops[1:]
        self.parameters = Layout(builder.parameters)
        self.statistics = Layout(builder.statistics)
        self.scalings = Layout(builder.scalings)

    def _emit(self, builder: Builder, x: Tensor) -> Tensor:
        scores = emit_all(self.net.layers, builder, x)
        if len(scores.shape) != 2:
            raise ValueError(
                f"the net gives {scores.shape[1:]} an example, expected scores (classes,): "
                f"end it with Flatten() or GlobalAvgPool2d() and an Affine layer"
            )
        return scores

    @property
    def layouts(self) -> tuple[Layout, Layout]:
        return self.parameters, self.statistics

    @property
    def outputs(self) -> int:
        return self.scores.shape[1]

    @cached_property
    def activation_bytes(self) -> int:
        """Of all forward ops' results for one example; a training step keeps no more than these."""
        roots = {t.root for op in self.forward_ops for t in op.tensors.values()}
        return sum(t.size for t in roots if t.base == ARENA)

    def plan(self, purpose: Purpose) -> Plan:
        train = purpose.kind in ("train", "gradients")
        builder = Builder(purpose.capacity, self.dtype, train, purpose.frozen)
        labelled = purpose.kind not in ("scores", "probabilities")
        x = self._gather(builder)
        scores = self._emit(builder, x)
        results: dict[str, Tensor] = {}
        named: dict[str, Tensor] = {}
        if labelled:
            assert purpose.loss is not None
            target, weight = self._gather_targets(builder, purpose)
            results["data_loss"] = purpose.loss.emit(builder, scores, target, weight)
        plain = builder.ops
        constants = b""
        if train:
            wanted = [x] if purpose.input_gradient else []
            made, gradients = backward(plain, results["data_loss"], wanted, self.dtype)
            plain = plain + made
            if purpose.input_gradient:
                dx = gradients[x.root]
                named["dx"] = replace(dx, shape=x.shape, source=dx)
            constants = self._add_tail(builder, plain, purpose, results)
        else:
            out = (
                builder.apply("softmax", x=scores)["y"]
                if purpose.kind == "probabilities"
                else scores
            )
            result = Tensor("y", (1, *out.shape[1:]), self.dtype, BOUND)
            plain.append(Op("output", "forward", {"x": out}, {"y": result}))
        outputs = {path: y for path, _, y in builder.layers}
        named |= {path: outputs[path] for path in purpose.keep}
        keep = tuple(named.values())
        ops = fuse.fuse(plain, keep)
        if self.precision == "fast":
            ops = fuse.by_winograd(ops, purpose.capacity, not train)
        return Plan(
            ops, plain, purpose.capacity, self.dtype, purpose.isa, results,
            keep, constants, not train, named,
        )  # fmt: skip

    def _gather(self, builder: Builder) -> Tensor:
        """The plan's first op: a batch of examples, in the dtype of the net."""
        x = builder.tensor("x", (BATCH, *self.input_shape))
        self._gather_from(builder, "data", self.input_shape, x)
        for name, length in self.scaling_lengths:
            builder.ops[0].inputs[name] = builder.scaling(name, length)
        return x

    def _gather_targets(self, builder: Builder, purpose: Purpose) -> tuple[Tensor, Tensor | None]:
        """What the loss compares the scores with, and the examples' weights."""
        assert purpose.loss is not None
        weight = None
        if purpose.weighted:
            column = builder.tensor("weight", (BATCH, 1))
            self._gather_from(builder, "weights", (1,), column)
            weight = builder.reshape(column, ())
        if purpose.loss.targets == "real":
            target = builder.tensor("target", (BATCH, self.outputs))
            self._gather_from(builder, "labels", (self.outputs,), target)
            return target, weight
        target = builder.tensor("target", (BATCH,), "int64")
        first = builder.ops[0]
        first.attributes["classes"] = self.outputs
        first.inputs["labels"] = Tensor("labels", (1,), "int64", BOUND)
        first.outputs["target"] = target
        return target, weight

    def _gather_from(self, builder: Builder, name: str, example: Shape, to: Tensor) -> None:
        data = Tensor(name, (1, *example), "float32", BOUND)
        builder.ops.append(Op("gather", "forward", {"data": data}, {"x": to}, {"classes": 1}))

    def _add_tail(
        self, builder: Builder, ops: list[Op], purpose: Purpose, results: dict[str, Tensor]
    ) -> bytes:
        """What works on whole vectors: penalty, guard, update; then the running averages."""
        size = (max(self.parameters.size, 1),)
        w = Tensor("w", size, self.dtype, PARAMETERS)
        dw = Tensor("dw", size, self.dtype, GRADIENTS)
        entries = self.parameters.entries
        table = segments((entries[p] for p in entries if p not in purpose.frozen), purpose.l2)
        segment = Tensor("segments", table.shape, "float64", CONSTANTS)
        tail = builder.ops = []
        if purpose.l2:
            penalty = builder.apply("l2_penalty", w=w, segments=segment)["penalty"]
            results["penalty"] = penalty
        if purpose.kind == "train":
            assert purpose.update is not None
            builder.apply("guard", loss=results["data_loss"], dw=dw)
            arguments: dict[str, Any] = {
                name: replace(w, name=name, base=name) for name in purpose.update.states
            } | purpose.update.attributes()
            builder.apply(purpose.update.op, w=w, dw=dw, segments=segment, **arguments)
            tail.extend(builder.late)
        elif purpose.l2:
            inputs = {"w": w, "segments": segment, "dw": dw}
            tail.append(Op("l2_penalty", "backward", inputs, {"dw": dw}))
        ops.extend(tail)
        return np.ascontiguousarray(table).tobytes()
