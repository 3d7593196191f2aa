"""The training steps that are compared: nets, batches and update rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import cnncore as cnn
from cnncore import zoo
from cnncore.layers import Layer
from cnncore.updates import Update

CLASSES = 10


@dataclass(frozen=True)
class Workload:
    name: str
    net: Callable[[], cnn.Sequential]
    input_shape: tuple[int, ...]
    batch: int
    update: Update

    def model(self, dtype: str = "float32", isa: str | None = None) -> cnn.Model:
        return cnn.Model(self.net(), self.input_shape, dtype=dtype, isa=isa)

    def data(self, batches: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
        """(x, y): so many batches of random examples."""
        random = np.random.default_rng(0)
        count = batches * self.batch
        x = random.standard_normal((count, *self.input_shape), np.float32).astype(dtype)
        return x, random.integers(0, CLASSES, count)


def _mlp(*widths: int, before_relu: tuple[Layer, ...] = (), after: tuple[Layer, ...] = ()):
    hidden = [layer for m in widths for layer in (cnn.Affine(m), *before_relu, cnn.ReLU(), *after)]
    return lambda: cnn.Sequential((*hidden, cnn.Affine(CLASSES)))


def lenet() -> cnn.Sequential:
    layers: list[Layer] = []
    for k in (32, 64):
        layers += [cnn.Conv2d(k, 5, padding=2), cnn.ReLU(), cnn.MaxPool2d(2)]
    return cnn.Sequential(
        (*layers, cnn.Flatten(), cnn.Affine(512), cnn.ReLU(), cnn.Affine(CLASSES))
    )


def vgg6() -> cnn.Sequential:
    layers: list[Layer] = []
    for k in (64, 128, 256):
        for _ in range(2):
            layers += [cnn.Conv2d(k, 3, padding=1), cnn.BatchNorm(), cnn.ReLU()]
        layers.append(cnn.MaxPool2d(2))
    return cnn.Sequential(
        (*layers, cnn.Flatten(), cnn.Affine(256), cnn.ReLU(), cnn.Affine(CLASSES))
    )


def resnet18() -> cnn.Sequential:
    """He et al. 2016, with a 3x3 first layer and no pooling behind it, as usual for CIFAR."""

    def conv(k: int, size: int, stride: int = 1) -> tuple[Layer, ...]:
        return cnn.Conv2d(k, size, stride, padding=size // 2, bias=False), cnn.BatchNorm()

    layers: list[Layer] = [*conv(64, 3), cnn.ReLU()]
    for k in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if k > 64 and block == 0 else 1
            body = (*conv(k, 3, stride), cnn.ReLU(), *conv(k, 3))
            layers += [cnn.Residual(body, conv(k, 1, stride) if stride > 1 else None), cnn.ReLU()]
    return cnn.Sequential((*layers, cnn.GlobalAvgPool2d(), cnn.Affine(CLASSES)))


CIFAR = (32, 32, 3)
MOMENTUM, ADAM = cnn.Momentum(1e-3), cnn.Adam(1e-4)
WORKLOADS = [
    Workload("tiny MLP 64-64-10", _mlp(64), (64,), 32, ADAM),
    Workload("MLP 3072-100-10", _mlp(100), (3072,), 100, MOMENTUM),
    Workload(
        "MLP 784-512-512-10 BN dropout",
        _mlp(512, 512, before_relu=(cnn.BatchNorm(),), after=(cnn.Dropout(0.5),)),
        (784,), 128, ADAM,
    ),
    Workload("MLP 1024x4", _mlp(1024, 1024, 1024), (1024,), 256, ADAM),
    Workload("LeNet", lenet, (28, 28, 1), 64, MOMENTUM),
    Workload(
        "ConvNet cs231n", lambda: zoo.three_layer_convnet(CIFAR, CLASSES), CIFAR, 50, ADAM
    ),
    Workload("VGG-6 BN", vgg6, CIFAR, 128, MOMENTUM),
    Workload("ResNet-20", lambda: zoo.resnet20(CIFAR, CLASSES), CIFAR, 128, MOMENTUM),
    Workload("ResNet-18", resnet18, CIFAR, 64, MOMENTUM),
]  # fmt: skip


def border(layer: cnn.Conv2d) -> tuple[int, int]:
    """Padding above and left of an image, which is also that below and right, of a layer with
    stride 1 or an integer padding: as other libraries take it."""
    if layer.padding == "same":
        return layer.size[0] // 2, layer.size[1] // 2
    return layer.padding, layer.padding


def matching(pattern: str) -> list[Workload]:
    """Those whose name has all words of the pattern in it."""
    words = pattern.lower().split()
    return [w for w in WORKLOADS if all(word in w.name.lower() for word in words)]
