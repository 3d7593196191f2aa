"""Every kernel, on every instruction set of this machine, against its twin and its derivative."""

from __future__ import annotations

import numpy as np
import pytest

from cnncore import levels, ops, reference, selfcheck
from cnncore.plan import kernel_fields, signature

PROBLEMS = list(selfcheck.problems())
DIFFERENTIABLE = list(selfcheck.differentiable())
ISAS = levels.available()


@pytest.mark.parametrize("threads", selfcheck.THREADS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_kernel_equals_twin(problem, dtype, isa, threads):
    assert selfcheck.check(problem, dtype, isa, threads) <= 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("problem", DIFFERENTIABLE, ids=str)
def test_compiled_gradient_is_the_derivative_of_the_twin(problem, isa):
    assert selfcheck.check_gradient(problem, isa) <= 1


@pytest.mark.parametrize("problem", DIFFERENTIABLE, ids=str)
def test_twin_gradient_is_its_derivative(problem):
    given = selfcheck.arguments(problem, "float64")
    gradients, _ = selfcheck.expected(problem, given)
    assert selfcheck.gradient_error(problem, gradients) <= 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_same_bits_for_any_number_of_threads(problem, dtype, isa):
    given = selfcheck.arguments(problem, dtype)
    first = selfcheck.compute(problem, given, isa, 1)
    for threads in (2, 3, 8):
        again = selfcheck.compute(problem, given, isa, threads)
        for name, array in first.items():
            assert array.tobytes() == again[name].tobytes(), (name, threads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2, 5, 70])
def test_all_gradients_of_an_affine_layer_are_exact(isa, threads):
    """Three stages, some with fewer chunks than threads, which nobody waits between."""
    random = np.random.default_rng(0)
    shapes = {"x": (130, 100), "w": (100, 70), "dy": (130, 70)}
    x, w, dy = (random.integers(-3, 4, s).astype("float32") for s in shapes.values())
    b = np.zeros(70, "float32")
    got = ops.affine.backward(dy=dy, x=x, w=w, b=b, isa=isa, threads=threads)
    for name, want in {"dx": dy @ w.T, "dw": x.T @ dy, "db": dy.sum(0)}.items():
        np.testing.assert_array_equal(got[name], want, err_msg=name)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("n", "d", "m"), [(500, 2048, 1030), (4100, 2048, 128)])
def test_gradient_of_weights_whose_panels_read_much_is_exact(n, d, m, isa):
    """So much that x is copied also where vectors are wide, and summed in parts if the batch is
    long; sums of small whole numbers."""
    random = np.random.default_rng(0)
    x, dy = (random.integers(-3, 4, (n, size)).astype("float32") for size in (d, m))
    w = np.zeros((d, m), "float32")
    dw = ops.affine.backward(dy=dy, x=x, w=w, isa=isa)["dw"]
    np.testing.assert_array_equal(dw, x.T @ dy)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("d", "m"), [(515, 40), (2050, 330), (2050, 100)])
def test_sums_in_parts_are_exact_and_do_not_feel_the_batch(d, m, isa):
    """Two halves of a sum, also of a long one, and four parts: rows that are alone, of a minibatch,
    and of more than that, whose parts one chunk makes."""
    random = np.random.default_rng(0)
    x, w, b = (random.integers(-3, 4, s).astype("float32") for s in ((257, d), (d, m), (m,)))
    uneven = random.standard_normal(x.shape).astype("float32")
    many = ops.affine.forward(x=uneven, w=w, b=b, isa=isa)["y"]
    for n in (1, 2, 70, 257):
        y = ops.affine.forward(x=x[:n], w=w, b=b, isa=isa)["y"]
        np.testing.assert_array_equal(y, x[:n] @ w + b)
        few = ops.affine.forward(x=uneven[:n], w=w, b=b, isa=isa)["y"]
        assert few.tobytes() == many[:n].tobytes(), n


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
def test_gradient_of_inputs_has_the_same_bits_made_across_or_not(dtype, isa):
    """dx^T = w dy^T of few examples, dx = dy w^T of more."""
    random = np.random.default_rng(0)
    dy, x, w = (
        random.standard_normal(s).astype(dtype) for s in ((129, 1100), (129, 300), (300, 1100))
    )
    many = ops.affine.backward(dy=dy, x=x, w=w, isa=isa)["dx"]
    for n in (15, 16, 17, 31, 64, 79, 128):
        few = ops.affine.backward(dy=dy[:n], x=x[:n], w=w, isa=isa)["dx"]
        assert few.tobytes() == many[:n].tobytes(), n


