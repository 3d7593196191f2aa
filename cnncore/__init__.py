"""cnncore: trains MLPs and convolutional networks on a multi-core CPU.

import cnncore as cnn
model = cnn.Model([cnn.Flatten(), cnn.Affine(100), cnn.ReLU(), cnn.Affine(10)], (28, 28, 1))
cnn.Solver(model, train=(x, y), update=cnn.Adam(1e-3), num_epochs=5).train()
"""

try:
    import cnncore._core  # noqa: F401 - tried first, for a clear message
except ModuleNotFoundError as error:
    if error.name != "cnncore._core":
        raise
    raise ImportError(
        "cnncore's compiled module is missing: this is the source folder, not an installed "
        "package. Run `pip install .` in the folder above it, and start Python elsewhere (or use "
        "the commands `cnncore` and `pytest`, not `python -m`)."
    ) from None

from . import data, init, ops, reference
from .errors import DivergenceError
from .gradcheck import GradientCheck, gradcheck
from .layers import (
    Affine,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool2d,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
)
from .losses import Softmax
from .model import Model, load
from .npz import DataFormatError
from .solver import Solver
from .system import get_num_threads, info, set_num_threads, version
from .updates import L2, SGD, Adam, Momentum

__version__ = version()

__all__ = [
    "L2",
    "SGD",
    "Adam",
    "Affine",
    "BatchNorm",
    "Conv2d",
    "DataFormatError",
    "DivergenceError",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2d",
    "GradientCheck",
    "MaxPool2d",
    "Model",
    "Momentum",
    "ReLU",
    "Residual",
    "Sequential",
    "Softmax",
    "Solver",
    "__version__",
    "data",
    "get_num_threads",
    "gradcheck",
    "info",
    "init",
    "load",
    "ops",
    "reference",
    "set_num_threads",
]
