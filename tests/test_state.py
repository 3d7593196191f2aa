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
