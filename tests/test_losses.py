"""Losses, weights of examples, and looking inside a model."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cnn

SMALL = cnn.init.SmallGaussian(1e-4)


@pytest.fixture(scope="module")
def digits():
    return cnn.data.digits()


def mlp(*layers, m=10, **more):
    return cnn.Model([cnn.Flatten(), *layers, cnn.Affine(m)], (8, 8, 1), **more)


def test_hinge_starts_at_nine_and_learns(digits):
    model = cnn.Model([cnn.Flatten(), cnn.Affine(10, init=SMALL)], (8, 8, 1), loss="hinge")
    batch = digits.x_train[:100], digits.y_train[:100]
    assert model.loss_and_gradients(*batch)[0] == pytest.approx(9, abs=0.01)
    cnn.Solver(
        model, (digits.x_train, digits.y_train), update=cnn.Adam(1e-2), num_epochs=20
    ).train()
    assert model.evaluate(digits.x_test, digits.y_test)["accuracy"] > 0.93


@pytest.mark.parametrize("loss", ["softmax", "hinge", "mse"])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradcheck_of_every_loss(digits, loss, weighted):
    model = mlp(cnn.Affine(12), cnn.ReLU(), m=10, loss=loss, regularization=cnn.L2(0.1))
    y = np.eye(10)[digits.y_train[:3]] if loss == "mse" else digits.y_train[:3]
    weight = [0.5, 2.0, 0.0] if weighted else None
    assert cnn.gradcheck(model, digits.x_train[:3], y, weight, verbose=False)


def test_a_regression_with_two_outputs_trains():
    random = np.random.RandomState(0)
    x = random.standard_normal((400, 5))
    y = np.stack([x @ [1, -2, 0, 0.5, 0] + 1, np.abs(x[:, 0])], axis=1)
    model = cnn.Model([cnn.Affine(32), cnn.ReLU(), cnn.Affine(2)], (5,), loss="mse")
    before = model.evaluate(x, y)
    assert set(before) == {"loss"}
    solver = cnn.Solver(
        model, (x[:300], y[:300]), (x[300:], y[300:]), update=cnn.Adam(1e-2), batch_size=50,
        num_epochs=60,
    )  # fmt: skip
    history = solver.train()
    assert history["train_accuracy"] == history["validation_accuracy"] == []
    assert model.evaluate(x[300:], y[300:])["loss"] == pytest.approx(
        min(history["validation_loss"])
    )
    assert model.evaluate(x[300:], y[300:])["loss"] < 0.05 * before["loss"]
    squares = ((model.scores(x) - y) ** 2).mean()
    assert model.evaluate(x, y)["loss"] == pytest.approx(squares, rel=1e-5)


def test_one_output_takes_flat_targets():
    x = np.random.RandomState(0).standard_normal((20, 3))
    model = cnn.Model([cnn.Affine(1)], (3,), loss="mse", dtype="float64")
    flat, _ = model.loss_and_gradients(x, x[:, 0])
    column, _ = model.loss_and_gradients(x, x[:, :1])
    assert flat == column


def test_a_weight_of_two_is_the_example_twice(digits):
    """sum w_i l_i / n: with weights (2, 0) over two examples, the loss is that of the first."""
    model = mlp(dtype="float64")
    x, y = digits.x_train[:2], digits.y_train[:2]
    single, alone = model.loss_and_gradients(x[:1], y[:1])
    double, weighted = model.loss_and_gradients(x, y, [2, 0])
    assert double == pytest.approx(single, rel=1e-12)
    np.testing.assert_allclose(weighted, alone, rtol=1e-10, atol=1e-14)


def test_weights_of_one_change_nothing(digits):
    x, y = digits.x_train, digits.y_train
    found = []
    for train in ((x, y), (x, y, np.ones(len(x)))):
        model = mlp(cnn.Affine(20), cnn.ReLU())
        cnn.Solver(model, train, update=cnn.Adam(), batch_size=50, num_epochs=1).train()
        found.append(model.digest())
    assert found[0] == found[1]


def unbalanced(digits):
    """Two hundred of every digit but eight: ten of those, hard to learn from noisy images."""
    rows = np.concatenate(
        [np.flatnonzero(digits.y_train == c)[: 10 if c == 8 else 200] for c in range(10)]
    )
    random = np.random.RandomState(0)
    noise = random.randint(0, 120, digits.x_train.shape)
    return np.minimum(digits.x_train + noise, 255).astype(np.uint8)[rows], digits.y_train[rows]


def test_balanced_classes_raise_the_recall_of_the_rare_one(digits):
    x, y = unbalanced(digits)
    noise = np.random.RandomState(1).randint(0, 120, digits.x_test.shape)
    x_test = np.minimum(digits.x_test + noise, 255).astype(np.uint8)
    recall = {}
    for class_weight in (None, "balanced", {8: 30.0}):
        model = mlp()
        cnn.Solver(
            model, (x, y), update=cnn.Adam(3e-3), batch_size=50, num_epochs=6,
            class_weight=class_weight,
        ).train()  # fmt: skip
        rare = digits.y_test == 8
        recall[str(class_weight)] = (model.predict(x_test[rare]) == 8).mean()
    assert recall["balanced"] > recall["None"] + 0.1
    assert recall["{8: 30.0}"] > recall["None"] + 0.1


def test_balanced_weights_make_each_class_weigh_the_same():
    y = np.array([0, 0, 0, 2, 2, 1])
    weights = cnn.inputs.class_weights("class_weight", "balanced", y, 4)
    np.testing.assert_allclose(weights, [6 / 9, 2, 1, 1])
    np.testing.assert_allclose(np.bincount(y, weights[y]), [2, 2, 2])


def test_class_weights_work_in_single_steps(digits):
    model = mlp(dtype="float64")
    solver = cnn.Solver(model, update=cnn.SGD(0.0), batch_size=8, class_weight={3: 4.0})
    x, y = digits.x_train[:8], digits.y_train[:8]
    expected, _ = model.loss_and_gradients(x, y, np.where(y == 3, 4.0, 1.0))
    assert solver.step(x, y) == pytest.approx(expected)


X, Y = np.random.RandomState(0).rand(6, 8, 8, 1), np.arange(6) % 3
WRONG = [
    ({"train": (X, Y, np.ones(5))}, ValueError, r"train weight has shape \(5,\), expected"),
    ({"train": (X, Y, -np.ones(6))}, ValueError, r"train weight\[0\] is -1.0"),
    ({"train": (X, Y, np.full(6, np.nan))}, ValueError, r"train weight\[0\] holds NaN"),
    ({"train": (X, Y, ["a"] * 6)}, TypeError, "train weight has dtype"),
    ({"class_weight": "even"}, ValueError, "class_weight must be None"),
    ({"class_weight": {11: 1.0}}, ValueError, "a class of class_weight"),
    ({"class_weight": {1: -1.0}}, ValueError, r"class_weight\[1\] must lie"),
    ({"class_weight": {1: "2"}}, TypeError, r"class_weight\[1\] must be a number"),
    ({"train": None, "num_epochs": None, "class_weight": "balanced"}, ValueError, "count the"),
]


@pytest.mark.parametrize(("more", "kind", "words"), WRONG)
def test_wrong_weights(more, kind, words):
    settings = {"train": (X, Y), "update": cnn.SGD(), "num_epochs": 1} | more
    with pytest.raises(kind, match=words):
        cnn.Solver(mlp(), **settings)


@pytest.mark.parametrize(
    ("y", "kind", "words"),
    [
        (np.zeros((6, 3)), ValueError, r"y has shape \(6, 3\), expected \(6, 2\)"),
        (np.zeros(6), ValueError, "y has shape"),
        (np.full((6, 2), np.inf), ValueError, r"y\[0\] holds NaN or infinity"),
        (np.full((6, 2), "a"), TypeError, "y has dtype"),
    ],
)
def test_wrong_real_targets(y, kind, words):
    with pytest.raises(kind, match=words):
        mlp(m=2, loss="mse").evaluate(X, y)
    with pytest.raises(ValueError, match="class_weight needs"):
        cnn.Solver(mlp(m=2, loss="mse"), update=cnn.SGD(), class_weight={0: 1.0})


def test_losses_are_saved(tmp_path):
    for loss in ("hinge", "mse"):
        model = mlp(loss=loss)
        model.save(tmp_path / "m.npz")
        assert cnn.load(tmp_path / "m.npz").loss == model.loss


# Looking inside.

NET = [
    cnn.Conv2d(4, 3, padding="same"), cnn.BatchNorm(), cnn.ReLU(),
    cnn.Residual([cnn.Conv2d(4, 3, padding="same"), cnn.ReLU()], name="stage1"),
    cnn.Flatten(), cnn.Dropout(0.5), cnn.Affine(10),
]  # fmt: skip


def test_activations_are_what_the_layers_give(digits):
    model = cnn.Model(NET, (8, 8, 1), dtype="float64")
    x = digits.x_test[:30] / 255
    found = model.activations(x, ["0", "2", "stage1.0", "stage1", "6"], batch_size=7)
    first = cnn.reference.conv2d.forward(x=x, w=model["0.w"], b=model["0.b"], padding="same")["y"]
    np.testing.assert_allclose(found["0"], first, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found["2"], np.maximum(first, 0) / np.sqrt(1 + 1e-5), atol=1e-12)
    assert (found["stage1.0"] < 0).any()
    inner = np.maximum(found["stage1.0"], 0)
    np.testing.assert_allclose(found["stage1"], found["2"] + inner, rtol=1e-12)
    np.testing.assert_allclose(found["6"], model.scores(x), rtol=1e-12)
    assert set(model.activations(x)) == {path for path, _, _ in model.architecture.layers}
    with pytest.raises(KeyError, match="no layer '9'"):
        model.activations(x, ["9"])


def test_stepping_shows_every_op(digits):
    model = cnn.Model(NET, (8, 8, 1), dtype="float64")
    x, y = digits.x_train[:5], digits.y_train[:5]
    expected, gradients = model.loss_and_gradients(x, y)
    seen = {}
    for op, results in model.stepping(x, y):
        seen[op.layer, op.function] = {n: a.copy() for n, a in results.items()}
    assert seen["", "forward"] is not None
    np.testing.assert_array_equal(seen["6", "backward"]["dw"], gradients["6.w"])
    assert expected > 0


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("0.w", np.inf, "layer '0' .conv2d.forward"),
        ("1.gamma", np.nan, "layer '1' .batchnorm.forward"),
        ("stage1.0.b", np.inf, "layer 'stage1.0' .conv2d.forward"),
        ("6.w", 1e38, "softmax_cross_entropy|layer '6'"),
    ],
)
def test_divergence_names_the_first_layer(digits, path, value, words):
    model = cnn.Model(NET, (8, 8, 1))
    solver = cnn.Solver(model, update=cnn.SGD(0.1), batch_size=20)
    batch = digits.x_train[:20], digits.y_train[:20]
    solver.step(*batch)
    model[path][...] = value
    before = model.digest()
    with pytest.raises(cnn.DivergenceError, match=f"iteration 2.*first in.*({words})"):
        solver.step(*batch)
    assert model.digest() == before
