"""Fusion: a list of ops in, one with less to do, or less to keep, out. Every fused op names the ops
it replaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from .plan import Op, Tensor, kernel_fields, op_cost, unread


def fuse(ops: Sequence[Op], keep: Sequence[Tensor]) -> list[Op]:
    ops = relu_into_producer(share_gradient_of_add(covering_filters(ops)), keep)
    ops = relu_into_max_pool_backward(relu_into_batchnorm_backward(ops, keep), keep)
    return again_before_backward(moments_into_convolution(sum_into_relu_backward(ops, keep)), keep)


# Tiles of outputs, rows and columns, that src/winograd.h has for a filter's side; its switch is the
# number of columns.
TILES = {3: ((4, 4), (2, 2)), 5: ((4, 4), (2, 2)), 7: ((1, 4),)}
# Where they are faster than the direct sum, on every instruction set and for both dtypes, as
# `benchmarks/run.py winograd` measures it: from these channels on (tiles of one row: only of the
# result), where so many times fewer products remain (tiles reach beyond the image), and with enough
# tiles to pay for transforming the filters, which costs as much as so many products for each value.
CHANNELS, SAVING, FILTER_COST = 16, 1.5, 28
# Tiles of one row: each chunk of work goes through all transformed filters, which are to stay in
# the caches.
CHANNELS_BY_ROWS = 128


def by_winograd(ops: Sequence[Op], capacity: int, inference: bool) -> list[Op]:
    """Convolutions at stride 1 by Winograd's algorithm (src/winograd.h) where it is faster.

    The choice depends on shapes alone; at test time on those of one example, so that an example's
    result does not depend on how many it comes with."""
    examples = 1 if inference else capacity
    return [_by_winograd(op, examples) if op.op == "conv2d" else op for op in ops]


def winograd_form(op: Op) -> str:
    """How a forward convolution is made, in the literature's words; empty for the direct sum."""
    r = op.inputs["w"].shape[0]
    tiles = [tile for tile in TILES.get(r, ()) if tile[1] == op.fused.get("winograd")]
    return "".join(f" F({rows}x{columns}, {r}x{r})" for rows, columns in tiles)


def _by_winograd(op: Op, examples: int) -> Op:
    (r, s, c, k), image = op.inputs["w"].shape, op.inputs["x"].shape[1:3]
    padding = op.attributes["padding"]
    if r != s or r not in TILES or tuple(op.attributes["stride"]) != (1, 1) or max(padding) >= r:
        return op
    result = (op.outputs["y"] if op.function == "forward" else op.inputs["dy"]).shape[1:3]
    if op.function == "forward":
        found = {"winograd": _tile(r, result, c, k, examples)}
    else:
        wanted = {"dx": (image, k, c), "dw": (result, c, k)}
        found = {
            f"winograd_{name}": _tile(r, *what, examples)
            for name, what in wanted.items()
            if name in op.outputs
        }
    found = {name: m for name, m in found.items() if m}
    return replace(op, fused=op.fused | found, replaces=op.plain()) if found else op


