"""States, copies, frozen layers."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

import cnncore as cnn

NET = cnn.Sequential(
    [
        cnn.Conv2d(4, 3, padding="same", name="first"), cnn.BatchNorm(), cnn.ReLU(),
        cnn.Residual(
            [cnn.Conv2d(4, 3, padding="same"), cnn.BatchNorm(), cnn.ReLU()], name="stage1"
        ),
        cnn.GlobalAvgPool2d(), cnn.Affine(10, name="head"),
    ]
)  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    return cnn.data.digits()


def model_of(**more):
    return cnn.Model(NET, (8, 8, 1), regularization=cnn.L2(1e-3), **more)


def batch(digits, n=40):
    return digits.x_train[:n], digits.y_train[:n]


def test_a_state_is_views_and_loads_into_another_model(digits):
    source, target = model_of(seed=1), model_of(seed=2)
    assert source.state()["head.w"].base is not None
    assert "1.running_mean" in source.state()
    assert target.load_state(source.state()) == ((), ())
    assert target.digest() == source.digest()


def test_load_state_is_strict_unless_told(digits):
    model = model_of()
    state = {path: array.copy() for path, array in model.state().items()}
    state["new.w"] = state.pop("head.b")
    before = model.digest()
    with pytest.raises(KeyError, match=r"missing: head\.b; unexpected: new\.w"):
        model.load_state(state)
    state["head.w"] = state["head.w"] + 1
    difference = model.load_state(state, strict=False)
    assert difference.missing == ("head.b",)
    assert difference.unexpected == ("new.w",)
    assert model.digest() != before


def test_a_wrong_array_changes_nothing():
    model = model_of()
    before = model.digest()
    for value, kind in ((np.zeros((4, 9)), ValueError), (np.full((4, 10), "a"), TypeError)):
        state = {p: a + 1 for p, a in model.state().items()} | {"head.w": value}
        with pytest.raises(kind, match=r"head\.w has"):
            model.load_state(state)
    assert model.digest() == before


def test_clone_and_deepcopy_have_memory_of_their_own(digits):
    model = model_of()
    for twin in (model.clone(), copy.deepcopy(model)):
        assert twin.digest() == model.digest()
        twin["head.w"][...] += 1
        assert twin.digest() != model.digest()
    assert model.clone(seed=9).digest() == model_of(seed=9).digest()


def test_pickle_carries_everything(digits):
    model = model_of()
    cnn.Solver(model, update=cnn.Adam(), batch_size=40).step(*batch(digits))
    model.freeze("first")
    again = pickle.loads(pickle.dumps(model))
    assert again.digest() == model.digest()
    assert again.frozen == model.frozen
    assert again.scores(digits.x_test).tobytes() == model.scores(digits.x_test).tobytes()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_models_travel_to_worker_processes(digits, method):
    model = model_of()
    with multiprocessing.get_context(method).Pool(2) as pool:
        arguments = [(model, digits.x_test, digits.y_test)] * 3
        found = pool.starmap_async(cnn.Model.evaluate, arguments).get(timeout=60)
    assert found == [model.evaluate(digits.x_test, digits.y_test)] * 3


def test_frozen_layers_stay_and_the_rest_trains(digits):
    model = model_of()
    solver = cnn.Solver(model, update=cnn.Adam(1e-2), batch_size=40)
    solver.step(*batch(digits))
    assert model.freeze("first") == ("first.w", "first.b")
    assert model.freeze("stage1.*") == (
        "stage1.0.w",
        "stage1.0.b",
        "stage1.1.gamma",
        "stage1.1.beta",
    )
    before = {path: array.copy() for path, array in model.state().items()}
    for _ in range(3):
        solver.step(*batch(digits))
    same = {path for path in before if np.array_equal(before[path], model[path])}
    assert same == {
        "first.w", "first.b", "stage1.0.w", "stage1.0.b", "stage1.1.gamma", "stage1.1.beta",
        "stage1.1.running_mean", "stage1.1.running_var",
    }  # fmt: skip
    model.unfreeze()
    solver.step(*batch(digits))
    assert (model["first.w"] != before["first.w"]).any()


def test_backward_stops_below_the_lowest_trained_layer():
    model = model_of()
    model.freeze("first")
    model.freeze("1")
    model.freeze("stage1")
    purpose = cnn.architecture.training(
        8, model.isa, model.loss, 0.0, cnn.SGD(), frozen=model.frozen
    )
    plan = model.architecture.plan(purpose)
    backward = {op.layer for op in plan.ops if op.function == "backward"}
    assert backward == {"", "head"}
    assert not any(op.op == "batchnorm" for op in plan.ops)


def test_gradcheck_of_a_partly_frozen_model(digits):
    model = model_of()
    solver = cnn.Solver(model, update=cnn.Adam(1e-2), batch_size=40)
    solver.step(*batch(digits))
    model.freeze("stage1")
    outcome = cnn.gradcheck(model, *batch(digits, 3), verbose=False)
    assert outcome
    assert {c.path for c in outcome.coordinates} == {
        "first.w", "first.b", "1.gamma", "1.beta", "head.w", "head.b", "x"
    }  # fmt: skip


def test_patterns_that_name_nothing_are_refused():
    with pytest.raises(KeyError, match="'stage9' names no parameter"):
        model_of().freeze("stage9")
    model = model_of()
    model.freeze("*")
    with pytest.raises(ValueError, match="no parameters to train"):
        cnn.Solver(model, update=cnn.SGD())


def test_pickling_after_use_keeps_paths_and_alignment(digits):
    model = model_of()
    model.predict(digits.x_test)
    _, gradients = model.loss_and_gradients(*batch(digits))
    again, same = pickle.loads(pickle.dumps((model, gradients)))
    assert again["head.w"].ctypes.data % 64 == 0
    assert again.digest() == model.digest()
    np.testing.assert_array_equal(same["head.w"], gradients["head.w"])
    with pytest.raises(TypeError, match="Solver cannot be pickled"):
        pickle.dumps(cnn.Solver(model, update=cnn.SGD()))


def test_assignment_by_path_copies(digits):
    model = model_of()
    before = model.parameters
    model["head.b"] = 2.0
    model.parameters["head.w"] = 0.5
    assert (model["head.b"] == 2).all()
    assert (model["head.w"] == 0.5).all()
    model.parameters = np.zeros(len(model.parameters))
    assert model.parameters is before
    assert (model.scores(digits.x_test[:3]) == 0).all()


def test_many_batch_sizes_take_no_more_memory_than_few(digits):
    model = model_of()
    for n in range(1, 200):
        model.predict(digits.x_test[:n], batch_size=n)
    assert sum(map(len, model._pool.values())) <= 16
    assert len(model._pool) <= 4
    model.predict(digits.x_test[:3], batch_size=10**8)


def test_a_refused_training_changes_nothing(digits):
    model = model_of()
    train = digits.x_train, digits.y_train
    settings = {"update": cnn.Adam(), "batch_size": 50, "num_epochs": 3}
    alone = cnn.Solver(model.clone(), train, train, **settings)
    alone.train()
    solver = cnn.Solver(model, train, train, **settings)
    refused = []
    for step in solver:
        if step.iteration % 20 == 0:
            before = model.digest()
            # As another thread's training would have it.
            with solver._training, pytest.raises(RuntimeError, match="already"):
                solver.train()
            refused.append(model.digest() == before)
    assert refused
    assert all(refused)
    assert model.digest() == alone.model.digest()


def test_steps_by_hand_are_in_the_history(digits):
    solver = cnn.Solver(model_of(), update=cnn.SGD(0.1), batch_size=40)
    losses = [solver.step(*batch(digits)) for _ in range(3)]
    assert solver.history["loss"] == losses
    assert solver.iteration == 3


@pytest.mark.parametrize("name", sorted(cnn.zoo.MODELS))
def test_gradcheck_of_the_zoo(name):
    shape = (16, 16, 2)
    model = cnn.Model(cnn.zoo.MODELS[name](shape, 4), shape)
    x = np.random.RandomState(0).randint(0, 256, (3, *shape)).astype(np.uint8)
    assert cnn.gradcheck(model, x, [0, 3, 1], num_checks=2, verbose=False)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda m: m.plan("train"), ValueError, "kind must be one of scores"),
        (lambda m: m.plan("scores", "a"), TypeError, "batch_size must"),
        (lambda m: m.initialize(-1), ValueError, "seed must"),
        (lambda m: cnn.gradcheck(NET, 1, 2), TypeError, "model must be a Model"),
        (lambda m: m.save("."), IsADirectoryError, "a folder"),
        (lambda m: m.save("/nowhere/m.npz"), FileNotFoundError, "'/nowhere/m.npz'"),
        (
            lambda m: cnn.Model([cnn.Flatten(), cnn.MaxPool2d(2)], (8, 8, 1)),
            ValueError,
            r"\(n, 64\)",
        ),
        (lambda m: cnn.Conv2d(4, 3, padding=None), TypeError, "padding must"),
        (lambda m: cnn.Affine(4, bias="no"), TypeError, "bias must be True or False"),
    ],
)
def test_messages_that_a_new_user_met(call, kind, words):
    with pytest.raises(kind, match=words):
        call(model_of())


@pytest.mark.parametrize(
    ("y", "kind", "words"),
    [
        (np.zeros((40, 1), int), ValueError, r"y\.ravel"),
        (np.eye(10)[np.arange(40) % 10], ValueError, "argmax"),
        (None, TypeError, "y is None"),
        (np.full(40, "a"), TypeError, "unique"),
    ],
)
def test_advice_on_labels_fits_them(digits, y, kind, words):
    with pytest.raises(kind, match=words):
        cnn.Solver(model_of(), (digits.x_train[:40], y), update=cnn.SGD(), num_epochs=1)


def test_messages_say_whose_data_are_wrong(digits):
    x = (digits.x_val / 255).astype(np.float32)
    x[7, 0, 0, 0] = np.nan
    train = digits.x_train, digits.y_train
    solver = cnn.Solver(model_of(), train, (x, digits.y_val), update=cnn.SGD(), num_epochs=1)
    with pytest.raises(ValueError, match=r"validation x\[7\] holds NaN"):
        solver.train()


def test_class_names_travel_with_the_model(tmp_path):
    names = [f"digit {i}" for i in range(10)]
    model = model_of(classes=names)
    model.save(tmp_path / "m.npz")
    for again in (cnn.load(tmp_path / "m.npz"), model.clone(), pickle.loads(pickle.dumps(model))):
        assert again.classes == tuple(names)
    for wrong in (names[:9], ["a"] * 10):
        with pytest.raises(ValueError, match="10 different names"):
            model_of(classes=wrong)
    with pytest.raises(TypeError, match="list of names"):
        model_of(classes=range(10))
