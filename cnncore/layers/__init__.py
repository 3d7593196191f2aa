"""Layers: frozen declarations. The names here are the closed registry that files may name."""

from .activations import LeakyReLU, ReLU
from .affine import Affine
from .base import Layer
from .batchnorm import BatchNorm
from .containers import Concat, Residual, Sequential
from .conv2d import Conv2d
from .dropout import Dropout
from .flatten import Flatten
from .pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = [
    "Affine",
    "AvgPool2d",
    "BatchNorm",
    "Concat",
    "Conv2d",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "Layer",
    "LeakyReLU",
    "MaxPool2d",
    "ReLU",
    "Residual",
    "Sequential",
]

REGISTRY: dict[str, type[Layer]] = {name: globals()[name] for name in __all__ if name != "Layer"}
