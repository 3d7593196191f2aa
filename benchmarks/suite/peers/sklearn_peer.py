"""scikit-learn's MLPClassifier, for nets of affine layers and ReLU alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from sklearn.neural_network import MLPClassifier

import cnncore as cnn

from ..timing import Run, calls

if TYPE_CHECKING:
    from ..workloads import Workload


class ScikitLearn:
    name = "sklearn"

    def kernel(self, *_: object) -> None:
        return None

    def step(self, workload: Workload, dtype: str, threads: int) -> Run | None:
        net = workload.net().layers
        if not all(type(layer) in (cnn.Affine, cnn.ReLU) for layer in net):
            return None
        x, y = workload.data(1, dtype)
        hidden = tuple(layer.m for layer in net if isinstance(layer, cnn.Affine))[:-1]
        rule = (
            {"solver": "adam"}
            if isinstance(workload.update, cnn.Adam)
            else {"solver": "sgd", "momentum": workload.update.mu, "nesterovs_momentum": False}
        )
        classifier = MLPClassifier(
            hidden, learning_rate_init=workload.update.lr, batch_size=len(x), alpha=0.0, **rule
        )
        classifier.partial_fit(x, y, classes=np.arange(10))
        return calls(lambda: classifier.partial_fit(x, y))


PEERS = [ScikitLearn()]