@pytest.mark.parametrize("isa", ISAS)
def test_gradient_of_very_many_inputs_is_exact(isa):
    """Sums of small whole numbers, in the largest blocks."""
    random = np.random.default_rng(0)
    dy, w = (random.integers(-3, 4, s).astype("float32") for s in ((16, 128), (8200, 128)))
    dx = ops.affine.backward(dy=dy, x=np.zeros((16, 8200), "float32"), w=w, isa=isa)["dx"]
    np.testing.assert_array_equal(dx, dy @ w.T)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("c", "s", "k", "stride", "padding", "lying"),
    [
        (24, 5, 40, 1, 2, True),
        (40, 7, 70, 3, 5, True),
        (64, 3, 3, 1, 1, True),
        (64, 1, 33, 2, 0, True),
        (1, 64, 20, 4, 9, False),
        (24, 2, 90, 3, 0, False),
        (4, 60, 20, 1, 30, False),  # too long for columns of a filter side by side
    ],
)
def test_convolution_over_a_single_long_sequence_is_exact(c, s, k, stride, padding, lying, isa):
    """Cut into pieces, gradients of filters into parts; sums of small whole numbers."""
    random = np.random.default_rng(0)
    x, w = random.integers(-2, 3, (5003, c)), random.integers(-2, 3, (s, c, k))
    padded = np.pad(x, ((padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, s, axis=0)[::stride]
    dy = random.integers(-1, 2, (len(windows), k))
    dx = np.zeros_like(padded)
    for tap in range(s):
        dx[tap : tap + len(dy) * stride : stride] += dy @ w[tap].T
    wanted = {
        "y": np.einsum("qcs,sck->qk", windows, w, optimize=True),
        "dx": dx[padding : padding + len(x)],
        "dw": np.einsum("qcs,qk->sck", windows, dy, optimize=True),
        "db": dy.sum(axis=0),
    }
    x, w, dy = (array.astype("float32") for array in (x, w, dy))
    if lying:
        x, w, dy = x[None, None], w[None], dy[None, None]
    else:
        x, w, dy = x[None, :, None], w[:, None], dy[None, :, None]
    attributes = {
        "stride": (1, stride) if lying else (stride, 1),
        "padding": (0, padding) if lying else (padding, 0),
    }
    found = ops.conv2d.forward(x=x, w=w, isa=isa, **attributes)
    b = np.zeros(k, "float32")
    found |= ops.conv2d.backward(dy=dy, x=x, w=w, b=b, isa=isa, **attributes)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name].reshape(array.shape), array, err_msg=name)


def test_arguments_are_not_changed():
    for problem in PROBLEMS:
        given = selfcheck.arguments(problem, "float32")
        before = {name: array.copy() for name, array in given.items()}
        selfcheck.compute(problem, given, levels.DEFAULT, 2)
        for name, array in given.items():
            np.testing.assert_array_equal(array, before[name], err_msg=f"{problem} {name}")


# The harness itself must report faults. Each fault gets the right results and spoils them.


def _zero(a):
    a[...] = 0


def _last_untouched(a):
    a.reshape(-1)[-1] = np.nan


