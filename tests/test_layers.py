"""Models of average pooling."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cnn
from cnncore import _core
from cnncore.interpret import Interpreter
from cnncore.plan import PARAMETERS, STATISTICS
from cnncore.program import Batches

X = np.random.RandomState(0).standard_normal((12, 7, 6, 2))
Y = np.arange(12) % 3
HEAD = (cnn.Flatten(), cnn.Affine(3))

POOLED = [
    cnn.Conv2d(4, 3, padding="same"), cnn.ReLU(), cnn.AvgPool2d(3, 2, 1), cnn.Conv2d(3, 2),
    cnn.AvgPool2d((2, 1), padding="same"), *HEAD,
]  # fmt: skip
NETS = {
    "pooled": POOLED,
    "pool first": [cnn.AvgPool2d(2), *HEAD],
}
every_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS)


def model_of(net, dtype="float64", **more):
    return cnn.Model(net, X.shape[1:], regularization=cnn.L2(1e-2), dtype=dtype, **more)


@every_net
def test_gradients(net):
    assert cnn.gradcheck(model_of(net), X[:3], Y[:3], verbose=False)


@every_net
def test_scores_equal_the_twins(net):
    model = model_of(net)
    plan = model.plan("scores", 12)
    out = np.empty((12, 3))
    vectors = {PARAMETERS: np.array(model.parameters), STATISTICS: np.array(model.statistics)}
    Interpreter(plan, vectors, {"data": X, "y": out}).step(index=np.arange(12), t=1, seed=0, lr=0)
    np.testing.assert_allclose(model.scores(X), out, rtol=1e-10, atol=1e-12)


@every_net
def test_a_trained_model_is_saved_and_loaded(tmp_path, net):
    model = model_of(net, "float32", seed=4)
    cnn.Solver(model, (X, Y), update=cnn.Adam(), batch_size=5, num_epochs=2).train()
    model.save(tmp_path / "m.npz")
    again = cnn.load(tmp_path / "m.npz")
    assert again.net == model.net
    assert hash(again.net) == hash(model.net)
    assert again.weights_sha256() == model.weights_sha256()
    assert again.scores(X).tobytes() == model.scores(X).tobytes()


@pytest.mark.parametrize("name", ["pooled", "pool first"])
def test_threads_do_not_change_training(name):
    x = np.tile(X, (4, 3, 3, 1)).astype(np.float32)
    found = set()
    try:
        for count in (1, 3):
            cnn.set_num_threads(count)
            model = cnn.Model(NETS[name], x.shape[1:])
            solver = cnn.Solver(
                model, (x, np.tile(Y, 4)), update=cnn.Momentum(1e-2), batch_size=20, num_epochs=2
            )
            solver.train()
            found.add(model.weights_sha256())
    finally:
        _core.set_threads(0)
    assert len(found) == 1


@pytest.mark.parametrize("name", ["pooled", "pool first"])
def test_parameters_have_the_same_gradients_without_the_inputs(name):
    """The input's gradient is then not made."""
    model = model_of(NETS[name])
    _, alone = model.loss_and_gradients(X, Y)
    examples = model.labelled(X, Y)
    runner, gradients = model.gradient_runner(examples, input_gradient=True)
    runner.bind(examples.bindings)
    runner.run(Batches.one(12, 1, model.seed))
    assert alone.tobytes() == gradients.tobytes()


# Average pooling.


def test_the_mean_is_over_pixels_of_the_image():
    x = X[:2]
    y = cnn.ops.avg_pool2d.forward(x=x, size=(3, 2), stride=(2, 1), padding=((2, 1), (0, 1)))["y"]
    assert y.shape == (2, 4, 6, 2)
    for p in range(4):
        for q in range(6):
            rows, columns = slice(max(2 * p - 2, 0), 2 * p + 1), slice(q, q + 2)
            mean = x[:, rows, columns].mean(axis=(1, 2))
            np.testing.assert_allclose(y[:, p, q], mean, rtol=1e-12, atol=1e-14)
    layer = cnn.AvgPool2d((3, 2), (2, 1), ((2, 1), (0, 1)))
    assert model_of([layer, *HEAD]).activations(x, ["0"])["0"].tobytes() == y.tobytes()


