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

from typing import TYPE_CHECKING, Any

from . import init, ops, reference
from .errors import DataFormatError, DivergenceError, NotFittedError
from .gradcheck import GradientCheck, gradcheck, numerical_gradient, relative_error
from .layers import *  # noqa: F403
from .layers import __all__ as _layers
from .losses import Hinge, MeanSquaredError, Softmax
from .model import Model, load
from .preprocessing import PCA, Normalize, Whiten, ZeroCenter
from .solver import Solver
from .system import get_num_threads, info, set_num_threads, version
from .updates import L2, SGD, AdaGrad, Adam, Momentum, Nesterov, RMSProp

if TYPE_CHECKING:
    from . import data, zoo

    __version__: str


# Names that other libraries have made familiar, and ours.
_OTHER_NAMES = {
    "Dense": "Affine",
    "Linear": "Affine",
    "Conv2D": "Conv2d",
    "Convolution2D": "Conv2d",
    "MaxPooling2D": "MaxPool2d",
    "AveragePooling2D": "AvgPool2d",
    "GlobalAveragePooling2D": "GlobalAvgPool2d",
    "BatchNormalization": "BatchNorm",
    "BatchNorm1d": "BatchNorm",
    "BatchNorm2d": "BatchNorm",
    "Activation": "ReLU, LeakyReLU, ELU, Sigmoid or Tanh",
    "Concatenate": "Concat",
    "StandardScaler": "ZeroCenter() and Normalize()",
    "MinMaxScaler": 'Normalize("minmax")',
    "Trainer": "Solver",
    "MSELoss": "MeanSquaredError",
    "CrossEntropyLoss": "Softmax",
}


def __getattr__(name: str) -> Any:
    """What takes long to import and is not always wanted."""
    if name in _OTHER_NAMES:
        raise AttributeError(f"cnncore has no {name}; here it is {_OTHER_NAMES[name]}")
    if name in ("data", "zoo"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    if name == "__version__":
        return version()
    raise AttributeError(f"cnncore has no {name}")


__all__ = [
    *_layers,
    "L2",
    "PCA",
    "SGD",
    "AdaGrad",
    "Adam",
    "DataFormatError",
    "DivergenceError",
    "GradientCheck",
    "Hinge",
    "MeanSquaredError",
    "Model",
    "Momentum",
    "Nesterov",
    "Normalize",
    "NotFittedError",
    "RMSProp",
    "Softmax",
    "Solver",
    "Whiten",
    "ZeroCenter",
    "__version__",
    "data",
    "get_num_threads",
    "gradcheck",
    "info",
    "init",
    "load",
    "numerical_gradient",
    "ops",
    "reference",
    "relative_error",
    "set_num_threads",
    "zoo",
]