def _tile(r: int, made: Sequence[int], c: int, k: int, examples: int) -> int:
    """The switch for an image of this size and k channels from one of c; 0 for the direct sum."""
    best, most = 0, SAVING
    for rows, columns in TILES[r]:
        if k < CHANNELS or (c < CHANNELS if rows > 1 else max(c, k) > CHANNELS_BY_ROWS):
            continue
        tiles = -(-made[0] // rows) * -(-made[1] // columns)
        points, products = (rows + r - 1) * (columns + r - 1), r**2 * rows * columns
        saving = r**2 * prod(made) / (points * tiles)
        pays = tiles * examples * (products - points) >= FILTER_COST * points
        if saving >= most and pays:
            best, most = columns, saving
    return best


def covering_filters(ops: Sequence[Op]) -> list[Op]:
    """A convolution whose filters cover the whole image is an affine layer: the same sums, and all
    examples in one matrix product."""
    return [_as_affine(op) if op.op == "conv2d" else op for op in ops]


def _as_affine(op: Op) -> Op:
    filters = op.inputs["w"].shape
    if op.inputs["x"].shape[1:3] != filters[:2] or any(op.attributes["padding"]):
        return op

    def matrix(name: str, tensor: Tensor) -> Tensor:
        if name not in ("w", "dw", "y", "dy"):
            return tensor
        return replace(tensor, shape=(prod(tensor.shape[:3]), tensor.shape[3]), source=tensor)

    inputs = {name: matrix(name, tensor) for name, tensor in op.inputs.items()}
    outputs = {name: matrix(name, tensor) for name, tensor in op.outputs.items()}
    return Op("affine", op.function, inputs, outputs, {}, op.layer, replaces=op.plain())


def share_gradient_of_add(ops: Sequence[Op]) -> list[Op]:
    """Both gradients of an addition are dy itself: readers read dy, nothing is copied."""
    alias: dict[Tensor, Tensor] = {}
    result = []
    for op in ops:
        if op.op == "add" and op.function == "backward":
            dy = _resolve(op.inputs["dy"], alias)
            alias.update({t.root: dy for t in op.outputs.values()})
        elif alias:
            inputs = {name: _resolve(t, alias) for name, t in op.inputs.items()}
            result.append(replace(op, inputs=inputs))
        else:
            result.append(op)
    return result


def _resolve(tensor: Tensor, alias: dict[Tensor, Tensor]) -> Tensor:
    if tensor.root not in alias:
        return tensor
    other = alias[tensor.root]
    return replace(other, shape=tensor.shape, source=other)


def relu_into_producer(ops: Sequence[Op], keep: Sequence[Tensor]) -> list[Op]:
    """A ReLU right behind an op whose kernel can rectify as it writes becomes part of it."""

    def merge(before: Op, op: Op) -> Op | None:
        able = "relu" in kernel_fields().get(before.kernel, {}) and not before.fused
        if op.kernel != "relu_forward" or not able:
            return None
        if op.inputs["x"].root is not before.outputs["y"].root:
            return None
        y = replace(op.outputs["y"], shape=before.outputs["y"].shape, source=op.outputs["y"])
        return replace(before, outputs=before.outputs | {"y": y}, fused={"relu": 1})

    return _merge_neighbours(ops, keep, merge)


def relu_into_batchnorm_backward(ops: Sequence[Op], keep: Sequence[Tensor]) -> list[Op]:
    """Where batch normalization rectifies as it writes, its backward pass finds out again from x
    where it let through, and the ReLU's own backward pass is not needed."""
    makers = {op.outputs["y"].root: op for op in ops if op.kernel == "batchnorm_forward"}

    def merge(before: Op, op: Op) -> Op | None:
        if (before.kernel, op.kernel) != ("relu_backward", "batchnorm_backward"):
            return None
        maker = makers.get(before.inputs["y"].root)
        if maker is None or op.inputs["dy"].root is not before.outputs["dx"].root:
            return None
        given = before.inputs["dy"]
        dy = replace(given, shape=op.inputs["dy"].shape, source=given)
        inputs = op.inputs | {"dy": dy, "beta": maker.inputs["beta"]}
        return replace(op, inputs=inputs, fused={"relu": 1})

    return _merge_neighbours(ops, keep, merge)


def relu_into_max_pool_backward(ops: Sequence[Op], keep: Sequence[Tensor]) -> list[Op]:
    """The gradient of a ReLU in front of a max pooling: where the largest of a window is positive,
    the ReLU let it through."""
    makers = {op.outputs["winner"].root: op for op in ops if op.kernel == "max_pool2d_forward"}

    def merge(before: Op, op: Op) -> Op | None:
        if (before.kernel, op.kernel) != ("max_pool2d_backward", "relu_backward"):
            return None
        maker = makers.get(before.inputs["winner"].root)
        if maker is None or op.inputs["y"].root is not maker.inputs["x"].root:
            return None
        made = op.outputs["dx"]
        dx = replace(made, shape=before.outputs["dx"].shape, source=made)
        inputs = before.inputs | {"y": maker.outputs["y"]}
        return replace(before, inputs=inputs, outputs={"dx": dx}, fused={"relu": 1})

    return _merge_neighbours(ops, keep, merge)


def sum_into_relu_backward(ops: Sequence[Op], keep: Sequence[Tensor]) -> list[Op]:
    """Where gradients of two readers meet behind a ReLU, its backward pass adds them up."""

    def merge(before: Op, op: Op) -> Op | None:
        if (before.kernel, op.kernel) != ("add_forward", "relu_backward"):
            return None
        if op.inputs["dy"].root is not before.outputs["y"].root:
            return None
        shape = op.inputs["dy"].shape
        dy, dy1 = (
            replace(before.inputs[x], shape=shape, source=before.inputs[x]) for x in ("x0", "x1")
        )
        return replace(op, inputs=op.inputs | {"dy": dy, "dy1": dy1})

    return _merge_neighbours(ops, keep, merge)


def moments_into_convolution(ops: Sequence[Op]) -> list[Op]:
    """A convolution also makes the mean and variance of its result, for the batch normalization
    behind it, which then does not read its argument for them."""
    behind = {
        (op.inputs["x"].root, op.inputs["x"].shape): i
        for i, op in enumerate(ops)
        if op.kernel == "batchnorm_forward"
    }
    result = list(ops)
    for i, op in enumerate(ops):
        if op.kernel != "conv2d_forward" or "relu" in op.fused:
            continue
        j = behind.get((op.outputs["y"].root, op.outputs["y"].shape))
        if j is None:
            continue
        reader = ops[j]
        moments = {name: reader.outputs[name] for name in ("mean", "var")}
        result[i] = replace(op, outputs=op.outputs | moments, replaces=op.plain())
        result[j] = replace(
            reader, inputs=reader.inputs | moments, outputs={"y": reader.outputs["y"]},
            fused=reader.fused | {"moments_given": 1}, replaces=reader.plain(),
        )  # fmt: skip
    return result


# Where a batch normalization is made again: for results of so many bytes, each value of which takes
# so many operations in the backward passes that read it. To make it again takes as long as 50 to
# 100 of them.
LARGE, OPERATIONS = 1 << 20, 2000


def again_before_backward(ops: Sequence[Op], keep: Sequence[Tensor]) -> list[Op]:
    """Large results of batch normalization that a backward pass reads are not kept until then, but
    made again, to the same bits: what they are made of is kept anyway (Chen et al. 2016, training
    deep nets with sublinear memory cost, section 3)."""
    kept = {t.root for t in keep}
    makers = {
        op.outputs["y"].root: op
        for op in ops
        if op.kernel == "batchnorm_forward" and op.outputs["y"].root not in kept
    }
    readers: dict[Tensor, list[int]] = {}
    for i, op in enumerate(ops):
        if op.function == "backward":
            shapes_only = unread(op)
            read = {t.root for name, t in op.inputs.items() if name not in shapes_only}
            for root in read & makers.keys():
                readers.setdefault(root, []).append(i)
    again: dict[Tensor, Tensor] = {}
    before: dict[int, list[Op]] = {}
    for root, indices in readers.items():
        operations = sum(op_cost(plain)[0] for i in indices for plain in ops[i].plain())
        if root.size >= LARGE and operations >= OPERATIONS * prod(root.shape):
            op = _again(makers[root])
            again[root] = op.outputs["y"]
            before.setdefault(indices[0], []).append(op)
    result = []
    for i, op in enumerate(ops):
        result += before.get(i, [])
        if op.function == "backward" and any(t.root in again for t in op.inputs.values()):
            inputs = {name: _resolve(t, again) for name, t in op.inputs.items()}
            op = replace(op, inputs=inputs)
        result.append(op)
    return result


def _again(op: Op) -> Op:
    """A batch normalization whose mean and variance are known. It replaces nothing."""
    known = op.tensors
    inputs = {name: known[name] for name in ("x", "gamma", "beta")}
    inputs |= {f"running_{name}": known[name] for name in ("mean", "var")}
    y = replace(known["y"], name=f"{known['y'].name} again", source=None)
    fused = {"relu": 1} if "relu" in op.fused else {}
    return Op("batchnorm_eval", "forward", inputs, {"y": y}, op.attributes, op.layer, fused)


def _merge_neighbours(
    ops: Sequence[Op], keep: Sequence[Tensor], merge: Callable[[Op, Op], Op | None]
) -> list[Op]:
    """`merge` makes one op of two that follow each other, or None. It is asked only where nobody
    else reads what goes from the one to the other."""
    readers = Counter(t.root for op in ops for t in op.inputs.values())
    kept = {t.root for t in keep}
    result: list[Op] = []
    for op in ops:
        before = result[-1] if result else None
        merged = None
        if before is not None:
            made = {t.root for t in before.outputs.values()}
            between = made & {t.root for t in op.inputs.values()}
            if between and all(readers[t] == 1 and t not in kept for t in between):
                merged = merge(before, op)
        if before is not None and merged is not None:
            result[-1] = replace(merged, replaces=(*before.plain(), *op.plain()))
        else:
            result.append(op)
    return result
