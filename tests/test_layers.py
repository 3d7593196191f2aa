"""Models of average pooling, concatenated branches and both forms of dropout."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cnn
from cnncore import _core, config
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
INCEPTION = [
    cnn.Conv2d(4, 3, padding=1, name="stem"), cnn.ReLU(),
    cnn.Concat(
        [
            cnn.Conv2d(2, 1),
            [cnn.Conv2d(3, 1), cnn.ReLU(), cnn.Conv2d(2, 3, padding="same")],
            [cnn.AvgPool2d(3, 1, "same"), cnn.Conv2d(1, 1, name="project")],
            [],
        ]
    ),
    cnn.BatchNorm(), cnn.ReLU(), cnn.GlobalAvgPool2d(), cnn.Affine(3),
]  # fmt: skip
DENSE = [
    cnn.Concat([[], cnn.Conv2d(3, 3, padding=1)]), cnn.ReLU(),
    cnn.Concat([[], [cnn.BatchNorm(), cnn.ReLU(), cnn.Conv2d(2, 3, padding=1)]]), *HEAD,
]  # fmt: skip
FIRST_FORM = [
    cnn.Flatten(), cnn.Dropout(0.6, inverted=False), cnn.Affine(8), cnn.ReLU(),
    cnn.Dropout(0.5, inverted=False), cnn.Affine(3),
]  # fmt: skip
INVERTED = [
    cnn.Dropout(layer.keep_prob) if isinstance(layer, cnn.Dropout) else layer
    for layer in FIRST_FORM
]
NETS = {
    "pooled": POOLED,
    "pool first": [cnn.AvgPool2d(2), *HEAD],
    "inception": INCEPTION,
    "dense": DENSE,
    "input second": [cnn.Concat([cnn.Conv2d(3, 3, padding=1), []]), *HEAD],
    "features": [
        cnn.Flatten(), cnn.Concat([cnn.Affine(4), [cnn.Affine(3), cnn.ReLU()], []]), cnn.Affine(3)
    ],
    "scores": [cnn.Flatten(), cnn.Concat([cnn.Affine(1), cnn.Affine(2)])],
    "nested": [
        cnn.Residual([cnn.Concat([cnn.Conv2d(1, 1), cnn.Conv2d(1, 3, padding=1)])]),
        cnn.Concat([cnn.Concat([[], cnn.ReLU()]), cnn.Residual([cnn.Conv2d(2, 1)])]), *HEAD,
    ],
    "same twice": [cnn.Conv2d(2, 2), cnn.Concat([[], []]), *HEAD],
    "relu beside its input": [cnn.Conv2d(2, 2), cnn.Concat([cnn.ReLU(), []]), *HEAD],
    "two flattened": [
        cnn.Conv2d(2, 2), cnn.Concat([cnn.Flatten(), cnn.GlobalAvgPool2d()]), cnn.Affine(3)
    ],
    "first form": FIRST_FORM,
    "inverted": INVERTED,
}  # fmt: skip
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
    assert again.digest() == model.digest()
    assert again.scores(X).tobytes() == model.scores(X).tobytes()


@pytest.mark.parametrize("name", ["inception", "pooled", "first form"])
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
            found.add(model.digest())
    finally:
        _core.set_threads(0)
    assert len(found) == 1


@pytest.mark.parametrize("name", ["dense", "input second", "nested", "pool first"])
def test_parameters_have_the_same_gradients_without_the_inputs(name):
    """The input's gradient is then not made: a part of a concatenation has none."""
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


# Branches side by side.


