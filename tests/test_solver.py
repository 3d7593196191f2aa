"""The solver: counting, sampling, accuracy checks, endings, interruption."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import timeit

import numpy as np
import pytest

import cnncore as cnn
from cnncore.solver import Step

NET = [cnn.Flatten(), cnn.Affine(30), cnn.BatchNorm(), cnn.ReLU(), cnn.Dropout(0.8), cnn.Affine(10)]


@pytest.fixture(scope="module")
def digits():
    return cnn.data.digits()


def make(digits, model=None, *, train=None, **more):
    model = model or cnn.Model(NET, (8, 8, 1), regularization=cnn.L2(1e-3))
    settings = {"update": cnn.Adam(3e-3), "batch_size": 50, "num_epochs": 3} | more
    if "num_iterations" in more:
        settings.pop("num_epochs", None)
    train = (digits.x_train, digits.y_train) if train is None else train
    return cnn.Solver(model, train, (digits.x_val, digits.y_val), **settings)


def test_epochs_and_iterations(digits):
    solver = make(digits)  # 1257 examples
    assert solver.iterations_per_epoch == 25
    assert solver.num_iterations == 75
    assert make(digits, last_batch="keep").iterations_per_epoch == 26
    assert make(digits, batch_size=5000).iterations_per_epoch == 1
    assert make(digits, batch_size=5000).batch_size == 1257
    assert make(digits, num_iterations=7).num_iterations == 7


def test_a_shuffled_epoch_shows_each_example_once(digits):
    solver = make(digits, last_batch="keep")
    sizes, index = solver._batches(1, 0, solver.iterations_per_epoch)
    assert sorted(index) == list(range(1257))
    assert sizes.tolist() == [50] * 25 + [7]


def test_replacement_draws_from_all_and_repeats(digits):
    solver = make(digits, sampling="replacement", num_iterations=200)
    _, index = solver._batches(1, 0, 200)
    assert len(index) == 200 * 50
    assert index.min() >= 0
    assert index.max() < 1257
    assert len(set(index[:1257])) < 1257
    assert len(set(index)) > 1200
    solver.train()
    assert len(solver.history["loss"]) == 200


def test_rows_drawn_with_replacement_do_not_depend_on_where_runs_end(digits):
    solver = make(digits, sampling="replacement", num_iterations=200, batch_size=7)
    _, index = solver._batches(1, 0, 200)
    for solver.iteration in (1, 2, 153):
        sizes, some = solver._batches(1, solver.iteration, 9)
        assert sizes.tolist() == [7] * 9
        np.testing.assert_array_equal(some, index[7 * solver.iteration :][:63])


def test_history_and_when_accuracy_is_checked(digits):
    solver = make(digits)
    history = solver.train()
    assert len(history["loss"]) == len(history["data_loss"]) == len(history["penalty"]) == 75
    np.testing.assert_allclose(
        history["loss"], np.add(history["data_loss"], history["penalty"]), rtol=1e-12
    )
    assert history["iterations"] == [1, 25, 50, 75]
    for name in ("train_accuracy", "train_loss", "validation_accuracy", "validation_loss"):
        assert len(history[name]) == 4
    assert history["loss"][-1] < history["loss"][0]


def test_without_validation(digits):
    model = cnn.Model(NET, (8, 8, 1))
    solver = cnn.Solver(
        model, (digits.x_train, digits.y_train), update=cnn.SGD(0.1), batch_size=50, num_epochs=2
    )
    history = solver.train()
    assert history["validation_accuracy"] == []
    assert len(history["train_accuracy"]) == 3


def test_steps_are_yielded_and_lr_may_change_between(digits):
    solver = make(digits, num_epochs=2, lr_decay=0.5)
    steps = []
    for step in solver:
        assert isinstance(step, Step)
        steps.append(step)
        if step.iteration == 10:
            solver.lr = 1e-3
    assert [s.iteration for s in steps] == list(range(1, 51))
    assert [s.iteration for s in steps if s.epoch_end] == [25, 50]
    assert {s.epoch for s in steps[:25]} == {1}
    assert steps[9].lr == 3e-3
    assert steps[10].lr == 1e-3
    assert steps[25].lr == 5e-4
    assert all(s.loss >= s.data_loss for s in steps)


def test_a_learning_rate_of_zero_changes_no_parameter(digits):
    solver = make(digits, update=cnn.SGD(0.0), num_epochs=1)
    before = solver.model.parameters.copy()
    solver.train()
    assert (solver.model.parameters == before).all()


def test_lr_is_data_and_not_part_of_the_plan(digits):
    model = cnn.Model(NET, (8, 8, 1))
    programs = set()
    for lr in (0.1, 0.2):
        solver = make(digits, model, update=cnn.SGD(lr), num_iterations=1)
        solver.train()
        programs.add(next(iter(solver._runners.values())).program)
    assert len(programs) == 1


@pytest.mark.parametrize("update", [cnn.SGD(0.1), cnn.Momentum(0.05), cnn.Adam(5e-3)])
def test_every_rule_learns_the_digits(digits, update):
    solver = make(digits, update=update, num_epochs=8)
    solver.train()
    assert solver.model.evaluate(digits.x_test, digits.y_test)["accuracy"] > 0.93


def test_float64_learns_too(digits):
    solver = make(digits, cnn.Model(NET, (8, 8, 1), dtype="float64"), num_epochs=8)
    solver.train()
    assert solver.model.evaluate(digits.x_test, digits.y_test)["accuracy"] > 0.93


def test_overfits_twenty_examples(digits):
    model = cnn.Model([cnn.Flatten(), cnn.Affine(100), cnn.ReLU(), cnn.Affine(10)], (8, 8, 1))
    few = digits.x_train[:20], digits.y_train[:20]
    solver = cnn.Solver(model, few, update=cnn.SGD(0.5), batch_size=20, num_epochs=300)
    history = solver.train()
    assert history["train_accuracy"][-1] == 1.0
    assert history["loss"][-1] < 0.01


def test_best_or_last_is_restored_with_its_statistics(digits):
    best, last = make(digits, restore="best"), make(digits, restore="last")
    # A rate that spoils the net after its best moment.
    for solver in (best, last):
        for step in solver:
            if step.iteration == 60:
                solver.lr = 0.3
    accuracies = best.history["validation_accuracy"]
    assert accuracies == last.history["validation_accuracy"]
    assert max(accuracies) > accuracies[-1]
    found = best.model.evaluate(digits.x_val, digits.y_val)["accuracy"]
    assert found == max(accuracies)
    assert last.model.evaluate(digits.x_val, digits.y_val)["accuracy"] == accuracies[-1]
    assert (best.model.statistics != last.model.statistics).any()


def test_training_goes_on_from_the_last_state(digits):
    once = make(digits, num_epochs=6)
    once.train()
    twice = make(digits, num_epochs=2)
    twice.train()
    twice.train(num_epochs=4)
    assert twice.model.digest() == once.model.digest()
    assert twice.history["loss"] == once.history["loss"]


def test_a_change_by_the_user_after_training_is_respected(digits):
    solver = make(digits, num_epochs=2)
    solver.train()
    solver.model["5.b"][3] = 100  # everything is a three now
    solver.lr = 0.0
    solver.train(num_epochs=1)
    assert solver.history["validation_accuracy"][-1] < 0.15


def test_divergence_raises_and_changes_nothing(digits):
    solver = make(digits, update=cnn.SGD(1e-2), restore="last")
    steps = iter(solver)
    next(steps)
    before = solver.model.digest()
    solver.model["1.w"][0, 0] = np.inf
    spoilt = solver.model.digest()
    with pytest.raises(cnn.DivergenceError, match=r"iteration 2.*not finite") as caught:
        next(steps)
    assert caught.value.iteration == 2
    assert solver.model.digest() == spoilt != before
    assert len(solver.history["loss"]) == 1


def test_steps_before_a_failed_one_in_the_same_run_count(digits):
    x = (digits.x_train / 255).astype(np.float32)
    solver = make(digits, train=(x, digits.y_train), num_train_samples=1, restore="last")
    _, index = solver._batches(1, 0, 25)
    x[index[12 * 50], 0, 0, 0] = np.inf  # first read by step 13
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        solver.train()
    assert solver.iteration == len(solver.history["loss"]) == 12
    again = make(digits, num_iterations=12, num_train_samples=1, restore="last")
    again.train()
    assert solver.history["loss"] == again.history["loss"]
    assert solver.model.digest() == again.model.digest()


def test_a_diverged_training_keeps_its_best_state(digits):
    solver = make(digits, update=cnn.Momentum(0.05), num_epochs=4)
    for step in solver:
        if step.iteration == 50:
            break
    best = max(solver.history["validation_accuracy"])
    solver.lr = 1e38
    with pytest.raises(cnn.DivergenceError):
        solver.train()
    assert np.isfinite(solver.model.parameters).all()
    assert solver.model.evaluate(digits.x_val, digits.y_val)["accuracy"] == best


def test_bad_labels_that_appear_later_are_found_by_the_step(digits):
    y = digits.y_train.copy()
    solver = make(digits, train=(digits.x_train, y))
    assert solver._train.y is y or solver._train.y.base is y
    y[::3] = 10
    before = solver.model.digest()
    with pytest.raises(ValueError, match=r"y\[\d+\] is 10, expected a class index in 0 .. 9"):
        solver.train()
    assert solver.model.digest() == before


def test_not_finite_data_are_found_by_the_step(digits):
    x = (digits.x_train / 255).astype(np.float32)
    x[7, 3, 3, 0] = np.nan
    solver = make(digits, train=(x, digits.y_train), last_batch="keep", num_epochs=1)
    with pytest.raises(ValueError, match=r"x\[7\] holds NaN or infinity"):
        solver.train()
    with pytest.raises(ValueError, match=r"x\[7\] holds NaN"):
        solver.model.predict(x)


def test_batch_norm_over_one_value_is_an_error(digits):
    solver = cnn.Solver(cnn.Model(NET, (8, 8, 1)), update=cnn.SGD(), batch_size=4)
    with pytest.raises(ValueError, match=r"layer '2'.*more than one value"):
        solver.step(digits.x_train[:1], digits.y_train[:1])
    solver.step(digits.x_train[:2], digits.y_train[:2])


def test_step_returns_the_loss_before_the_update(digits):
    model = cnn.Model([cnn.Flatten(), cnn.Affine(10)], (8, 8, 1), regularization=cnn.L2(0.1))
    batch = digits.x_train[:30], digits.y_train[:30]
    expected, gradients = model.loss_and_gradients(*batch)
    before = model.parameters.copy()
    solver = cnn.Solver(model, update=cnn.SGD(0.5), batch_size=30)
    assert solver.step(*batch) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(model.parameters, before - 0.5 * gradients, rtol=1e-4, atol=1e-6)


def test_interruption_returns_soon_and_leaves_a_usable_model(digits):
    solver = make(digits, num_epochs=1000, restore="last")
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        solver.train()
    assert time.monotonic() - start < 2
    assert len(solver.history["loss"]) == solver.iteration > 0
    assert solver.model.predict(digits.x_test).shape == (360,)


class Interrupter(threading.Thread):
    """Sends Ctrl-C a while after a solver has come to an iteration; `stop` comes in time or not."""

    def __init__(self, solver, iteration, seconds):
        super().__init__()
        self.solver, self.iteration, self.seconds = solver, iteration, seconds
        self.stopped = threading.Event()

    def run(self):
        while self.solver.iteration < self.iteration:
            if self.stopped.wait(2e-4):
                return
        if not self.stopped.wait(self.seconds):
            os.kill(os.getpid(), signal.SIGINT)

    def stop(self):
        self.stopped.set()
        self.join()


@pytest.mark.parametrize("restore", ["best", "last"])
def test_fifty_interruptions_of_a_training_leave_the_same_bytes(digits, restore):
    settings = {"num_epochs": 300, "restore": restore, "lr_decay": 0.995}
    whole = make(digits, **settings)
    whole.train()
    solver = make(digits, **settings)
    random = np.random.RandomState(0)
    interrupted = []
    for iteration in np.sort(random.randint(0, 0.9 * whole.num_iterations, 60)):
        interrupter = Interrupter(solver, iteration, random.uniform(0, 2e-3))
        before = solver.iteration
        try:
            interrupter.start()
            try:
                solver.train()
            finally:
                interrupter.stop()
        except KeyboardInterrupt:
            interrupted.append(solver.iteration)
        assert before <= solver.iteration == len(solver.history["loss"])
        assert solver.history["loss"] == whole.history["loss"][: solver.iteration]
        assert solver.model.predict(digits.x_test).shape == (360,)
        assert np.isfinite(solver.model.parameters).all()
    assert len(interrupted) >= 50
    # Over the whole training, between steps that are not all alike.
    thirds = np.minimum(np.array(interrupted) * 3 // whole.num_iterations, 2)
    assert set(thirds) == {0, 1, 2}
    assert len(set(interrupted)) > 30
    solver.train()
    assert solver.model.digest() == whole.model.digest()
    assert solver.history == whole.history


def train_by_steps(solver):
    for _ in solver:
        pass


class AtCall:
    """A trace that counts calls of Python functions, and has one of them begin with Ctrl-C."""

    def __init__(self, chosen=0):
        self.chosen, self.count = chosen, 0

    def __call__(self, frame, event, argument):
        self.count += 1
        if self.count == self.chosen:
            signal.raise_signal(signal.SIGINT)

    def watch(self, function, *arguments):
        before = sys.gettrace()
        sys.settrace(self)
        try:
            function(*arguments)
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("train", [cnn.Solver.train, train_by_steps], ids=["train", "steps"])
def test_an_interruption_at_any_call_loses_nothing(digits, train):
    few = digits.x_train[:40], digits.y_train[:40]

    def fresh():
        return make(digits, train=few, batch_size=20, num_epochs=2, verbose=False)

    train(fresh())  # what is made once is made now
    whole, counter = fresh(), AtCall()
    counter.watch(train, whole)
    assert counter.count > 100
    for chosen in range(1, counter.count + 1):
        solver = fresh()
        with pytest.raises(KeyboardInterrupt):
            AtCall(chosen).watch(train, solver)
        assert len(solver.history["loss"]) == solver.iteration
        train(solver)
        assert solver.model.digest() == whole.model.digest()
        assert solver.history == whole.history


def test_a_second_equal_model_and_solver_are_cheap():
    net = cnn.Sequential([cnn.Affine(64), cnn.ReLU(), cnn.Affine(10)])

    def make_both():
        return cnn.Solver(cnn.Model(net, (64,)), update=cnn.Adam(1e-3), batch_size=32)

    make_both()
    assert min(timeit.repeat(make_both, number=10, repeat=200)) / 10 < 0.5e-3


def test_progress_is_shown_when_asked_for(digits, capsys):
    make(digits, num_epochs=1, verbose=True).train()
    assert "25/25" in capsys.readouterr().err
    make(digits, num_epochs=1).train()
    assert capsys.readouterr().err == ""
