"""PyTorch: eager, channels_last, compiled, and both; optimizers fused.

Kernels are called in eager mode, in both memory layouts where there are images; `compile` has
nothing to fuse in a single one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import cnncore as cnn

from ..timing import Run, calls
from ..workloads import border

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says while it is imported
    import torch
    from torch.nn import functional

if TYPE_CHECKING:
    from ..problems import Prepared
    from ..workloads import Workload

Tensor = torch.Tensor


class Torch:
    def __init__(self, channels_last: bool = False, compiled: bool = False) -> None:
        words = ["torch", *["compile"] * compiled, *["channels-last"] * channels_last]
        self.name = "-".join(words)
        self.channels_last, self.compiled = channels_last, compiled

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def kernel(self, prepared: Prepared, threads: int) -> Run | None:
        if self.compiled:
            return None
        images = any(a.ndim == 4 for a in prepared.arrays.values())
        if self.channels_last and (not images or prepared.problem.op == "gather"):
            return None
        torch.set_num_threads(threads)
        call = _Kernel(prepared, self._tensor).call()
        return None if call is None else calls(call)

    def _tensor(self, array: np.ndarray, name: str) -> Tensor:
        """A copy, with images and filters as PyTorch has them, in this mode's memory layout."""
        t = torch.from_numpy(array.copy())
        if t.ndim == 4:
            t = t.permute(3, 2, 0, 1) if name in ("w", "dw") else t.permute(0, 3, 1, 2)
            t = t.contiguous(memory_format=self._layout)
        return t

    def step(self, workload: Workload, dtype: str, threads: int) -> Run | None:
        if self.channels_last and len(workload.input_shape) == 1:
            return None
        step = self.training(workload, dtype, threads)
        return calls(step)

    def training(self, workload: Workload, dtype: str, threads: int) -> Callable[[], None]:
        """One step on a batch that is in place already."""
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        x_array, y_array = workload.data(1, dtype)
        x, y = self._tensor(x_array, "x"), torch.from_numpy(y_array)
        net = _translate(workload.net().layers, workload.input_shape)
        net = net.to(dtype=getattr(torch, dtype), memory_format=self._layout)

        def loss_of(x: Tensor, y: Tensor) -> Tensor:
            return functional.cross_entropy(net(x), y)

        if self.compiled:
            torch._dynamo.reset()
            loss_of = torch.compile(loss_of)
        optimizer = _optimizer(workload.update, net)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_of(x, y).backward()
            optimizer.step()

        return step


def _optimizer(update: Any, net: torch.nn.Module) -> torch.optim.Optimizer:
    if isinstance(update, cnn.Adam):
        return torch.optim.Adam(net.parameters(), lr=update.lr, fused=True)
    return torch.optim.SGD(net.parameters(), lr=update.lr, momentum=update.mu, fused=True)