def _one_off(a):
    flat = a.reshape(-1)
    flat[len(flat) // 2] += 1e-2 * (1 + abs(flat[len(flat) // 2]))


def _shifted(a):
    flat = a.reshape(-1)
    flat[1:] = flat[:-1].copy()


FAULTS = [_zero, _last_untouched, _one_off, _shifted]
CORE = [p for p in PROBLEMS if p.case.smooth and p.function in ("forward", "backward", "update")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.parametrize("problem", CORE, ids=str)
def test_harness_reports_planted_faults(problem, fault):
    given = selfcheck.arguments(problem, "float32")
    wanted, bounds = selfcheck.expected(problem, given)
    results = {n: a.copy() for n, a in selfcheck.compute(problem, given, levels.DEFAULT, 1).items()}
    for name, array in results.items():
        if array.dtype.kind != "f" or name not in wanted:
            continue
        before = array.copy()
        fault(array)
        if not np.array_equal(before, array):
            assert not selfcheck.error(results, wanted, bounds, "float32") <= 1, name
        array[...] = before
    assert selfcheck.error(results, wanted, bounds, "float32") <= 1


@pytest.mark.parametrize("problem", DIFFERENTIABLE, ids=str)
def test_gradient_check_reports_a_zero_and_a_nan_backward(problem):
    gradients, _ = selfcheck.expected(problem, selfcheck.arguments(problem, "float64"))
    for name, gradient in gradients.items():
        absent = name[1:] not in problem.case.arrays
        if absent or not abs(gradient).max() > 1e-6:  # a derivative that is really zero
            continue
        assert not selfcheck.gradient_error(problem, {name: np.zeros_like(gradient)}) <= 1
        assert not selfcheck.gradient_error(problem, {name: np.full_like(gradient, np.nan)}) <= 1
        assert not selfcheck.gradient_error(problem, {name: gradient * 1.01}) <= 1


def test_harness_reports_a_write_beside_the_result():
    guarded = selfcheck.Guarded()
    array = guarded((3, 4), "float32")
    assert np.isnan(array).all()
    assert guarded.intact()
    array.base[selfcheck.GUARD - 1] = 0
    assert not guarded.intact()


# Tensors that only a fusion gives: moments for the batch normalization behind a convolution, and
# the gradient of a second reader.
ONLY_FUSED = {("conv2d", "forward"): {"mean", "var"}, ("relu", "backward"): {"dy1"}}


def test_kernels_and_twins_use_the_same_words():
    """A kernel's tensors and attributes are arguments or results of its twin (where another op can
    be fused into a backward pass, also of the forward one), and there is no kernel without a twin
    nor a twin without a kernel."""
    twins = {f"{op}_{f}" for op in reference.names() for f in reference.functions(op)}
    assert twins == set(kernel_fields())
    for op in reference.names():
        forward_results: set[str] = set()
        for function in reference.functions(op):
            problem = next(p for p in PROBLEMS if (p.op, p.function) == (op, function))
            results, _ = selfcheck.expected(problem, selfcheck.arguments(problem, "float64"))
            if function == "forward":
                forward_results = set(results)
            step = set(getattr(reference.op(op), "STEP", ()))
            fields = kernel_fields()[f"{op}_{function}"]
            words = set(signature(op, function)) | set(results) | {"target"}
            if function == "backward" and "fused" in fields.values():
                words |= set(signature(op, "forward")) | forward_results
            words |= ONLY_FUSED.get((op, function), set())
            for field, kind in fields.items():
                if kind != "fused":
                    assert field in words - step or op == "output", f"{op}_{function}: {field}"


def test_every_case_table_reaches_several_chunks_and_tails():
    assert len(PROBLEMS) >= 100
    assert len(DIFFERENTIABLE) >= 50


def test_relu_and_max_keep_nan():
    x = np.array([[np.nan, -1.0, 2.0]])
    assert np.isnan(ops.relu.forward(x=x)["y"][0, 0])
    image = np.full((1, 2, 2, 1), 3.0)
    for place in range(4):
        holed = image.copy()
        holed.reshape(-1)[place] = np.nan
        out = ops.max_pool2d.forward(x=holed, size=2)
        assert np.isnan(out["y"]).all()
        assert out["winner"].item() == place


def test_max_pool_of_minus_infinity_names_a_pixel_of_the_image():
    x = np.full((1, 3, 3, 2), -np.inf, np.float32)
    out = ops.max_pool2d.forward(x=x, size=3, stride=2, padding=1)
    want = reference.max_pool2d.forward(x=x, size=3, stride=2, padding=1)
    assert (out["y"] == -np.inf).all()
    np.testing.assert_array_equal(out["winner"], want["winner"])
    ops.max_pool2d.backward(dy=out["y"], x=x, winner=out["winner"], size=3, stride=2, padding=1)


def test_softmax_propagates_nan_and_survives_large_scores():
    loss = ops.softmax_cross_entropy.forward(
        x=np.array([[123.0, 456.0, 789.0]]), target=np.array([0])
    )["loss"]
    assert loss == pytest.approx(666.0)
    bad = ops.softmax_cross_entropy.forward(x=np.array([[np.nan, 0.0]]), target=np.array([0]))
    assert np.isnan(bad["loss"])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
def test_exponential_is_within_two_ulp(dtype, isa):
    """Through softmax of (x, 0) with x <= 0: prob[0] / prob[1] is exp(x) times the same scale."""
    x = -np.linspace(0, 80, 20001).astype(dtype)
    prob = ops.softmax.forward(x=np.stack([x, np.zeros_like(x)], axis=1), isa=isa)["y"]
    exact = np.exp(x.astype(np.longdouble))
    exact = exact / (1 + exact)
    ulps = abs(prob[:, 0] - exact) / np.spacing(exact.astype(dtype))
    assert ulps.max() <= 4  # two of exp, one of the scale, one of the product


# Exact values of the smooth activations in more precision, and the ulp that each promises.
ACTIVATIONS = {
    "elu": (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))), 2),  # that of expm1
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 3),
    "tanh": (np.tanh, 3),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activation_is_within_its_ulp(op, dtype, isa):
    """Over the whole range, and near 0, where a formula that subtracts from 1 would fail."""
    function, most = ACTIVATIONS[op]
    near = np.geomspace(1e-30, 1, 20001)
    x = np.concatenate([np.linspace(-80, 80, 40001), near, -near]).astype(dtype)
    y = getattr(ops, op).forward(x=x, isa=isa)["y"]
    exact = function(x.astype(np.longdouble))
    ulps = abs(y - exact) / np.spacing(abs(exact).astype(dtype))
    assert ulps.max() <= most


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activation_at_the_ends_and_of_nan(op, dtype, isa):
    """An infinite argument gives the limit and NaN gives NaN, both ways, in body and tail."""
    forward, backward = getattr(ops, op).forward, getattr(ops, op).backward
    low, high = {"elu": (-1, np.inf), "sigmoid": (0, 1), "tanh": (-1, 1)}[op]
    for count in (1, 3, 16, 19):
        x = np.full(count, 0.5, dtype)
        for value, limit in ((-np.inf, low), (np.inf, high), (np.nan, np.nan)):
            x[-1] = value
            y = forward(x=x, isa=isa)["y"]
            assert np.array_equal(y[-1], np.asarray(limit, dtype), equal_nan=True)
            assert np.isfinite(y[:-1]).all()
        dx = backward(dy=np.ones(count, dtype), y=y, isa=isa)["dx"]
        assert np.isnan(dx[-1])
        assert np.isfinite(dx[:-1]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("op", ACTIVATIONS)
def test_activation_does_not_depend_on_the_place(op, dtype, isa):
    forward, backward = getattr(ops, op).forward, getattr(ops, op).backward
    x = np.linspace(-3, 3, 41).astype(dtype)
    y = forward(x=x, isa=isa)["y"]
    dx = backward(dy=x, y=y, isa=isa)["dx"]
    for i in range(len(x)):
        one = slice(i, i + 1)
        assert forward(x=x[one], isa=isa)["y"].tobytes() == y[one].tobytes()
        assert backward(dy=x[one], y=y[one], isa=isa)["dx"].tobytes() == dx[one].tobytes()


# Ops that make each channel, the last axis of all their arrays, of that channel alone.
BY_CHANNEL = [
    *("add", "avg_pool2d", "batchnorm", "batchnorm_eval", "elu", "global_avg_pool2d", "leaky_relu"),
    *("max_pool2d", "relu", "running_average", "scale", "sigmoid", "tanh"),
]


def channels_of(problem) -> int:
    return min(a.shape[-1] for a in selfcheck.arguments(problem, "float32").values())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS if p.op in BY_CHANNEL and 1 < channels_of(p) < 100], ids=str
)
def test_a_channel_does_not_feel_those_beside_it(problem, dtype, isa):
    """Whether it stands in a whole vector or in a row's tail."""
    given = selfcheck.arguments(problem, dtype)
    whole = selfcheck.compute(problem, given, isa, 1)
    for count in range(1, channels_of(problem)):
        some = {name: np.ascontiguousarray(a[..., :count]) for name, a in given.items()}
        for name, array in selfcheck.compute(problem, some, isa, 1).items():
            assert array.tobytes() == whole[name][..., :count].tobytes(), (name, count)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 640), (5, 127), (13, 128), (70, 129), (100, 1100)])
