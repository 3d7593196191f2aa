"""Results that are larger than caches are written past them, where their vectors lie right. The
same results a few bytes further are written as small ones are: both must have the same bits."""

from __future__ import annotations

import numpy as np
import pytest

from cnncore import levels, ops

LINE = 64
# 16 MiB and a little more; the last of each does not fill whole vectors, chunks or windows.
FLAT = (33, 127, 1003)
IMAGES = (65, 34, 30, 64)
ODD = (65, 33, 31, 67)


def allocator(misplaced):
    """Arrays at the beginning of a line, or `misplaced` elements further, full of NaN."""

    def allocate(shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.full(size + 2 * LINE, 0xFF, np.uint8)
        start = -raw.ctypes.data % LINE + misplaced * np.dtype(dtype).itemsize
        return raw[start : start + size].view(dtype).reshape(shape)

    return allocate


def run(function, misplaced, isa, arrays, switches, **attributes):
    allocate = allocator(misplaced)
    shapes = {name: arrays[name].shape for name in function.accepted if name in arrays}
    results, canonical = function.infer(**shapes, **attributes)
    dtypes = {name: function.dtypes.get(name, "float32") for name in results}
    outputs = {name: allocate(shape, dtypes[name]) for name, shape in results.items()}
    step = {"seed": 7} if function.label.startswith("dropout") else {}
    function._run(
        arrays | outputs, canonical | switches, step, "float32", levels.choose(isa), 2, allocate
    )
    return {name: outputs[name] for name in function.fields if name in outputs}


def draw(*shapes):
    random = np.random.default_rng(0)
    return [random.standard_normal(shape, np.float32) for shape in shapes]


def channels(count):
    gamma, beta, mean, var = draw(*[(count,)] * 4)
    return {"gamma": gamma, "beta": beta, "mean": mean, "var": 1 + np.abs(var)}


def cases():
    """label -> function, arrays, switches, attributes."""
    a, b = draw(FLAT, FLAT)
    for op in ("relu", "leaky_relu", "elu", "sigmoid", "tanh"):
        compiled = getattr(ops, op)
        setting = {"leaky_relu": {"slope": 0.1}, "elu": {"alpha": 1.0}}.get(op, {})
        yield f"{op}.forward", compiled.forward, {"x": a}, {}, setting
        yield f"{op}.backward", compiled.backward, {"dy": a, "y": b}, {}, setting
    yield "add.forward", ops.add.forward, {"x0": a, "x1": b}, {}, {}
    yield "scale.forward", ops.scale.forward, {"x": a}, {}, {"factor": 0.5}
    mask = {"keep_prob": 0.5, "ordinal": 1}
    yield "dropout.forward", ops.dropout.forward, {"x": a}, {}, mask
    yield "dropout.backward", ops.dropout.backward, {"dy": a}, {}, mask
    for shape in (IMAGES, ODD):
        x, dy = draw(shape, shape)
        of = channels(shape[3])
        moments = {"mean": of["mean"], "var": of["var"]}
        running = {"running_mean": of["mean"], "running_var": of["var"]}
        scale = {"gamma": of["gamma"], "beta": of["beta"]}
        forward = {"x": x, **scale}
        backward = {"dy": dy, **forward, **moments}
        norm, eps = ops.batchnorm, {"eps": 1e-5}
        for relu in (0, 1):
            kind = f"{shape[3]}, relu {relu}"
            yield f"batchnorm.forward {kind}", norm.forward, forward, {"relu": relu}, eps
            yield f"batchnorm.backward {kind}", norm.backward, backward, {"relu": relu}, eps
        evaluated = forward | running
        yield f"batchnorm_eval {shape[3]}", ops.batchnorm_eval.forward, evaluated, {}, eps
        channel = shape[3]
        pooled = (65, shape[1] // 2, shape[2] // 2, channel)
        (dy,) = draw(pooled)
        winner = np.random.default_rng(0).integers(0, 4, pooled, np.uint16)
        window = {"size": 2, "stride": 2}
        pool = {"x": x, "dy": dy}
        yield (
            f"max_pool2d {channel}",
            ops.max_pool2d.backward,
            pool | {"winner": winner},
            {},
            window,
        )
        yield f"avg_pool2d {channel}", ops.avg_pool2d.backward, pool, {}, window
        w, bias = draw((3, 3, 16, channel), (channel,))
        image = {"x": np.ascontiguousarray(x[..., :16]), "w": w, "b": bias}
        for m in (2, 4):
            form = {"winograd": m}
            yield f"conv2d {channel}, {m}", ops.conv2d.forward, image, form, {"padding": 1}
        down = (65, (shape[1] + 1) // 2, (shape[2] + 1) // 2, 8)
        dy, w = draw(down, (1, 1, channel, 8))
        skipping = {"dy": dy, "x": x, "w": w}
        yield f"conv2d 1x1 {channel}", ops.conv2d.backward, skipping, {}, {"stride": 2}
    small, deep = draw((2, 4, 4, 512), (3, 3, 512, 512))
    filters = {"x": small, "w": deep, "b": np.zeros(512, np.float32)}
    yield "conv2d, filters", ops.conv2d.forward, filters, {"winograd": 4}, {"padding": 1}


CASES = {label: case for label, *case in cases()}


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("label", CASES)
def test_large_results_have_the_bits_of_small_ones(label, isa):
    function, arrays, switches, attributes = CASES[label]
    past, ordinary = (
        run(function, misplaced, isa, arrays, switches, **attributes) for misplaced in (0, 1)
    )
    for name in past:
        assert np.isfinite(past[name]).all(), name
        assert past[name].tobytes() == ordinary[name].tobytes(), name


@pytest.mark.parametrize("isa", levels.available())
def test_a_batch_too_large_to_copy(isa):
    """Sums of small whole numbers are exact, in whatever order."""
    random = np.random.default_rng(0)
    x, dy = (random.integers(-1, 2, (40_000, size)).astype("float32") for size in (256, 170))
    gradients = ops.affine.backward(dy=dy, x=x, w=np.zeros((256, 170), "float32"), isa=isa)
    np.testing.assert_array_equal(gradients["dw"], x.astype(np.float64).T @ dy)
