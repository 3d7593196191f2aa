"""JAX: the whole step, or a single kernel, in one jit; images as NHWC, buffers donated."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import cnncore as cnn

from ..timing import Run, calls
from ..workloads import border

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import jax
import jax.numpy as jnp
from jax import lax

if TYPE_CHECKING:
    from ..problems import Prepared
    from ..workloads import Workload

jax.config.update("jax_enable_x64", True)
LAYOUT = ("NHWC", "HWIO", "NHWC")


class Jax:
    """Its threads are those that the process may use: `machine.limit` sees to that."""

    name = "jax"

    def kernel(self, prepared: Prepared, threads: int) -> Run | None:
        problem, a = prepared.problem, prepared.arrays
        if problem.gemm:
            left, right = {"NN": ("x", "w"), "NT": ("dy", "w"), "TN": ("x", "dy")}[problem.gemm]
            product: Callable[..., Any] = {
                "NN": lambda p, q: p @ q,
                "NT": lambda p, q: p @ q.T,
                "TN": lambda p, q: p.T @ q,
            }[problem.gemm]
            return _jitted(product, a[left], a[right])
        if problem.op == "conv2d":
            return self._conv(prepared)
        function = _FORWARD.get(problem.op)
        if function is None or problem.function != "forward":
            return None
        return _jitted(function, *a.values())

    def _conv(self, prepared: Prepared) -> Run:
        stride = [prepared.problem.attributes.get("stride", 1)] * 2
        padding = [prepared.problem.attributes.get("padding", 0)] * 2
        a = prepared.arrays

        def conv(x: Any, w: Any) -> Any:
            return _conv(x, w, stride, padding)

        if prepared.problem.function == "forward":
            return _jitted(conv, a["x"], a["w"])
        if prepared.problem.wanted == ("dx",):
            shape = jax.ShapeDtypeStruct(prepared.problem.shapes["x"], a["dy"].dtype)
            return _jitted(
                lambda dy, w: jax.linear_transpose(lambda x: conv(x, w), shape)(dy)[0],
                a["dy"], a["w"],
            )  # fmt: skip
        shape = jax.ShapeDtypeStruct(prepared.problem.shapes["w"], a["dy"].dtype)
        return _jitted(
            lambda dy, x: jax.linear_transpose(lambda w: conv(x, w), shape)(dy)[0], a["dy"], a["x"]
        )

    def step(self, workload: Workload, dtype: str, threads: int) -> Run:
        random = np.random.default_rng(0)
        parameters: list[Any] = []
        x, y = workload.data(1, dtype)
        apply = _translate(workload.net().layers, workload.input_shape, dtype, random, parameters)
        state = _Optimizer(workload.update)

        def loss(parameters: Any, key: Any, x: Any, y: Any) -> Any:
            scores = apply(parameters, x, key)
            return -jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], 1).mean()

        def step(parameters: Any, moments: Any, t: Any, x: Any, y: Any) -> Any:
            gradients = jax.grad(loss)(parameters, jax.random.key(t, impl="rbg"), x, y)
            return *state.update(parameters, gradients, moments, t), t + 1

        jitted = jax.jit(step, donate_argnums=(0, 1, 2))
        x, y = jnp.asarray(x), jnp.asarray(y)
        parameters = [jnp.asarray(p) for p in parameters]
        held = [parameters, state.moments(parameters), jnp.asarray(1, jnp.int32)]

        def call() -> Any:
            held[:] = jitted(*held, x, y)
            return held

        return calls(call, jax.block_until_ready)


_FORWARD: dict[str, Callable[..., Any]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "add": lambda x0, x1: x0 + x1,
    "softmax": lambda x: jax.nn.softmax(x, axis=1),
}


def _jitted(function: Callable[..., Any], *arrays: np.ndarray) -> Run:
    jitted, held = jax.jit(function), [jnp.asarray(a.copy()) for a in arrays]
    return calls(lambda: jitted(*held), jax.block_until_ready)


def _conv(x: Any, w: Any, stride: Any, padding: Any) -> Any:
    borders = [(p, p) for p in padding]
    return lax.conv_general_dilated(x, w, stride, borders, dimension_numbers=LAYOUT)


class _Optimizer:
    """The update rule in a few lines of jax.numpy, which the jit fuses."""

    def __init__(self, rule: Any) -> None:
        self.rule = rule

    def moments(self, parameters: list[Any]) -> list[list[Any]]:
        return [[jnp.zeros_like(p) for p in parameters] for _ in self.rule.states]

    def update(self, parameters: Any, gradients: Any, moments: Any, t: Any) -> Any:
        rule = self.rule
        if isinstance(rule, cnn.Momentum):
            v = [rule.mu * v - rule.lr * g for v, g in zip(moments[0], gradients, strict=True)]
            return [p + v for p, v in zip(parameters, v, strict=True)], [v]
        b1, b2 = rule.beta1, rule.beta2
        m = [b1 * m + (1 - b1) * g for m, g in zip(moments[0], gradients, strict=True)]
        v = [b2 * v + (1 - b2) * g * g for v, g in zip(moments[1], gradients, strict=True)]
        time = t.astype(jnp.float32)
        lr = rule.lr * jnp.sqrt(1 - b2**time) / (1 - b1**time)

        def moved(p: Any, m: Any, v: Any) -> Any:
            return p - (lr * m / (jnp.sqrt(v) + rule.eps)).astype(p.dtype)

        return [moved(*pmv) for pmv in zip(parameters, m, v, strict=True)], [m, v]


def _translate(
    layers: Any, input_shape: tuple[int, ...], dtype: str, random: Any, parameters: list[Any]
) -> Callable[[Any, Any, Any], Any]:
    """The same net: a function of parameters, x and a random key. `parameters` is filled."""
    shape = (1, *input_shape)
    steps: list[Callable[[Any, Any, Any], Any]] = []
    for number, layer in enumerate(layers):
        step = _layer(layer, number, shape, dtype, random, parameters)
        held = [jax.ShapeDtypeStruct(p.shape, p.dtype) for p in parameters]
        x = jax.ShapeDtypeStruct(shape, dtype)
        shape = jax.eval_shape(step, held, x, jax.random.key(0)).shape
        steps.append(step)

    def apply(parameters: Any, x: Any, key: Any) -> Any:
        for step in steps:
            x = step(parameters, x, key)
        return x

    return apply


def _layer(
    layer: Any, number: int, shape: tuple[int, ...], dtype: str, random: Any, parameters: list[Any]
) -> Callable[[Any, Any, Any], Any]:
    at = len(parameters)

    def add(*size: int, scale: float) -> None:
        parameters.append((random.standard_normal(size) * scale).astype(dtype))

    match layer:
        case cnn.Affine():
            add(int(np.prod(shape[1:])), layer.m, scale=0.03)
            add(layer.m, scale=0.0)
            return lambda p, x, key: x @ p[at] + p[at + 1]
        case cnn.Conv2d():
            padding, stride = border(layer), layer.stride
            add(*layer.size, shape[3], layer.k, scale=0.03)
            if not layer.bias:
                return lambda p, x, key: _conv(x, p[at], stride, padding)
            add(layer.k, scale=0.0)
            return lambda p, x, key: _conv(x, p[at], stride, padding) + p[at + 1]
        case cnn.BatchNorm():
            parameters.append(np.ones(shape[-1], dtype))
            add(shape[-1], scale=0.0)
            return lambda p, x, key: _batchnorm(x, p[at], p[at + 1], layer.eps)
        case cnn.ReLU():
            return lambda p, x, key: jax.nn.relu(x)
        case cnn.MaxPool2d():
            window = (1, *layer.size, 1)
            return lambda p, x, key: lax.reduce_window(
                x, -jnp.inf, lax.max, window, window, "VALID"
            )
        case cnn.Dropout():
            keep = layer.keep_prob

            def dropout(p: Any, x: Any, key: Any) -> Any:
                mask = jax.random.bernoulli(jax.random.fold_in(key, number), keep, x.shape)
                return jnp.where(mask, x / keep, 0)

            return dropout
        case cnn.Flatten():
            return lambda p, x, key: x.reshape(x.shape[0], -1)
        case cnn.GlobalAvgPool2d():
            return lambda p, x, key: x.mean((1, 2))
        case cnn.Residual():
            body = _translate(layer.body, shape[1:], dtype, random, parameters)
            short = _translate(layer.shortcut or (), shape[1:], dtype, random, parameters)
            return lambda p, x, key: body(p, x, key) + short(p, x, key)
    raise NotImplementedError(f"no translation of {layer}")


def _batchnorm(x: Any, gamma: Any, beta: Any, eps: float) -> Any:
    axes = tuple(range(x.ndim - 1))
    mean = x.mean(axes)
    var = jnp.square(x - mean).mean(axes)
    return (x - mean) * (gamma * lax.rsqrt(var + eps)) + beta


PEERS = [Jax()]
