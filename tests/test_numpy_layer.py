"""A user's own NumPy layer in a compiled net."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

import cnncore as cnn


@pytest.fixture(scope="module")
def digits():
    return cnn.data.digits()


def affine_forward(x, w, b):
    """As a student writes it in the first assignment."""
    out = x.reshape(len(x), -1).dot(w) + b
    return out, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    return dout.dot(w.T).reshape(x.shape), x.reshape(len(x), -1).T.dot(dout), dout.sum(axis=0)


def square_forward(x):
    return x * abs(x), x


def square_backward(dout, x):
    return 2 * abs(x) * dout


def shift_forward(x, b):
    """Over channel-first images: a bias for each channel."""
    assert x.ndim == 4
    return x + b[None, :, None, None], None


def shift_backward(dout, cache):
    return dout, dout.sum(axis=(0, 2, 3))


MINE = cnn.NumpyLayer(affine_forward, affine_backward, {"w": (64, 20), "b": (20,)}, name="mine")
SQUARE = cnn.NumpyLayer(square_forward, square_backward)
SHIFT = cnn.NumpyLayer(shift_forward, shift_backward, {"b": 3}, layout="nchw")


def test_gradcheck_covers_it(digits):
    net = [
        cnn.Conv2d(3, 3, padding="same"), SHIFT, cnn.ReLU(), cnn.Conv2d(1, 1), MINE, SQUARE,
        cnn.BatchNorm(), cnn.Dropout(0.7), cnn.Affine(10),
    ]  # fmt: skip
    model = cnn.Model(net, (8, 8, 1), loss="hinge", regularization=cnn.L2(0.1))
    outcome = cnn.gradcheck(model, digits.x_train[:3], digits.y_train[:3], verbose=False)
    assert outcome
    assert {"mine.w", "mine.b", "1.b"} <= {c.path for c in outcome.coordinates}


def test_gradcheck_finds_a_wrong_backward(digits):
    wrong = cnn.NumpyLayer(square_forward, lambda dout, x: 1.9 * abs(x) * dout)
    model = cnn.Model([cnn.Flatten(), cnn.Affine(9), wrong, cnn.Affine(10)], (8, 8, 1))
    assert not cnn.gradcheck(model, digits.x_train[:3], digits.y_train[:3], verbose=False)


def test_it_computes_what_the_compiled_layer_does(digits):
    mine = cnn.Model([MINE, cnn.ReLU(), cnn.Affine(10)], (8, 8, 1), dtype="float64")
    ours = cnn.Model([cnn.Affine(20), cnn.ReLU(), cnn.Affine(10)], (8, 8, 1), dtype="float64")
    for a, b in (("mine", "0"), ("2", "2")):
        for p in "wb":
            mine[f"{a}.{p}"] = ours[f"{b}.{p}"]
    train = digits.x_train, digits.y_train
    for model in (mine, ours):
        cnn.Solver(model, train, update=cnn.Momentum(0.05), batch_size=50, num_epochs=2).train()
    np.testing.assert_allclose(mine.scores(digits.x_test), ours.scores(digits.x_test), rtol=1e-9)


def test_a_course_style_net_trains(digits):
    net = [MINE, cnn.ReLU(), SQUARE, cnn.BatchNorm(), cnn.Dropout(0.9), cnn.Affine(10)]
    model = cnn.Model(net, (8, 8, 1), loss="hinge")
    solver = cnn.Solver(
        model, (digits.x_train, digits.y_train), (digits.x_val, digits.y_val),
        update=cnn.Adam(5e-3), batch_size=50, num_epochs=12,
    )  # fmt: skip
    solver.train()
    assert model.evaluate(digits.x_test, digits.y_test)["accuracy"] > 0.93


def test_it_is_interruptible_and_exact(digits):
    def make():
        model = cnn.Model([MINE, cnn.ReLU(), cnn.Affine(10)], (8, 8, 1))
        return cnn.Solver(
            model, (digits.x_train, digits.y_train), update=cnn.Adam(), batch_size=50, num_epochs=40
        )

    whole, solver = make(), make()
    whole.train()
    threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    assert 0 < solver.iteration < solver.num_iterations
    solver.train()
    assert solver.model.digest() == whole.model.digest()


def test_an_exception_in_the_users_code_reaches_the_user(digits):
    calls = []

    def backward(dout, x):
        calls.append(1)
        if len(calls) == 8:
            raise ZeroDivisionError("mine")
        return square_backward(dout, x)

    layer = cnn.NumpyLayer(square_forward, backward)
    model = cnn.Model([cnn.Flatten(), cnn.Affine(9), layer, cnn.Affine(10)], (8, 8, 1))
    solver = cnn.Solver(
        model, (digits.x_train, digits.y_train), update=cnn.SGD(), batch_size=50, num_epochs=1
    )
    for _ in range(7):
        next(iter(solver))
    before = model.digest()
    with pytest.raises(ZeroDivisionError, match="mine"):
        next(iter(solver))
    assert model.digest() == before
    assert solver.iteration == len(solver.history["loss"]) == 7


def bad(forward=square_forward, backward=square_backward, **more):
    layer = cnn.NumpyLayer(forward, backward, **more)
    model = cnn.Model([cnn.Flatten(), cnn.Affine(9), layer, cnn.Affine(10)], (8, 8, 1))
    return model.loss_and_gradients(np.ones((4, 8, 8, 1)), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: bad(forward=3), TypeError, "must be functions"),
        (lambda: bad(layout="hwc"), ValueError, "layout must"),
        (lambda: bad(params={"x": (3,)}), ValueError, "cannot be named 'x'"),
        (lambda: bad(params={"w": (0,)}), ValueError, "shape of w must"),
        (lambda: bad(lambda x: x), TypeError, r"layer '2' \(NumpyLayer\).*\(out, cache\)"),
        (lambda: bad(lambda x: (x.sum(), x)), ValueError, "forward made"),
        (lambda: bad(backward=lambda d, x: d[:1]), ValueError, "layer '2'.*backward: its result"),
        (lambda: bad(backward=lambda d, x: (d, d)), ValueError, "2 arrays, expected dx"),
        (
            lambda: bad(lambda x, w: (x * w, x), lambda d, x: (d, d), params={"w": (9,)}),
            ValueError,
            r"dw has shape \(4, 9\), expected \(9,\)",
        ),
    ],
)
def test_wrong_functions(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_it_cannot_be_saved_but_its_state_can(tmp_path):
    model = cnn.Model([MINE, cnn.Affine(10)], (8, 8, 1))
    with pytest.raises(ValueError, match="NumpyLayer cannot be saved"):
        model.save(tmp_path / "m.npz")
    other = cnn.Model([MINE, cnn.Affine(10)], (8, 8, 1), seed=4)
    assert other.load_state(model.state()) == ((), ())
    assert list(tmp_path.iterdir()) == []


def test_its_matrices_are_penalized_and_its_vectors_are_not(digits):
    model = cnn.Model([MINE, cnn.Affine(10)], (8, 8, 1), regularization=cnn.L2(0.1))
    bare = cnn.Model(model.net, (8, 8, 1))
    model["mine.b"] = bare["mine.b"] = 1.0
    few = digits.x_train[:5], digits.y_train[:5]
    weights = sum((model[path].astype(float) ** 2).sum() for path in ("mine.w", "1.w"))
    penalty = model.loss_and_gradients(*few)[0] - bare.loss_and_gradients(*few)[0]
    assert penalty == pytest.approx(0.5 * 0.1 * weights, rel=1e-4)