class _Residual(torch.nn.Module):
    def __init__(self, body: torch.nn.Module, shortcut: torch.nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class _GlobalAverage(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def _translate(layers: Any, input_shape: tuple[int, ...]) -> torch.nn.Sequential:
    """The same net in PyTorch. Lazy layers find their sizes in a first pass."""
    nn = torch.nn

    def one(layer: Any) -> torch.nn.Module:
        match layer:
            case cnn.Affine():
                return nn.LazyLinear(layer.m, layer.bias)
            case cnn.Conv2d():
                padding = border(layer)
                return nn.LazyConv2d(layer.k, layer.size, layer.stride, padding, bias=layer.bias)
            case cnn.BatchNorm():
                image = len(input_shape) == 3
                return nn.LazyBatchNorm2d() if image else nn.LazyBatchNorm1d()
            case cnn.ReLU():
                return nn.ReLU()
            case cnn.MaxPool2d():
                return nn.MaxPool2d(layer.size)
            case cnn.Dropout():
                return nn.Dropout(1 - layer.keep_prob)
            case cnn.Flatten():
                return nn.Flatten()
            case cnn.GlobalAvgPool2d():
                return _GlobalAverage()
            case cnn.Residual():
                return _Residual(many(layer.body), many(layer.shortcut or ()))
        raise NotImplementedError(f"no translation of {layer}")

    def many(layers: Any) -> torch.nn.Sequential:
        return nn.Sequential(*(one(layer) for layer in layers))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy layers announce that they are lazy
        net = many(layers)
        shape = (*input_shape[2:], *input_shape[:2]) if len(input_shape) == 3 else input_shape
        with torch.no_grad():
            net(torch.zeros(2, *shape))
    return net


class _Kernel:
    """One problem as calls of PyTorch."""

    def __init__(self, prepared: Prepared, tensor: Callable[[np.ndarray, str], Tensor]) -> None:
        self.problem, self.prepared, self.tensor = prepared.problem, prepared, tensor

    def of(self, name: str) -> Tensor:
        """The argument of this name; one that our kernel does not read is drawn."""
        array = self.prepared.arrays.get(name)
        if array is None:
            shape = self.problem.shapes[name]
            array = self.prepared.draw(name, shape, self.prepared.arrays["dy"].dtype)
        return self.tensor(array, name)

    def call(self) -> Callable[[], Any] | None:
        op, function = self.problem.op, self.problem.function
        if self.problem.gemm:
            return self._gemm()
        if op == "conv2d":
            return self._conv(function)
        if op == "gather":
            return self._gather()
        if function == "update":
            return self._update()
        if function == "forward":
            return self._forward()
        return self._backward()

    def _gemm(self) -> Callable[[], Any]:
        left, right = {"NN": ("x", "w"), "NT": ("dy", "w"), "TN": ("x", "dy")}[self.problem.gemm]
        a, b = self.of(left), self.of(right)
        a = a.T if self.problem.gemm == "TN" else a
        b = b.T if self.problem.gemm == "NT" else b
        out = a @ b
        return lambda: torch.mm(a, b, out=out)

    def _conv(self, function: str) -> Callable[[], Any]:
        stride = [self.problem.attributes.get("stride", 1)] * 2
        padding = [self.problem.attributes.get("padding", 0)] * 2
        w = self.of("w")
        if function == "forward":
            x = self.of("x")
            return lambda: functional.conv2d(x, w, None, stride, padding)
        x, dy = self.of("x"), self.of("dy")
        mask = ["dx" in self.problem.wanted, "dw" in self.problem.wanted, False]
        more = (None, stride, padding, [1, 1], False, [0, 0], 1, mask)
        return lambda: torch.ops.aten.convolution_backward(dy, x, w, *more)

    def _gather(self) -> Callable[[], Any]:
        data = torch.from_numpy(self.prepared.arrays["data"].copy())
        labels = torch.from_numpy(self.prepared.arrays["labels"].copy())
        index = torch.from_numpy(self.prepared.index)
        if data.dtype != torch.uint8:
            return lambda: (data.index_select(0, index), labels.index_select(0, index))
        return lambda: (
            data.index_select(0, index).to(torch.float32).mul_(1 / 255),
            labels.index_select(0, index),
        )

    def _update(self) -> Callable[[], Any] | None:
        w = torch.nn.Parameter(self.of("w"))
        w.grad = self.of("dw")
        rules: dict[str, Callable[[], torch.optim.Optimizer]] = {
            "sgd": lambda: torch.optim.SGD([w], lr=1e-9, fused=True),
            "momentum": lambda: torch.optim.SGD([w], lr=1e-9, momentum=0.9, fused=True),
            "adam": lambda: torch.optim.Adam([w], lr=1e-9, fused=True),
        }
        return rules[self.problem.op]().step if self.problem.op in rules else None

    def _function(self) -> Callable[..., Tensor] | None:
        """Of x, and of the parameters behind it."""
        a = self.problem.attributes
        return {
            "relu": torch.relu,
            "leaky_relu": functional.leaky_relu,
            "elu": functional.elu,
            "sigmoid": torch.sigmoid,
            "tanh": torch.tanh,
            "max_pool2d": lambda x: functional.max_pool2d(x, a["size"]),
            "avg_pool2d": lambda x: functional.avg_pool2d(x, a["size"]),
            "global_avg_pool2d": lambda x: x.mean((2, 3)),
            "dropout": lambda x: functional.dropout(x, 1 - a["keep_prob"], True),
            "softmax": lambda x: torch.softmax(x, 1),
            "batchnorm": lambda x, gamma, beta: functional.batch_norm(
                x, None, None, gamma, beta, True
            ),
        }.get(self.problem.op)

    def _arguments(self) -> list[Tensor]:
        x = self._x()
        if self.problem.op != "batchnorm":
            return [x]
        channels = self.problem.shapes["x"][-1]
        return [x, torch.ones(channels, dtype=x.dtype), torch.zeros(channels, dtype=x.dtype)]

    def _x(self) -> Tensor:
        known = next(a for a in self.prepared.arrays.values() if a.dtype.kind == "f")
        return self.tensor(self.prepared.draw("x", self.problem.shapes["x"], known.dtype), "x")

    def _forward(self) -> Callable[[], Any] | None:
        if self.problem.op == "add":
            x0, x1 = self.of("x0"), self.of("x1")
            return lambda: torch.add(x0, x1)
        if self.problem.op == "softmax_cross_entropy":
            x, target = self._x(), self.of("target")
            return lambda: functional.cross_entropy(x, target)
        function = self._function()
        if function is None:
            return None
        arguments = self._arguments()

        def call() -> None:
            with torch.no_grad():
                function(*arguments)

        return call

    def _backward(self) -> Callable[[], Any] | None:
        if self.problem.op == "softmax_cross_entropy":
            x, target = self._x().requires_grad_(), self.of("target")
            loss = functional.cross_entropy(x, target)
            return lambda: torch.autograd.grad(loss, x, retain_graph=True)
        function = self._function()
        if function is None:
            return None
        arguments = [t.requires_grad_() for t in self._arguments()]
        y = function(*arguments)
        dy = torch.randn_like(y)
        return lambda: torch.autograd.grad(y, arguments, dy, retain_graph=True)


PEERS = [
    Torch(channels_last, compiled) for compiled in (False, True) for channels_last in (False, True)
]