def test_a_column_does_not_feel_those_beside_it(n, d, dtype, isa):
    """Whether they fill a vector, half a one, or less, and stay where they are or are packed."""
    random = np.random.RandomState(0)
    x, w, b = (random.standard_normal(shape).astype(dtype) for shape in ((n, d), (d, 130), 130))
    whole = ops.affine.forward(x=x, w=w, b=b, isa=isa)["y"]
    for m in [*range(17, 70), 100, 129]:
        some = np.ascontiguousarray(w[:, :m])
        y = ops.affine.forward(x=x, w=some, b=b[:m], isa=isa)["y"]
        assert y.tobytes() == np.ascontiguousarray(whole[:, :m]).tobytes(), m


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("d", [128, 256, 1792])
def test_gradients_of_a_long_batch_from_copies_are_exact(d, dtype, isa):
    """Inputs that share few sets of the caches, copied, also in parts of columns, and summed in
    parts. Small integers are exact."""
    random = np.random.RandomState(0)
    given = {"x": (600, d), "w": (d, 70), "dy": (600, 70)}
    given = {name: random.randint(-3, 4, shape).astype(dtype) for name, shape in given.items()}
    dw = ops.affine.backward(**given, isa=isa)["dw"]
    assert np.array_equal(dw, given["x"].T @ given["dy"])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize(
    ("shape", "r"), [((3, 5, 7, 6), 1), ((5, 12, 40, 3), 3), ((65, 2, 3, 7), 2)]
)
def test_gradients_of_filters_that_fill_no_vector_are_exact(shape, r, dtype, isa):
    """Also of the last pixel, behind which there are none. Small integers are exact."""
    random = np.random.RandomState(0)
    n, h, w, c = shape
    for k in [*range(5, 37), 50, 100]:
        result = (n, h - r + 1, w - r + 1, k)
        given = {
            "dy": random.randint(-3, 4, result).astype(dtype),
            "x": random.randint(-3, 4, shape).astype(dtype),
            "w": np.zeros((r, r, c, k), dtype),
        }
        dw = ops.conv2d.backward(**given, isa=isa)["dw"]
        exact = reference.conv2d.backward(**given)["dw"]
        assert dw.tobytes() == (exact + 0.0).astype(dtype).tobytes(), k


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("kept", selfcheck.DTYPES)
@pytest.mark.parametrize("length", [5, 64, 131])
def test_data_of_either_precision_enter_a_net_of_either(length, kept, dtype, isa):
    data = np.random.default_rng(0).standard_normal((4, length)).astype(kept)
    mean = np.zeros(1, dtype)
    x = ops.gather.forward(data=data, index=[2, 0], mean=mean, classes=1, isa=isa)["x"]
    assert x.tobytes() == data[[2, 0]].astype(dtype).tobytes()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("kept", ["float32", "float64", "uint8"])
