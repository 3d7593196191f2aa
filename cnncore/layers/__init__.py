"""Layers: frozen declarations. The names here are the closed registry that files may name."""

from .activations import ELU, LeakyReLU, ReLU, Sigmoid, Tanh
from .affine import Affine
from .base import Layer
from .batchnorm import BatchNorm
from .containers import Concat, Residual, Sequential
from .conv2d import Conv2d
from .dropout import Dropout
from .flatten import Flatten
from .maxout import Maxout
from .numpy_layer import NumpyLayer
from .pooling import AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = [
    "ELU",
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
    "Maxout",
    "NumpyLayer",
    "ReLU",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Tanh",
]

# A user's functions cannot be named in a file.
REGISTRY: dict[str, type[Layer]] = {
    name: globals()[name] for name in __all__ if name not in ("Layer", "NumpyLayer")
}
