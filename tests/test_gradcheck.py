"""The gradient checker finds what is wrong, and says how sure it is of what is right."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cnn
from cnncore.gradcheck import Coordinate, PathCheck, Sampling
from cnncore.interpret import Interpreter
from cnncore.reference import l2_penalty

RANDOM = np.random.RandomState(0)
X, Y = RANDOM.standard_normal((3, 6)), np.array([0, 2, 1])


def forward(x, w, b):
    return x.dot(w) + b, (x, w, b)


def backward(dout, cache):
    x, w, _ = cache
    return dout.dot(w.T), x.T.dot(dout), dout.sum(axis=0)


def wrong_by(factor):
    def wrong(dout, cache):
        dx, dw, db = backward(dout, cache)
        return dx, factor * dw, db

    return wrong


def model_of(mine=backward, **more):
    layer = cnn.NumpyLayer(forward, mine, {"w": (6, 8), "b": (8,)}, name="mine")
    return cnn.Model([layer, cnn.Tanh(), cnn.Affine(3)], (6,), **more)


def plain_model(strength=None, **more):
    net = [cnn.Affine(8, name="a"), cnn.Tanh(), cnn.Affine(3)]
    return cnn.Model(net, (6,), regularization=strength and cnn.L2(strength), **more)


def check(model, **more):
    return cnn.gradcheck(model, X, Y, verbose=False, **more)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1, "happy"), (1 + 2e-5, "fine with kinks"), (1.001, "uncomfortable"), (1.5, "wrong"),
     (-1, "wrong"), (0, "wrong"), (np.nan, "wrong")],
)  # fmt: skip
def test_a_wrong_backward_gets_its_band_and_fails(factor, verdict):
    outcome = check(model_of(wrong_by(factor)))
    found = {path: p.verdict for path, p in outcome["data_loss"].items()}
    assert found == dict.fromkeys(["mine.w", "mine.b", "2.w", "2.b", "x"], "happy") | {
        "mine.w": verdict
    }
    assert bool(outcome) == (factor == 1)
    assert {c.path for c in outcome.coordinates if not c.passed} == {"mine.w"} - {
        "mine.w" if factor == 1 else ""
    }
    assert verdict in str(outcome)


def path_check(*numeric, kinks=True, rounding=0.0, crossed=False):
    found = [Coordinate("w", (0,), 1.0, n, rounding, crossed, 1e-5) for n in numeric]
    return PathCheck("w", tuple(found), kinks, {1e-5: 0.0})


@pytest.mark.parametrize(
    ("error", "with_kinks", "without"),
    [
        (0, "happy", "happy"),
        (0.9e-7, "happy", "happy"),
        (1.1e-7, "fine with kinks", "uncomfortable"),
        (0.9e-4, "fine with kinks", "uncomfortable"),
        (1.1e-4, "uncomfortable", "uncomfortable"),
        (0.9e-2, "uncomfortable", "uncomfortable"),
        (1.1e-2, "wrong", "wrong"),
        (np.nan, "wrong", "wrong"),
    ],
)
def test_bands(error, with_kinks, without):
    assert path_check(1, 1 - error).verdict == with_kinks
    assert path_check(1 - error, 1, kinks=False).verdict == without
    # Whatever was crossed is not counted.
    assert path_check(1 - error, crossed=True).verdict == "crossed"


def test_what_rounding_explains_is_neither_happy_nor_wrong():
    p = path_check(1 - 0.5, rounding=0.5)
    assert (p.verdict, p.worst, p.telling, p.passed) == ("rounding", 0, (), True)
    assert path_check(1 - 0.5, rounding=0.4).verdict == "wrong"
    assert path_check(1 - 0.5, 1 - 1e-5, rounding=0.5).verdict == "rounding"
    assert path_check(1 - 0.5, 1 - 1e-8, rounding=0.5).verdict == "happy"


def test_what_passes_by_rounding_is_never_called_wrong():
    for rounding in np.logspace(-9, 0, 40):
        for error in np.logspace(-9, 0, 200):
            p = path_check(1 - error, rounding=rounding)
            allowed = ("happy", "fine with kinks", "rounding")
            assert not p.passed or p.verdict in allowed, (rounding, error)
            assert p.passed or p.verdict not in ("happy", "rounding"), (rounding, error)


def test_a_bias_before_batch_normalization_is_lost_in_rounding():
    model = cnn.Model([cnn.Affine(5), cnn.BatchNorm(), cnn.ReLU(), cnn.Affine(3)], (6,))
    outcome = check(model)
    assert outcome
    bias = outcome["data_loss"]["0.b"]
    assert bias.worst == 0
    assert bias.by_h[1e-5] > 0.9
    assert any(c.rounded for c in bias.coordinates)
    (warning,) = outcome.warnings
    assert warning.startswith("0.b: its largest |gradient| is ")
    assert f"warning: {warning}" in str(outcome)


def test_tiny_gradients_are_warned_of():
    assert check(plain_model()).warnings == ()
    outcome = check(plain_model(1.0), weight=np.full(3, 1e-10))
    warned = [warning.partition(":")[0] for warning in outcome.warnings]
    assert warned == ["a.w", "a.b", "2.w", "2.b", "x"]
    outcome = check(plain_model(1e-12))
    assert outcome
    assert [warning.partition(":")[0] for warning in outcome.warnings] == ["a.w", "2.w"]


def test_a_path_that_crossed_everywhere_is_warned_of():
    model = cnn.Model([cnn.Affine(1, name="a"), cnn.ReLU(), cnn.Affine(3)], (6,))
    model["a.w"][...] = 0
    model["2.b"] = [1, 2, 3]
    outcome = check(model)
    assert outcome
    found = outcome["data_loss"]
    assert (found["a.b"].verdict, found["2.b"].verdict) == ("crossed", "happy")
    assert "a.b: every coordinate crossed a kink" in str(outcome)


# The data loss and the penalty apart.


def test_both_parts_are_shown():
    outcome = check(plain_model(0.3))
    assert outcome
    assert [part.name for part in outcome.parts] == ["data_loss", "penalty"]
    # The check's copy has the rounded initial weights of a float32 model.
    model = plain_model(0.3, dtype="float64")
    model.load_state(plain_model().state())
    total = model.loss_and_gradients(X, Y)[0]
    penalty = 0.15 * ((model["a.w"] ** 2).sum() + (model["2.w"] ** 2).sum())
    assert outcome.parts[1].loss == pytest.approx(penalty, rel=1e-12)
    assert outcome.parts[0].loss == pytest.approx(total - penalty, rel=1e-12)
    for c in outcome["penalty"]["a.w"].coordinates:
        assert c.analytic == pytest.approx(0.3 * model["a.w"][c.index], rel=1e-9)
    assert set(outcome["penalty"]) == {"a.w", "a.b", "2.w", "2.b"}
    assert "no penalty on a.b, 2.b\n" in str(outcome)
    without = check(plain_model())
    assert [part.name for part in without.parts] == ["data_loss"]
    with pytest.raises(KeyError, match="penalty"):
        without["penalty"]


def test_a_wrong_penalty_is_found_in_its_own_part(monkeypatch):
    right = l2_penalty.forward

    def without_the_half(w, segments):
        return {"penalty": 2 * right(w, segments)["penalty"]}

    monkeypatch.setattr(l2_penalty, "forward", without_the_half)
    outcome = check(plain_model(0.3))
    assert not outcome
    data, penalty = outcome.parts
    assert data.passed
    assert {p.path: p.verdict for p in penalty.shown} == {"a.w": "wrong", "2.w": "wrong"}


@pytest.mark.parametrize("path", ["a.b", "2.w"])
def test_a_penalty_where_none_belongs_and_a_lost_one(monkeypatch, path):
    original = cnn.Model.gradient_runner

    def spoilt(self, examples, **more):
        runner, gradients = original(self, examples, **more)
        run = runner.run

        def run_and_spoil(*arguments):
            results = run(*arguments)
            gradients[path] += self.l2 * (0.2 if path == "a.b" else -self[path])
            return results

        runner.run = run_and_spoil
        return runner, gradients

    monkeypatch.setattr(cnn.Model, "gradient_runner", spoilt)
    outcome = check(plain_model(0.3))
    assert outcome.parts[0].passed
    assert not outcome
    assert outcome["penalty"][path].verdict == "wrong"
    assert {c.path for c in outcome.coordinates if not c.passed} == {path}


def test_a_large_penalty_hides_nothing():
    def model_with(factor):
        scale = cnn.NumpyLayer(lambda x: (2 * x, None), lambda dout, _: 2 * factor * dout)
        net = [cnn.Affine(8, name="a"), scale, cnn.Tanh(), cnn.Affine(3)]
        return cnn.Model(net, (6,), regularization=cnn.L2(1e7))

    assert check(model_with(1))
    wrong, right = (model_with(f).loss_and_gradients(X, Y)[1]["a.w"] for f in (1.5, 1))
    assert np.median(abs(wrong / right - 1)) < 1e-6
    outcome = check(model_with(1.5))
    assert [part.passed for part in outcome.parts] == [False, True]
    assert outcome["data_loss"]["a.w"].verdict == "wrong"


def test_frozen_parameters_are_left_out_of_both_parts():
    model = plain_model(0.3)
    model.freeze("a")
    outcome = check(model)
    assert outcome
    assert (set(outcome["data_loss"]), set(outcome["penalty"])) == (
        {"2.w", "2.b", "x"}, {"2.w", "2.b"}
    )  # fmt: skip


# The point, the steps, the places.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_burn_in_trains_a_copy(dtype):
    net = [cnn.Affine(8), cnn.BatchNorm(), cnn.Tanh(), cnn.Dropout(0.8), cnn.Affine(3)]
    model = cnn.Model(net, (6,), regularization=cnn.L2(0.01), dtype=dtype)
    before = model.digest()
    weight = np.array([0.5, 2, 1])
    outcome = check(model, weight=weight, burn_in=12, update=cnn.Adam(0.02), t=5)
    assert outcome
    assert (model.digest(), model.regularization) == (before, cnn.L2(0.01))
    copy = cnn.Model(net, (6,), regularization=cnn.L2(0.01), dtype="float64")
    copy.load_state(model.state())
    solver = cnn.Solver(copy, update=cnn.Adam(0.02), batch_size=3)
    assert outcome.burn_in == tuple(solver.step(X, Y, weight) for _ in range(12))
    loss = sum(part.loss for part in outcome.parts)
    assert loss == pytest.approx(copy.loss_and_gradients(X, Y, weight, t=5)[0], rel=1e-12)
    assert "12 steps of burn-in: loss " in str(outcome)
    assert check(model).burn_in == ()


def test_burn_in_finds_what_the_initial_weights_hide():
    def wrong_where_b_is_not_0(dout, cache):
        dx, dw, db = backward(dout, cache)
        return dx, dw * (1 + abs(cache[2])), db

    model = model_of(wrong_where_b_is_not_0)
    assert check(model)
    outcome = check(model, burn_in=10)
    assert not outcome
    assert not outcome["data_loss"]["mine.w"].passed
    assert outcome["data_loss"]["mine.b"].passed
    assert len(outcome.burn_in) == 10
    assert outcome.burn_in[-1] < outcome.burn_in[0]


def test_a_burn_in_that_diverges_says_so():
    model = cnn.Model([cnn.Affine(8), cnn.ReLU(), cnn.Affine(3)], (6,))
    with pytest.raises(cnn.DivergenceError):
        check(model, burn_in=5, update=cnn.SGD(1e300))


def test_of_several_h_the_best_counts():
    coarse = check(model_of(), h=0.5)
    assert not coarse
    outcome = check(model_of(), h=(0.5, 1e-4, 1e-5))
    assert outcome
    single = {h: check(model_of(), h=h) for h in (0.5, 1e-4, 1e-5)}
    for i, best in enumerate(outcome.coordinates):
        tried = {h: found.coordinates[i] for h, found in single.items()}
        assert best == tried[best.h]
        assert best.relative_error == min(c.relative_error for c in tried.values())
    assert {c.h for c in outcome.coordinates} > {1e-5}
    for path, p in outcome["data_loss"].items():
        assert p.by_h == {h: found["data_loss"][path].by_h[h] for h, found in single.items()}
        assert p.by_h[0.5] > 1e-3 > p.worst
    heads = ["worst relative error", "h = 0.5", "h = 0.0001", "h = 1e-05", "verdict"]
    text = str(outcome)
    assert [text.index(head) for head in heads] == sorted(text.index(head) for head in heads)
    assert "h = 1e-05" not in str(check(model_of()))


def test_several_h_excuse_no_wrong_gradient():
    for factor, verdict in (1.001, "uncomfortable"), (1.5, "wrong"):
        outcome = check(model_of(wrong_by(factor)), h=np.array([1e-4, 1e-5, 1e-6]))
        assert not outcome
        assert outcome["data_loss"]["mine.w"].verdict == verdict
        assert "with h = " in str(outcome)


def test_a_smaller_h_settles_what_a_larger_one_crossed():
    model = cnn.Model([cnn.Affine(2, name="a"), cnn.ReLU(), cnn.Affine(3)], (6,))
    # Between the two h from the kink, in the first example.
    model["a.b"][...] = 1e-4 - (X[0] @ model["a.w"].astype(float))
    crossed = [
        [c.crossed for c in check(model, h=h)["data_loss"]["a.b"].coordinates]
        for h in (1e-3, 1e-5, (1e-3, 1e-5))
    ]
    assert crossed == [[True, True], [False, False], [False, False]]


def test_a_crossed_difference_is_never_the_best():
    def wrong(dout, cache):
        dx, dw, db = backward(dout, cache)
        return dx, dw, 0.55 * db  # as the difference across the kink has it

    layer = cnn.NumpyLayer(forward, wrong, {"w": (6, 2), "b": (2,)}, name="mine")
    model = cnn.Model([layer, cnn.ReLU(), cnn.Affine(3)], (6,), dtype="float64")
    model["mine.b"] = 1e-4 - X[0] @ model["mine.w"]
    outcome = cnn.gradcheck(model, X[:1], Y[:1], h=(1e-3, 1e-5), verbose=False)
    assert not outcome
    assert [c.h for c in outcome["data_loss"]["mine.b"].coordinates] == [1e-5, 1e-5]
    assert outcome["data_loss"]["mine.b"].verdict == "wrong"


@pytest.mark.parametrize(
    ("shape", "count"),
    [((64, 10), 10), ((3, 3, 6, 6), 10), ((7,), 10), ((1000,), 10), ((4, 3), 10), ((1, 5, 1), 3)],
)
def test_coordinates_are_spread_over_every_axis(shape, count):
    for seed in range(20):
        picked = Sampling(count, (1e-5,), np.random.RandomState(seed)).pick(shape)
        assert len(picked) == len(set(picked)) == min(count, np.prod(shape))
        for axis, length in enumerate(shape):
            found = sorted(index[axis] for index in picked)
            if length <= count:
                assert set(found) == set(range(length))
            assert np.diff([0, *found, length]).max() <= 2 * length / count + 1


def test_every_parameter_example_and_output_unit_is_looked_at():
    found = check(plain_model(), num_checks=9)["data_loss"]
    assert set(found) == {"a.w", "a.b", "2.w", "2.b", "x"}
    assert {p: len(c.coordinates) for p, c in found.items()} == {
        "a.w": 9, "a.b": 8, "2.w": 9, "2.b": 3, "x": 9
    }  # fmt: skip
    assert {c.index[0] for c in found["x"].coordinates} == {0, 1, 2}
    assert {c.index[1] for c in found["2.w"].coordinates} == {0, 1, 2}


def dropout_model():
    net = [cnn.Affine(20), cnn.Dropout(0.5), cnn.Tanh(), cnn.Affine(3)]
    return cnn.Model(net, (6,), dtype="float64")


def test_every_evaluation_has_the_same_dropout_mask(monkeypatch):
    losses = {t: check(dropout_model(), t=t) for t in (1, 2)}
    assert all(losses.values())
    for t, outcome in losses.items():
        loss = dropout_model().loss_and_gradients(X, Y, t=t)[0]
        assert outcome.parts[0].loss == loss
        assert outcome.parts[0].twin_loss == pytest.approx(loss, rel=1e-12)
    assert losses[1].parts[0].loss != losses[2].parts[0].loss
    step, calls = Interpreter.step, []

    def with_another_mask(self, **more):
        calls.append(1)
        return step(self, **more | {"t": len(calls)})

    monkeypatch.setattr(Interpreter, "step", with_another_mask)
    outcome = check(dropout_model())
    assert outcome.parts[0].twin_loss == pytest.approx(outcome.parts[0].loss, rel=1e-12)
    assert not outcome


def test_nan_is_no_small_error():
    assert np.isnan(cnn.relative_error([1, np.nan], [1, np.nan]))
    assert np.isnan(cnn.relative_error([0.0], [np.nan], "sum"))
    assert np.isnan(cnn.relative_error(np.inf, np.inf))
    assert cnn.relative_error([0, 1], [0, 1]) == 0
