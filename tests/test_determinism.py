"""Same bits: for any number of threads, beside other work, and for any batch an example is in."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import numpy as np
import pytest

import cnncore as cnn
from cnncore import levels

NET = cnn.Sequential(
    [
        cnn.Conv2d(24, 3, padding="same"), cnn.BatchNorm(), cnn.ReLU(), cnn.MaxPool2d(3, 2, 1),
        cnn.Residual(
            [cnn.Conv2d(40, 3, stride=2, padding=1), cnn.BatchNorm(), cnn.ReLU()],
            shortcut=[cnn.Conv2d(40, 1, stride=2)],
        ),
        cnn.GlobalAvgPool2d(), cnn.Affine(33), cnn.ReLU(), cnn.Dropout(0.6), cnn.Affine(10),
    ]
)  # fmt: skip

# Of the net above after one epoch on the digits, on the AVX2 level. It changes only when a kernel
# changes its arithmetic, such as the order of a sum: that changes the library's results and must be
# meant.
GOLDEN_AVX2 = {
    "float32": "41e2f011e6897746dce798807cc0e15cf393a96fef347508a02ed70100362442",
    "float64": "1ce5504724b39694e8dd50fa28af7f197b240e572bfd1f0a5f160cb27b4ecc70",
}


@pytest.fixture
def threads():
    """Sets the number of threads; the default afterwards."""
    yield cnn.set_num_threads
    cnn._core.set_threads(0)


def trained(update=None, dtype="float32", isa=None):
    d = cnn.data.digits()
    model = cnn.Model(NET, (8, 8, 1), regularization=cnn.L2(1e-3), dtype=dtype, isa=isa)
    solver = cnn.Solver(
        model, (d.x_train, d.y_train), update=update or cnn.Adam(2e-3), batch_size=50, num_epochs=1
    )
    solver.train()
    return model


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_do_not_change_training(threads, dtype, isa):
    found = set()
    for count in (1, 2, 3, 8):
        threads(count)
        assert cnn.get_num_threads() == count
        found.add(trained(dtype=dtype, isa=isa).digest())
    assert len(found) == 1


@pytest.mark.parametrize("update", [cnn.SGD(0.05), cnn.Momentum(0.02)], ids=lambda u: u.op)
def test_threads_do_not_change_training_by_other_rules(threads, update):
    found = set()
    for count in (1, 3):
        threads(count)
        found.add(trained(update).digest())
    assert len(found) == 1


def test_more_threads_than_shares_of_the_work(threads):
    """Chunks are dealt out in 64 shares at most (src/team.h): some then have two threads."""
    d = cnn.data.digits()
    found = set()
    for count in (1, 70):
        threads(count)
        assert cnn.get_num_threads() == count
        model = cnn.Model([cnn.Conv2d(16, 3), cnn.ReLU(), cnn.Flatten(), cnn.Affine(10)], (8, 8, 1))
        data = d.x_train[:600], d.y_train[:600]
        cnn.Solver(model, data, update=cnn.Momentum(0.02), batch_size=200, num_epochs=1).train()
        found.add(model.digest())
    assert len(found) == 1


@pytest.mark.parametrize("requested", [True, False])
def test_a_busy_neighbour_does_not_change_training(threads, requested):
    """Without a request for a number of threads the team may grow and shrink on the way."""
    if requested:
        threads(2)
    alone = trained().digest()
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        assert trained().digest() == alone
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.skipif("avx2" not in levels.available(), reason="this processor has no AVX2")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_golden_digest(dtype):
    assert trained(dtype=dtype, isa="avx2").digest() == GOLDEN_AVX2[dtype]


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_example_does_not_feel_its_companions(dtype, isa):
    model = trained(dtype=dtype, isa=isa)
    x = cnn.data.digits().x_test[:64]
    whole = model.scores(x)
    for i in range(64):
        assert model.scores(x[i : i + 1]).tobytes() == whole[i].tobytes()
    for n in (2, 7):
        for i in range(0, 64 - n, n):
            assert model.scores(x[i : i + n]).tobytes() == whole[i : i + n].tobytes()
            assert model.scores(x[i : i + n], batch_size=2).tobytes() == whole[i : i + n].tobytes()
    assert model.predict_proba(x[3:4]).tobytes() == model.predict_proba(x)[3].tobytes()


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d", "m"), [(2051, 70), (601, 460)])
def test_long_sums_do_not_feel_how_many_rows_there_are(d, m, dtype, isa):
    """Their parts are added up at different places for one row, for few and for many."""
    random = np.random.RandomState(0)
    model = cnn.Model([cnn.Affine(m), cnn.ReLU()], (d,), dtype=dtype, isa=isa)
    model["0.b"][...] = random.standard_normal(m)
    x = random.standard_normal((600, d)).astype(dtype)
    whole = model.scores(x, batch_size=600)
    for n in (1, 7, 256, 257):
        assert model.scores(x[:n], batch_size=n).tobytes() == whole[:n].tobytes()
    given = {"x": x[:300], "w": model["0.w"], "b": model["0.b"]}
    want = cnn.reference.affine.forward(**{n: a.astype("float64") for n, a in given.items()})["y"]
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(whole[:300], np.maximum(want, 0), rtol=0, atol=100 * eps)


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_element_does_not_feel_the_columns_beside_it(dtype, isa):
    """Not even by the sign of a zero, which a product that is too small leaves."""
    small = np.full((2, 3), np.finfo(dtype).tiny, dtype)
    found = set()
    for m in range(1, 70):
        w = np.full((3, m), -np.finfo(dtype).tiny, dtype)
        y = cnn.ops.affine.forward(x=small, w=w, isa=isa)["y"]
        found |= {value.tobytes() for value in y.ravel()}
    assert len(found) == 1


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("d", "m"), [*product([3, 70, 170], [1, 2, 3, 4, 5, 8]), (403, 659)])
def test_an_example_of_an_affine_layer_does_not_feel_its_companions(d, m, dtype, isa):
    random = np.random.RandomState(0)
    x, w = (random.standard_normal(shape).astype(dtype) for shape in ((19, d), (d, m)))
    together = cnn.ops.affine.forward(x=x, w=w, isa=isa)["y"]
    alone = [cnn.ops.affine.forward(x=x[i : i + 1], w=w, isa=isa)["y"] for i in range(19)]
    assert np.concatenate(alone).tobytes() == together.tobytes()


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 3])
def test_gradients_of_filters_from_a_few_large_images_are_made_in_parts(n, dtype, isa):
    """Any number of threads gives the same bits; and the sum is the exact one, but for rounding."""
    random = np.random.RandomState(0)
    x, w, dy = (
        random.standard_normal(shape).astype(dtype)
        for shape in ((n, 41, 55, 2), (3, 2, 2, 20), (n, 39, 56, 20))
    )  # fmt: skip
    given = {"x": x, "w": w, "dy": dy, "padding": ((0, 0), (1, 1)), "isa": isa}
    found = [cnn.ops.conv2d.backward(**given, threads=threads)["dw"] for threads in (1, 3)]
    assert found[0].tobytes() == found[1].tobytes()
    exact = cnn.reference.conv2d.backward(
        dy.astype(np.float64), x.astype(np.float64), w, padding=((0, 0), (1, 1))
    )["dw"]
    error = np.sqrt(((found[0] - exact) ** 2).mean() / (exact**2).mean())
    assert error < 20 * np.finfo(dtype).eps


def test_initial_weights_come_from_a_frozen_stream():
    """Equal for equal seed and path, whatever else the net holds; and never to change."""
    a = cnn.Model([cnn.Affine(3, name="a"), cnn.ReLU(), cnn.Affine(2)], (4,), seed=5)
    b = cnn.Model(
        [cnn.Affine(3, name="a"), cnn.BatchNorm(), cnn.ReLU(), cnn.Affine(2)], (4,), seed=5
    )
    assert a["a.w"].tobytes() == b["a.w"].tobytes()
    assert (a["a.w"] != cnn.Model([cnn.Affine(3, name="a")], (4,), seed=6)["a.w"]).all()
    np.testing.assert_allclose(a["a.w"][0], [0, 0, 0], atol=5)


def test_epoch_order_is_a_permutation_that_changes_and_recurs():
    d = cnn.data.digits()
    orders = []
    for _ in range(2):
        model = cnn.Model([cnn.Flatten(), cnn.Affine(10)], (8, 8, 1))
        solver = cnn.Solver(model, (d.x_train, d.y_train), update=cnn.SGD(), num_epochs=2)
        count = solver.iterations_per_epoch
        first = solver._batches(1, 0, count)[1]
        second = solver._batches(2, 0, count)[1]
        assert len(set(first)) == len(first)
        assert (first != second).any()
        orders.append((first.tobytes(), second.tobytes()))
    assert orders[0] == orders[1]
