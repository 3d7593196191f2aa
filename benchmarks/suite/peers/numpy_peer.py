"""NumPy, for what it has: matrix products and simple elementwise work, written into place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..timing import Run, calls

if TYPE_CHECKING:
    from ..problems import Prepared


class NumPy:
    name = "numpy"

    def kernel(self, prepared: Prepared, threads: int) -> Run | None:
        a, problem = prepared.arrays, prepared.problem
        if problem.gemm:
            left, right = {
                "NN": lambda: (a["x"], a["w"]),
                "NT": lambda: (a["dy"], a["w"].T),
                "TN": lambda: (a["x"].T, a["dy"]),
            }[problem.gemm]()
            out = left @ right
            return calls(lambda: np.matmul(left, right, out=out))
        name = f"{problem.op}.{problem.function}"
        if name == "relu.forward":
            y = np.empty_like(a["x"])
            return calls(lambda: np.maximum(a["x"], 0, out=y))
        if name == "tanh.forward":
            y = np.empty_like(a["x"])
            return calls(lambda: np.tanh(a["x"], out=y))
        if name == "add.forward":
            y = np.empty_like(a["x0"])
            return calls(lambda: np.add(a["x0"], a["x1"], out=y))
        if name == "gather.forward":
            return self._gather(prepared)
        return None

    def _gather(self, prepared: Prepared) -> Run:
        data, labels, index = prepared.arrays["data"], prepared.arrays["labels"], prepared.index
        if data.dtype != np.uint8:
            return calls(lambda: (data[index], labels[index]))
        unit = np.float32(1 / 255)
        return calls(lambda: (data[index] * unit, labels[index]))

    def step(self, *_: object) -> None:
        return None


PEERS = [NumPy()]