@pytest.mark.parametrize("length", [511, 512, 1030, 4200])
def test_long_examples_arrive_whole_whatever_parts_they_come_in(length, kept, dtype, isa):
    random = np.random.default_rng(0)
    data, index = random.integers(0, 256, (90, length)).astype(kept), random.integers(0, 90, 75)
    labels, mean = np.arange(90), random.integers(0, 9, length).astype(dtype)
    given = {"data": data, "labels": labels, "index": index, "mean": mean, "classes": 90}
    got = ops.gather.forward(**given, isa=isa)
    values = data[index].astype(dtype) / np.array(255 if kept == "uint8" else 1, dtype)
    assert np.array_equal(got["x"], values - mean)
    assert np.array_equal(got["target"], index)
    for bad in (-1, 90):
        with pytest.raises(IndexError, match="outside the data"):
            ops.gather.forward(**given | {"index": np.append(index, bad)}, isa=isa)
    if kept != "uint8":
        data[index[-1], -1] = np.nan
        with pytest.raises(ValueError, match="NaN or infinity"):
            ops.gather.forward(**given, isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_is_found_wherever_it_stands(bad, dtype, isa):
    mean, loss = np.zeros(1, dtype), np.array(1.0)
    values = {kept: np.ones((1, 147), kept) for kept in selfcheck.DTYPES}
    ops.guard.forward(loss=loss, dw=values[dtype][0], isa=isa)
    for place in range(147):
        for array in values.values():
            array[0, place] = bad
            with pytest.raises(ValueError, match="NaN or infinity"):
                ops.gather.forward(data=array, index=[0], mean=mean, classes=1, isa=isa)
        with pytest.raises(FloatingPointError, match="gradient is not finite"):
            ops.guard.forward(loss=loss, dw=values[dtype][0], isa=isa)
        for array in values.values():
            array[0, place] = 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
def test_every_byte_becomes_its_255th_correctly_rounded(dtype, isa):
    data = np.arange(256, dtype=np.uint8).reshape(2, 128)
    like = np.zeros(1, dtype)
    for repeat in (1, 3):  # whole vectors, and a rest
        x = ops.gather.forward(
            data=data[:, ::repeat], index=np.arange(2), mean=like, classes=1, isa=isa
        )["x"]
        assert np.array_equal(x, data[:, ::repeat].astype(dtype) / np.dtype(dtype).type(255))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
@pytest.mark.parametrize("rule", ["adagrad", "adam", "momentum", "nesterov", "rmsprop", "sgd"])
def test_an_update_does_not_feel_the_parameters_beside_it(rule, dtype, isa):
    update = getattr(ops, rule).update
    random = np.random.default_rng(0)
    names = {"w", "dw", "v", "m", "cache"} & set(signature(rule, "update"))
    given = {name: random.random(41).astype(dtype) for name in sorted(names)}

    def first(count: int) -> dict[str, np.ndarray]:
        segments = np.array([[0, count, 0.1]])
        some = {name: a[:count].copy() for name, a in given.items()}
        step = {"lr": 0.1, "t": 3} if rule == "adam" else {"lr": 0.1}
        return update(segments=segments, isa=isa, **some, **step)

    whole = first(41)
    for count in range(1, 41):
        for name, array in first(count).items():
            assert array.tobytes() == whole[name][:count].tobytes(), (name, count)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", selfcheck.DTYPES)
def test_maxout_ties_nan_and_a_wrong_winner(dtype, isa):
    """Columns: a tie, one NaN in the middle, two NaN, minus infinity everywhere; then a tail."""
    nan, inf = np.nan, np.inf
    columns = [[2, 2, 1], [5, nan, 7], [0, nan, nan], [-inf, -inf, -inf]] + 15 * [[1, 2, 3]]
    x = np.array(columns, dtype).T.reshape(1, -1)
    out = ops.maxout.forward(x=x, pieces=3, isa=isa)
    np.testing.assert_array_equal(out["y"], [[2, nan, nan, -inf] + 15 * [3]])
    assert out["winner"].tolist() == [[0, 1, 1, 0] + 15 * [2]]
    twin = reference.maxout.forward(x=x, pieces=3)
    assert out["winner"].tobytes() == twin["winner"].tobytes()
    wild = np.full_like(out["winner"], 65535)
    dx = ops.maxout.backward(dy=out["y"], winner=wild, pieces=3, isa=isa)["dx"]
    assert (dx == 0).all()


def test_denormals_are_zero_by_contract():
    tiny = np.full((2, 40), np.finfo(np.float32).tiny / 4, np.float32)
    assert (ops.add.forward(x0=tiny, x1=tiny)["y"] == 0).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 70])
def test_pixels_that_1x1_filters_skip(isa, threads):
    """Many filters, so that an image's gradient is made in several blocks of rows; sums of small
    integers are exact."""
    random = np.random.default_rng(0)
    shapes = {"x": (2, 11, 10, 67), "w": (1, 1, 67, 2500), "dy": (2, 4, 5, 2500)}
    arrays = {n: random.integers(-2, 3, s).astype(np.float32) for n, s in shapes.items()}
    got = ops.conv2d.backward(**arrays, stride=(3, 2), isa=isa, threads=threads)
    wanted = reference.op("conv2d").backward(**arrays, stride=(3, 2))
    for name in ("dx", "dw"):
        np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)
