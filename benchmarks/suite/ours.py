"""cnncore's own training step, as `Solver` runs it: gather, forward, loss, backward, guard, update,
many steps to a call."""

from __future__ import annotations

import numpy as np

from cnncore.architecture import program, training
from cnncore.ceiling import Ceiling
from cnncore.plan import GRADIENTS, op_bytes, op_cost
from cnncore.program import Batches, Runner
from cnncore.vector import Vector

from .workloads import Workload

BATCHES = 4  # that take turns in the data


class Training:
    """A model, its optimizer and data, ready to step."""

    def __init__(self, workload: Workload, dtype: str = "float32", isa: str | None = None) -> None:
        self.model = workload.model(dtype, isa)
        self.batch, self.update = workload.batch, workload.update
        made = self.model.architecture
        purpose = training(self.batch, self.model.isa, self.model.loss, self.model.l2, self.update)
        states = {n: Vector(made.parameters, dtype) for n in (GRADIENTS, *self.update.states)}
        self.runner = Runner(program(made, purpose), self.model.vectors | states)
        self.examples = self.model.labelled(*workload.data(BATCHES, dtype))
        self.runner.bind(self.examples.bindings)
        self.t = 1
        self.rows = np.random.default_rng(0).permutation(BATCHES * self.batch).astype(np.int64)

    def run(self, steps: int) -> None:
        """So many steps; like the solver's, a call of the tape lasts 50 ms."""
        while steps:
            count = min(steps, 256)
            index = np.resize(self.rows, count * self.batch)
            lr = np.full(count, self.update.lr)
            done = len(self.runner.run(Batches(np.full(count, self.batch), index, lr, self.t, 0)))
            self.t += done
            steps -= done

    def cost(self, ceiling: Ceiling) -> tuple[int, float]:
        """(floating-point operations of a step, the least seconds for its ops one by one)."""
        flops, seconds = 0, 0.0
        for op in self.runner.program.plan.ops:
            mine = sum(op_cost(plain)[0] for plain in op.plain())
            moved = op_bytes(op, self.examples.bindings)
            flops += mine
            seconds += ceiling.seconds(mine, moved, self.runner.program.in_place(op))
        return flops, seconds