def test_of_the_whole_image_it_is_the_global_one():
    y = cnn.ops.avg_pool2d.forward(x=X, size=(7, 6))["y"]
    np.testing.assert_allclose(y[:, 0, 0], cnn.ops.global_avg_pool2d.forward(x=X)["y"], rtol=1e-12)


def test_a_huge_stride_or_window_costs_nothing():
    y = cnn.ops.avg_pool2d.forward(x=X, size=2, stride=2**31 - 1)["y"]
    np.testing.assert_allclose(y[:, 0, 0], X[:, :2, :2].mean(axis=(1, 2)))
    huge = 2**30
    padding = ((huge - 7, 0), (huge - 6, 0))
    y = cnn.ops.avg_pool2d.forward(x=X, size=huge, stride=huge, padding=padding)["y"]
    np.testing.assert_allclose(y[:, 0, 0], X.mean(axis=(1, 2)))


@pytest.mark.parametrize("pool", [cnn.AvgPool2d, cnn.MaxPool2d])
def test_pooling_takes_lists(pool):
    layer = pool([3, 2], [2, 1], [[1, 0], [0, 1]])
    assert layer == pool((3, 2), (2, 1), ((1, 0), (0, 1)))
    assert model_of([layer, *HEAD]).scores(X).shape == (12, 3)


# Wrong calls.

WRONG = [
    (lambda: cnn.AvgPool2d(0), ValueError, "size must"),
    (lambda: cnn.AvgPool2d(2.0), TypeError, "size must be an integer"),
    (lambda: cnn.AvgPool2d(2, stride=0), ValueError, "stride must"),
    (lambda: model_of([cnn.AvgPool2d(2, padding=-1)]), ValueError, "padding must"),
    (lambda: model_of([cnn.AvgPool2d(2, padding=2)]), ValueError,
     "layer '0' .AvgPool2d.*smaller than the window"),
    (lambda: model_of([cnn.AvgPool2d(8)]), ValueError, "layer '0' .AvgPool2d.*does not fit"),
    (lambda: model_of([cnn.Flatten(), cnn.AvgPool2d(2)]), ValueError, "layer '1'.*h, w, c"),
    (lambda: cnn.ops.avg_pool2d.backward(dy=X, x=X, size=2), ValueError, "dy has shape"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), WRONG)
def test_wrong_call(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


POOL = {"size": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
RECORDS = [
    ("avg_pool2d_forward", {"x": (1, 4, 4, 3), "y": (1, 2, 2, 3)}, POOL, None),
    ("avg_pool2d_forward", {"x": (1, 4, 4, 3), "y": (1, 2, 2, 4)}, POOL, "n, p, q, c"),
    ("avg_pool2d_forward", {"x": (1, 4, 4, 3), "y": (1, 3, 2, 3)}, POOL, "y must have the shape"),
    ("avg_pool2d_forward", {"x": (4, 3), "y": (1, 2, 2, 3)}, POOL, "x must have shape"),
    ("avg_pool2d_forward", {"x": (1, 4, 4, 3), "y": (1, 2, 2, 3)}, POOL | {"size": (0, 2)}, "size"),
    ("avg_pool2d_forward", {"x": (1, 4, 4, 3), "y": (1, 2, 2, 3)}, POOL | {"stride": (2, -1)},
     "stride"),
    ("avg_pool2d_backward", {"dx": (1, 4, 4, 3), "dy": (1, 2, 2, 3)},
     POOL | {"padding": (0, 0, 0, 2)}, "smaller than the window"),
    ("avg_pool2d_backward", {"dx": (1, 1, 4, 3), "dy": (1, 2, 2, 3)}, POOL, "larger than"),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "shapes", "values", "words"), RECORDS)
def test_kernels_check_their_records(kernel, shapes, values, words):
    tensors = {name: (shape, "float32") for name, shape in shapes.items()}
    if words is None:
        _core.Record(kernel, "float32", "baseline", tensors, values)
    else:
        with pytest.raises(ValueError, match=words):
            _core.Record(kernel, "float32", "baseline", tensors, values)
