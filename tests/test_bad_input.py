"""Wrong calls: each gets the exception a user can act on, naming what was wrong."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cnn
from cnncore import _core

X = np.random.RandomState(0).rand(12, 6, 6, 2).astype(np.float32)
Y = np.arange(12) % 3
NET = [cnn.Conv2d(4, 3), cnn.ReLU(), cnn.Flatten(), cnn.Affine(3)]


def model(net=NET, shape=(6, 6, 2), **more):
    return cnn.Model(net, shape, **more)


def solver(train=(X, Y), **more):
    settings = {"update": cnn.SGD(0.1), "batch_size": 4, "num_epochs": 1} | more
    return cnn.Solver(model(), train, **settings)


def conv(**more):
    arguments = {"x": X, "w": np.zeros((3, 3, 2, 4), np.float32)} | more
    return cnn.ops.conv2d.forward(**arguments)


LAYERS = [
    (lambda: cnn.Affine(0), ValueError, "m must"),
    (lambda: cnn.Affine(-3), ValueError, "m must"),
    (lambda: cnn.Affine(2.5), TypeError, "m must be an integer"),
    (lambda: cnn.Affine("10"), TypeError, "m must be an integer"),
    (lambda: cnn.Affine(True), TypeError, "m must be an integer"),
    (lambda: cnn.Affine(2**40), ValueError, "m must"),
    (lambda: cnn.Affine(3, init="xavier"), ValueError, "init must be one of"),
    (lambda: cnn.Affine(3, name="a.b"), ValueError, "name must"),
    (lambda: cnn.Affine(3, name=""), ValueError, "name must"),
    (lambda: cnn.Affine(3, name="a/b"), ValueError, "name must"),
    (lambda: cnn.Affine(3, name=7), ValueError, "name must"),
    (lambda: cnn.Conv2d(0, 3), ValueError, "k must"),
    (lambda: cnn.Conv2d(4, 0), ValueError, "size must"),
    (lambda: cnn.Conv2d(4, (3, 3, 3)), ValueError, "size must be one integer or two"),
    (lambda: cnn.Conv2d(4, 3, stride=0), ValueError, "stride must"),
    (lambda: cnn.Conv2d(4, 3, stride=-1), ValueError, "stride must"),
    (lambda: cnn.Conv2d(4, 3, stride=2.0), TypeError, "stride must be an integer"),
    (lambda: model([cnn.Conv2d(4, 3, padding=-1)]), ValueError, "padding must"),
    (lambda: model([cnn.Conv2d(4, 3, padding="valid")]), ValueError, 'padding must.*"same"'),
    (lambda: model([cnn.Conv2d(4, 3, padding=(1, 2, 3))]), TypeError, "padding must"),
    (lambda: model([cnn.Conv2d(4, 3, padding=2**55)]), ValueError, "padding must"),
    (lambda: cnn.MaxPool2d(0), ValueError, "size must"),
    (lambda: model([cnn.MaxPool2d(2, padding=2)]), ValueError, "smaller than the window"),
    (lambda: model([cnn.MaxPool2d(7)]), ValueError, "layer '0' .MaxPool2d.*does not fit"),
    (lambda: cnn.Dropout(0), ValueError, "keep_prob must lie in"),
    (lambda: cnn.Dropout(1.5), ValueError, "keep_prob must lie in"),
    (lambda: cnn.Dropout(float("nan")), ValueError, "keep_prob must lie in"),
    (lambda: cnn.Dropout("0.5"), TypeError, "keep_prob must be a number"),
    (lambda: cnn.BatchNorm(momentum=1.0), ValueError, "momentum must lie in"),
    (lambda: cnn.BatchNorm(eps=0), ValueError, "eps must lie in"),
    (lambda: cnn.Sequential([cnn.Affine]), TypeError, r"write Affine\(...\)"),
    (lambda: cnn.Sequential([3]), TypeError, r"Sequential\[0\] must be a layer"),
    (lambda: cnn.Sequential("relu"), TypeError, "must be a list of layers"),
    (lambda: cnn.Residual([]), ValueError, "at least one layer"),
    (lambda: model([cnn.Residual([cnn.Conv2d(4, 3)])]), ValueError, "layer '0' .Residual"),
]

MODELS = [
    (lambda: model([cnn.Conv2d(4, 3)]), ValueError, r"gives \(4, 4, 4\).*Flatten"),
    (lambda: model([cnn.Conv2d(4, 9), cnn.Flatten()]), ValueError, "layer '0' .Conv2d.*not fit"),
    (lambda: model([cnn.Flatten(), cnn.Conv2d(4, 3)]), ValueError, "layer '1'.*takes images"),
    (lambda: model([cnn.Flatten(), cnn.MaxPool2d(2)]), ValueError, "layer '1'.*h, w, c"),
    (lambda: model([cnn.Affine(3, name="a"), cnn.Affine(3, name="a")]), ValueError, "both named"),
    (lambda: model(shape=(6, 6)), ValueError, "input_shape must"),
    (lambda: model(shape=(6, 0, 2)), ValueError, "input_shape must"),
    (lambda: model(shape=(6, 6.5, 2)), ValueError, "input_shape must"),
    (lambda: model(input_layout="hwc"), ValueError, "input_layout must"),
    (lambda: model(loss="svm"), ValueError, "loss must be one of 'softmax', 'hinge', 'mse'"),
    (lambda: model(regularization=0.1), TypeError, "regularization must be None or L2"),
    (lambda: cnn.L2(-1), ValueError, "strength must lie in"),
    (lambda: cnn.L2(float("nan")), ValueError, "strength must lie in"),
    (lambda: model(dtype="float16"), ValueError, "dtype must be float32 or float64"),
    (lambda: model(dtype="int32"), ValueError, "dtype must be float32 or float64"),
    (lambda: model(seed=-1), ValueError, "seed must"),
    (lambda: model(seed=1.5), TypeError, "seed must be an integer"),
    (lambda: model(isa="mmx"), ValueError, "instruction set 'mmx' is unknown"),
]

DATA = [
    (lambda: model().predict(X[:, :5]), ValueError, r"x has shape \(12, 5, 6, 2\), expected"),
    (lambda: model().predict(X[0]), ValueError, "x has shape"),
    (lambda: model().predict(X[..., 0]), ValueError, "x has shape"),
    (lambda: model().predict(X[:0]), ValueError, "holds no example"),
    (lambda: model().predict(np.float32(3)), ValueError, "x has shape"),
    (lambda: model().predict(X.astype(int)), TypeError, "dtype int64.*astype.'uint8'.*pixels"),
    (lambda: model().predict(X > 0), TypeError, "dtype bool"),
    (lambda: model().predict(X.astype(complex)), TypeError, "dtype complex"),
    (lambda: model().predict(X.astype(str)), TypeError, "expected numbers"),
    (lambda: model().predict(X.astype(object)), TypeError, "dtype object"),
    (lambda: model().predict([[1, 2], [3]]), ValueError, "x is not an array"),
    (lambda: model().predict(None), TypeError, "dtype object"),
    (lambda: model().predict(np.where(X > 0.9, np.nan, X)), ValueError, "NaN or infinity"),
    (lambda: model().predict(np.where(X > 0.9, np.inf, X)), ValueError, r"x\[0\] holds NaN"),
    (lambda: model().predict(X.astype("f8") * 1e300), ValueError, "NaN or infinity"),
    (lambda: model().predict(X, batch_size=0), ValueError, "batch_size must"),
    (lambda: model().evaluate(X, Y - 1), ValueError, r"y\[0\] is -1, expected.*0 .. 2"),
    (lambda: model().evaluate(X, Y + 1), ValueError, r"y\[2\] is 3, expected.*0 .. 2"),
    (lambda: model().evaluate(X, Y.astype(float)), TypeError, "y has dtype float64.*astype"),
    (lambda: model().evaluate(X, Y * np.nan), TypeError, "y has dtype float64"),
    (lambda: model().evaluate(X, Y > 0), TypeError, "y has dtype bool"),
    (lambda: model().evaluate(X, Y.astype(str)), TypeError, "unique"),
    (lambda: model().evaluate(X, list("abcabcabcabc")), TypeError, "unique"),
    (lambda: model().evaluate(X, Y[:5]), ValueError, r"y has shape \(5,\), expected \(12,\)"),
    (lambda: model().evaluate(X, np.eye(3, dtype=int)[Y]), ValueError, "argmax"),
    (lambda: model().evaluate(X, np.full(12, 2**63, np.uint64)), ValueError, r"y\[0\] is 9223"),
    (lambda: model().evaluate(X, np.full(12, -(2**63))), ValueError, r"y\[0\] is -9223"),
    (lambda: model().loss_and_gradients(X, Y + 9), ValueError, r"y\[0\] is 9"),
    (lambda: cnn.gradcheck(model(), X[:2], Y[:3]), ValueError, "y has shape"),
    (lambda: cnn.gradcheck(model(), X[:2], Y[:2], h=0), ValueError, "h must lie in"),
    (lambda: cnn.gradcheck(model(), X[:2], Y[:2], h=()), ValueError, "h is empty"),
    (lambda: cnn.gradcheck(model(), X[:2], Y[:2], h=(1e-5, "a")), TypeError, "h must be a number"),
    (lambda: cnn.gradcheck(model(), X[:2], Y[:2], burn_in=-1), ValueError, "burn_in must"),
    (lambda: cnn.gradcheck(model(), X[:2], Y[:2], burn_in=1, update=3), TypeError, "update must"),
]

SOLVERS = [
    (lambda: solver(num_epochs=None), ValueError, "exactly one of num_epochs and num_iter"),
    (lambda: solver(num_iterations=3), ValueError, "exactly one of num_epochs and num_iter"),
    (lambda: solver(num_epochs=0), ValueError, "num_epochs must"),
    (lambda: solver(num_epochs=None, num_iterations=-1), ValueError, "num_iterations must"),
    (lambda: solver(num_epochs=1.5), TypeError, "num_epochs must be an integer"),
    (lambda: solver(batch_size=0), ValueError, "batch_size must"),
    (lambda: solver(update=cnn.SGD(-0.1)), ValueError, "lr must lie in"),
    (lambda: solver(update=cnn.SGD(float("nan"))), ValueError, "lr must lie in"),
    (lambda: solver(update=cnn.SGD(float("inf"))), ValueError, "lr must lie in"),
    (lambda: solver(update=cnn.SGD("fast")), TypeError, "lr must be a number"),
    (lambda: solver(update=cnn.Momentum(0.1, mu=1)), ValueError, "mu must lie in"),
    (lambda: solver(update=cnn.Nesterov(0.1, mu=-0.1)), ValueError, "mu must lie in"),
    (lambda: solver(update=cnn.AdaGrad(0.1, eps=1e8)), ValueError, "eps must lie in"),
    (lambda: solver(update=cnn.RMSProp(0.1, decay=1)), ValueError, "decay must lie in"),
    (lambda: solver(update=cnn.RMSProp(0.1, eps=0)), ValueError, "eps must lie in"),
    (lambda: solver(update=cnn.Adam(0.1, beta2=1)), ValueError, "beta2 must lie in"),
    (lambda: solver(update=cnn.Adam(0.1, eps=0)), ValueError, "eps must lie in"),
    (lambda: solver(update=cnn.Adam), TypeError, r"write Adam\(lr\)"),
    (lambda: solver(update="adam"), TypeError, "update must be SGD, Momentum, Nesterov, Ada"),
    (lambda: solver(sampling="random"), ValueError, "sampling must be 'shuffle' or"),
    (lambda: solver(last_batch="pad"), ValueError, "last_batch must be"),
    (lambda: solver(restore="first"), ValueError, "restore must be"),
    (lambda: solver(lr_decay=0), ValueError, "lr_decay must lie in"),
    (lambda: solver(num_train_samples=0), ValueError, "num_train_samples must"),
    (lambda: solver(train=X), TypeError, "train must be .x, y. or .x, y, weight."),
    (lambda: solver(train=(X, None)), TypeError, "train y is None"),
    (lambda: solver(train=(X[:0], Y[:0])), ValueError, "train x has shape.*no example"),
    (lambda: solver(train=(X, Y + 1)), ValueError, r"train y\[2\] is 3"),
    (lambda: solver(validation=(X, Y[:3])), ValueError, "validation y has shape"),
    (lambda: solver(validation=(X[:, 1:], Y)), ValueError, "validation x has shape"),
    (lambda: solver(train=None), ValueError, "need train="),
    (lambda: solver(train=None, num_epochs=None).train(), ValueError, "has no data"),
    (lambda: next(iter(solver(train=None, num_epochs=None))), ValueError, "has no data"),
    (lambda: solver().step(X, Y), ValueError, "12 examples, more than batch_size = 4"),
    (lambda: setattr(solver(), "lr", -1), ValueError, "lr must lie in"),
    (lambda: cnn.Solver("model", update=cnn.SGD()), TypeError, "model must be a Model"),
    (
        lambda: cnn.Solver(model([cnn.Flatten()]), (X, Y), update=cnn.SGD(), num_epochs=1),
        ValueError,
        "no parameters",
    ),
]

OPS = [
    (lambda: conv(x=X[0]), ValueError, "x has shape"),
    (lambda: conv(x=X[:0]), ValueError, "holds no element"),
    (lambda: conv(w=np.zeros((3, 3, 5, 4), np.float32)), ValueError, "channels of x"),
    (lambda: conv(w=np.zeros((9, 3, 2, 4), np.float32)), ValueError, "does not fit"),
    (lambda: conv(w=np.zeros((3, 3, 2, 0), np.float32)), ValueError, "holds no element"),
    (lambda: conv(b=np.zeros(5, np.float32)), ValueError, "b has shape"),
    (lambda: conv(w=np.zeros((3, 3, 2, 4))), TypeError, "one dtype"),
    (lambda: conv(x=X.astype(int)), TypeError, "x has dtype int64"),
    (lambda: conv(stride=0), ValueError, "stride must"),
    (lambda: conv(stride=(1, 2, 3)), ValueError, "stride must"),
    (lambda: conv(padding=-1), ValueError, "padding must"),
    (lambda: conv(padding=2**60), ValueError, "padding must"),
    (lambda: conv(dilation=2), TypeError, "takes no dilation"),
    (lambda: conv(isa="avx9"), ValueError, "instruction set"),
    (lambda: cnn.ops.conv2d.forward(x=X), TypeError, "needs w"),
    (lambda: cnn.ops.conv2d.backward(x=X, w=X, dz=X), TypeError, "takes no dz"),
    (lambda: cnn.ops.conv2d.sideways(x=X), AttributeError, "sideways"),
    (lambda: cnn.ops.convolution, AttributeError, "no op"),
    (lambda: cnn.ops.softmax_cross_entropy.forward(x=X[0, 0], target=[0] * 5 + [2]), ValueError,
     "class index"),
    (lambda: cnn.ops.softmax_cross_entropy.forward(x=X[0, 0], target=[0.5] * 6), TypeError,
     "target has dtype"),
    (lambda: cnn.ops.gather.forward(data=X, index=[12]), IndexError, "outside the data"),
    (lambda: cnn.ops.gather.forward(data=X, index=[-1]), IndexError, "outside the data"),
    (lambda: cnn.ops.dropout.forward(x=X, keep_prob=0), ValueError, "keep_prob"),
    (lambda: cnn.ops.batchnorm.forward(x=X[:1, 0, 0], gamma=X[0, 0, 0], beta=X[0, 0, 0]),
     ValueError, "more than one value"),
    (lambda: cnn.ops.guard.forward(loss=np.array(np.nan), dw=np.zeros(3)), FloatingPointError,
     "loss"),
    (lambda: cnn.ops.guard.forward(loss=np.array(1.0), dw=np.array([np.inf])), FloatingPointError,
     "gradient"),
    (lambda: cnn.set_num_threads(0), ValueError, "threads must"),
    (lambda: cnn.set_num_threads("2"), TypeError, "threads must"),
    (lambda: cnn.set_num_threads(10**6), ValueError, "threads must"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), LAYERS + MODELS + DATA + SOLVERS + OPS)
def test_wrong_call(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_a_wrong_winner_from_elsewhere_writes_nothing_outside():
    x = np.zeros((2, 4, 4, 3), np.float32)
    out = cnn.ops.max_pool2d.forward(x=x, size=3, stride=1, padding=1)
    wild = np.full_like(out["winner"], 65535)
    cnn.ops.max_pool2d.backward(dy=out["y"], x=x, winner=wild, size=3, stride=1, padding=1)


def test_a_model_too_large_for_memory_is_a_memory_error():
    net = [cnn.Affine(2**31 - 1), cnn.ReLU(), cnn.Affine(2**20), cnn.Affine(3)]
    with pytest.raises((MemoryError, ValueError)):
        cnn.Model(net, (2**20,))


EDGES = [
    (lambda: conv(threads=0), ValueError, "threads must"),
    (lambda: conv(threads=-1), ValueError, "threads must"),
    (lambda: conv(threads=40000), ValueError, "threads must"),
    (
        lambda: cnn.ops.conv2d.forward(
            x=np.ones((1, 1, 1, 4)), w=np.ones((1, 2, 4, 1)), stride=(2**30, 2**31 - 2),
            padding=((0, 0), (2**31 - 1, 0)), threads=1,
        ),
        (ValueError, MemoryError),
        "too large|allocate",
    ),
    (lambda: cnn.ops.dropout.forward(x=X, keep_prob=0.5, t=0), ValueError, "t must"),
    (
        lambda: cnn.ops.adam.update(
            w=np.ones(3), dw=np.zeros(3), m=np.zeros(3), v=np.zeros(3), lr=0.1, t=1,
            segments=np.array([[0.0, 3, 0]]), eps=1e-310,
        ),
        ValueError,
        "eps must",
    ),
    (
        lambda: cnn.ops.rmsprop.update(
            w=np.ones(3), dw=np.zeros(3), cache=np.zeros(3), lr=0.1,
            segments=np.array([[0.0, 3, 0]]), eps=1e-310,
        ),
        ValueError,
        "eps must",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "words"), EDGES)
def test_edges_of_the_compiled_kernels(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_a_huge_stride_costs_nothing():
    x, w = np.ones((2, 3, 3, 2)), np.ones((2, 2, 2, 3))
    stride = (2**31 - 1, 10**6)
    y = cnn.ops.conv2d.forward(x=x, w=w, stride=stride)["y"]
    assert y.shape == (2, 1, 1, 3)
    got = cnn.ops.conv2d.backward(dy=y, x=x, w=w, stride=stride)
    want = cnn.reference.conv2d.backward(dy=y, x=x, w=w, stride=stride)
    for name in want:
        np.testing.assert_allclose(got[name], want[name])


def test_the_tape_refuses_what_its_records_do_not_hold():
    tensors = {"x": ((2, 3), "float32"), "y": ((2, 3), "float32")}
    record = _core.Record("relu_forward", "float32", "baseline", tensors, {})
    a = np.zeros((2, 3), np.float32)
    places = {"x": (0, 0), "y": (0, 0)}
    template = _core.Template([record], [places], [], 1, 2)
    tape = _core.Tape(template, [a.ctypes.data], a)
    steps = {"lr": np.zeros(1), "t": 1, "seed": 0, "results": np.empty((1, 0))}
    tape.run(np.array([2]), np.zeros(2, int), **steps)
    for change, words in [
        ({"sizes": np.array([50]), "index": np.zeros(50, int)}, r"1 \.\. 2 examples"),
        ({"sizes": np.array([0]), "index": np.zeros(1, int)}, r"1 \.\. 2 examples"),
        ({"index": np.zeros(9, int)}, "index must"),
        ({"first": 1}, "no ops"),
        ({"last": 7}, "no ops"),
        ({"team": 0}, "team must"),
        ({"t": 0}, "t must"),
    ]:
        with pytest.raises(ValueError, match=words):
            tape.run(**({"sizes": np.array([2]), "index": np.zeros(2, int)} | steps | change))
    with pytest.raises(IndexError):
        tape.bind(-1, "x", a)
    with pytest.raises(TypeError):
        _core.Template([None], [{}], [], 0, 1)
    with pytest.raises(TypeError):
        _core.Tape(None, [], None)
    with pytest.raises(ValueError, match="bases"):
        _core.Tape(template, [], None)
    with pytest.raises(ValueError, match="shape"):
        _core.Record("relu_forward", "float32", "baseline",
                     dict.fromkeys("xy", ((-2, -3), "float32")), {})  # fmt: skip