def test_branches_stand_in_their_order():
    model = model_of([cnn.Flatten(), cnn.Concat([cnn.Affine(2), [], cnn.Affine(3)])], "float32")
    x = X.astype(np.float32)
    scores = model.scores(x)
    flat = x.reshape(12, -1)
    assert scores.shape == (12, 2 + 84 + 3)
    assert scores[:, 2:86].tobytes() == flat.tobytes()
    np.testing.assert_allclose(scores[:, :2], flat @ model["1.0.0.w"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores[:, 86:], flat @ model["1.2.0.w"], rtol=1e-4, atol=1e-5)


def test_paths_and_summary():
    model = model_of(INCEPTION)
    assert {"2.0.0.w", "2.1.0.b", "2.1.2.w", "2.2.project.w"} <= set(model.paths())
    assert model["2.1.2.w"].shape == (3, 3, 3, 2)
    assert model["3.gamma"].shape == (2 + 2 + 1 + 4,)
    row = next(line.split() for line in model.summary().splitlines() if "Concat" in line)
    assert row[:5] == ["2", "Concat", "(7,", "6,", "9)"]


def test_a_relu_behind_the_concatenation_counts_for_initialization():
    for after, factor in (((cnn.ReLU(),), 2), ((), 1)):
        branches = cnn.Concat([cnn.Affine(400), [cnn.BatchNorm(), cnn.Affine(400)]])
        model = model_of([cnn.Flatten(), branches, *after, cnn.Affine(3)])
        for path in ("1.0.0.w", "1.1.1.w"):
            assert model[path].var() == pytest.approx(factor / 84, rel=0.05)


def test_equal_branches_are_equal_whatever_they_were_written_in():
    layer = cnn.Affine(3)
    assert cnn.Concat([layer, []]) == cnn.Concat(([layer], ()))
    assert hash(cnn.Concat([layer, []])) == hash(cnn.Concat(((layer,), [])))


# Dropout.


def dropped(model, t):
    """What the net's first dropout layer gives in iteration t."""
    steps = model.stepping(X, Y, t)
    return next(results["y"].copy() for op, results in steps if op.op == "dropout")


def at_test(model):
    return model.activations(X, ["1"])["1"]


@pytest.mark.parametrize("net", [FIRST_FORM, INVERTED], ids=["first form", "inverted"])
def test_the_expectation_in_training_is_the_value_at_test_time(net):
    model = model_of(net)
    steps, keep = 600, 0.6
    test = at_test(model)
    mean = sum(dropped(model, t) for t in range(1, steps + 1)) / steps
    deviation = abs(test) * np.sqrt((1 - keep) / keep / steps)
    assert (abs(mean - test) <= 5 * deviation).all()
    assert not (abs(mean - 1.2 * test) <= 5 * deviation).all()


def test_both_forms_share_the_mask_and_differ_by_keep_prob():
    first, inverted = (dropped(model_of(net), 7) for net in (FIRST_FORM, INVERTED))
    kept = first != 0
    assert 0.5 < kept.mean() < 0.7
    assert (first[kept] == X.reshape(12, -1)[kept]).all()
    np.testing.assert_allclose(inverted * 0.6, first, rtol=1e-15)
    first, inverted = (at_test(model_of(net)) for net in (FIRST_FORM, INVERTED))
    np.testing.assert_allclose(inverted * 0.6, first, rtol=1e-15)


def test_predictions_scale_in_the_first_form_only():
    kernels = [op.kernel for op in model_of(FIRST_FORM).plan("scores").ops]
    assert kernels.count("scale_forward") == 2
    kernels = [op.kernel for op in model_of(INVERTED).plan("scores").ops]
    assert not {"scale_forward", "dropout_forward"} & set(kernels)


def test_a_numpy_bool_is_a_bool():
    layer = cnn.Dropout(0.5, np.bool_(False))
    assert config.from_json(config.to_json(layer)) == layer == cnn.Dropout(0.5, inverted=False)
    assert config.from_json({"type": "Dropout", "keep_prob": 0.5}) == cnn.Dropout(0.5)


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
    (lambda: cnn.Concat([]), ValueError, "at least two branches, not 0"),
    (lambda: cnn.Concat([[cnn.ReLU(), cnn.ReLU()]]), ValueError, "at least two branches, not 1"),
    (lambda: cnn.Concat(cnn.ReLU()), TypeError, "Concat must be a list of branches, not ReLU"),
    (lambda: cnn.Concat([[], "relu"]), TypeError, "Concat branch 1 must be a list of layers"),
    (lambda: cnn.Concat([[cnn.ReLU(), cnn.ReLU], []]), TypeError,
     r"Concat branch 0\[1\] must be a layer, not ReLU; write ReLU\(...\)"),
    (lambda: model_of([cnn.ReLU(), cnn.Concat([[], cnn.ReLU(), cnn.Conv2d(4, 3)])]), ValueError,
     r"layer '1' \(Concat\): branch 0 gives \(7, 6, 2\) an example, branch 2 \(5, 4, 4\)"),
    (lambda: model_of([cnn.Concat([[], cnn.Flatten()], name="join")]), ValueError,
     r"layer 'join' \(Concat\): branch 0 gives \(7, 6, 2\) an example, branch 1 \(84,\)"),
    (lambda: model_of([cnn.Concat([[], [cnn.ReLU(), cnn.Conv2d(4, 9)]])]), ValueError,
     r"layer '0\.1\.1' \(Conv2d\).*does not fit"),
    (lambda: cnn.ops.concat.forward(x0=X, x1=X[:, 1:]), ValueError, "x1 has shape"),
    (lambda: cnn.ops.concat.forward(x0=X[0], x1=X[0]), ValueError, "x0 has shape"),
    (lambda: cnn.ops.concat.backward(dy=X, x0=X, x1=X), ValueError, "dy has shape"),
    (lambda: cnn.Dropout(0.5, inverted=0), TypeError, "inverted must be True or False, not 0"),
    (lambda: cnn.Dropout(0.5, inverted=None), TypeError, "inverted must be True or False"),
    (lambda: cnn.ops.dropout.forward(x=X, keep_prob=0.5, inverted=2), TypeError, "inverted must"),
    (lambda: cnn.ops.scale.forward(x=X, factor=0), ValueError, "factor must lie in"),
    (lambda: cnn.ops.scale.forward(x=X, factor=1.5), ValueError, "factor must lie in"),
    (lambda: config.from_json({"type": "Concat", "branches": 3}), ValueError, "list of branches"),
    (lambda: config.from_json({"type": "Concat", "branches": [[], [3]]}), ValueError,
     r"branch 1\[0\] must be a layer"),
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
    ("concat_forward", {"x0": (2, 3), "x1": (2, 4), "y": (2, 7)}, {}, None),
    ("concat_forward", {"x0": (2, 3), "x1": (2, 4), "y": (2, 8)}, {}, "channels of x0 and x1"),
    ("concat_forward", {"x0": (2, 7), "x1": (2, 4), "y": (2, 7)}, {}, "x0 must"),
    ("concat_forward", {"x0": (2, 3), "x1": (3, 4), "y": (2, 7)}, {}, "x1 must"),
    ("concat_forward", {"x0": (2, 3), "y": (2, 7)}, {}, "x1 must"),
    ("concat_forward", {"x0": (2, 3), "x1": (2, 4), "y": (2, 1, 7)}, {}, "y must"),
    ("concat_backward", {"dy": (2, 7), "dx0": (2, 3)}, {}, None),
    ("concat_backward", {"dy": (2, 7), "dx1": (2, 3)}, {}, None),
    ("concat_backward", {"dy": (2, 7)}, {}, "dx0 or dx1"),
    ("concat_backward", {"dy": (2, 7), "dx0": (2, 0)}, {}, "dx0 must"),
    ("concat_backward", {"dy": (2, 7), "dx1": (2, 1, 3)}, {}, "dx1 must"),
    ("concat_backward", {"dy": (2, 7), "dx0": (2, 3), "dx1": (2, 3)}, {}, "dy must"),
    ("scale_forward", {"x": (2, 3), "y": (2, 3)}, {"factor": 1.0}, None),
    ("scale_forward", {"x": (2, 3), "y": (3, 2)}, {"factor": 1.0}, "shape of the input"),
    ("scale_backward", {"dy": (2, 3), "dx": (2, 3)}, {"factor": np.nan}, "factor must"),
    ("dropout_forward", {"x": (2, 3), "y": (2, 3)},
     {"keep_prob": 0.5, "ordinal": 0, "inverted": 2}, "inverted must"),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "shapes", "values", "words"), RECORDS)
def test_kernels_check_their_records(kernel, shapes, values, words):
    tensors = {name: (shape, "float32") for name, shape in shapes.items()}
    if words is None:
        _core.Record(kernel, "float32", "baseline", tensors, values)
    else:
        with pytest.raises(ValueError, match=words):
            _core.Record(kernel, "float32", "baseline", tensors, values)
