"""The update rules: the course's formulas on the course's small grids, and what tells its
conventions from others'."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import cnncore as cnn

SHAPE = (4, 5)
SEGMENTS = np.array([[0.0, 20, 0.0]])
RULES = [
    cnn.SGD(0.1), cnn.Momentum(0.02), cnn.Nesterov(0.02), cnn.AdaGrad(0.02), cnn.RMSProp(2e-3),
    cnn.Adam(2e-3),
]  # fmt: skip
EACH_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.op)


def grid(first, last):
    """Evenly spaced values: what assignment 2 of the course feeds its rules with."""
    return np.linspace(first, last, 20).reshape(SHAPE)


W, DW = grid(-0.4, 0.6), grid(-0.6, 0.4)


def apply(rule, w, dw, lr, segments=None, **more):
    """One step of a compiled rule on arrays of any shape."""
    w, dw = np.asarray(w, np.float64), np.asarray(dw, np.float64)
    table = np.array([[0.0, w.size, 0.0]]) if segments is None else segments
    flat = {n: a.reshape(-1) if isinstance(a, np.ndarray) else a for n, a in more.items()}
    out = getattr(cnn.ops, rule).update(
        w=w.reshape(-1), dw=dw.reshape(-1), segments=table, lr=lr, **flat
    )
    return {name: array.reshape(w.shape) for name, array in out.items()}


def same(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=1e-13, atol=1e-15)


# The draft behind this library lost signs and characters in print. Each test has the right formula
# and, beside it, what was printed.


def test_sgd_goes_down():
    got = apply("sgd", W, DW, 1e-2)["w"]
    same(got, W - 1e-2 * DW)
    printed = W + 1e-2 * DW
    assert got[0, 0] == pytest.approx(-0.394)
    assert printed[0, 0] == pytest.approx(-0.406)


def test_momentum_keeps_rate_and_sign_in_the_velocity():
    v = grid(0.6, 0.9)
    got = apply("momentum", W, DW, 1e-3, v=v, mu=0.9)
    velocity = 0.9 * v - 1e-3 * DW
    same(got["v"], velocity)
    same(got["w"], W + velocity)
    assert got["v"][0, 0] == pytest.approx(0.5406)
    assert got["w"][0, 0] == pytest.approx(0.1406)


def test_nesterov_on_the_grid():
    v = grid(0.6, 0.9)
    got = apply("nesterov", W, DW, 1e-3, v=v, mu=0.9)
    velocity = 0.9 * v - 1e-3 * DW
    same(got["v"], velocity)
    same(got["w"], W - 0.9 * v + (1 + 0.9) * velocity)
    # w = -0.4 - 0.54 + 1.9 * 0.5406
    assert got["w"][0, 0] == pytest.approx(0.08714)


def test_adagrad_on_the_grid():
    cache = grid(0.6, 0.9)
    got = apply("adagrad", W, DW, 1e-2, cache=cache)
    total = cache + DW**2
    same(got["cache"], total)
    same(got["w"], W - 1e-2 * DW / (np.sqrt(total) + 1e-8))
    assert got["cache"][0, 0] == pytest.approx(0.96)


def test_rmsprop_replaces_the_cache_and_does_not_add_to_it():
    """The draft prints `cache += decay cache + ...`: 0.6 + 0.594 + 0.0036 in the first place."""
    cache = grid(0.6, 0.9)
    got = apply("rmsprop", W, DW, 1e-2, cache=cache, decay=0.99)
    average = 0.99 * cache + (1 - 0.99) * DW**2
    printed = cache + average
    assert average[0, 0] == pytest.approx(0.5976)
    assert printed[0, 0] == pytest.approx(1.1976)
    same(got["cache"], average)
    same(got["w"], W - 1e-2 * DW / (np.sqrt(average) + 1e-8))
    step, wrong = got["w"] - W, -1e-2 * DW / (np.sqrt(printed) + 1e-8)
    assert (abs(step) > 1.4 * abs(wrong)).all()


def test_rmsprop_forgets_and_adagrad_does_not():
    """Under a constant gradient of 3 the cache goes to 9, or grows by 9 a step."""
    average = total = np.zeros(1)
    for _ in range(1000):
        average = apply("rmsprop", [0], [3], 0.1, cache=average, decay=0.9)["cache"]
        total = apply("adagrad", [0], [3], 0.1, cache=total)["cache"]
    assert average[0] == pytest.approx(9)
    assert total[0] == pytest.approx(9000)


def test_adam_on_the_grid():
    """The course stores t = 5 and increments it before use, so its step is our step 6."""
    m, v = grid(0.6, 0.9), grid(0.7, 0.5)
    got = apply("adam", W, DW, 1e-2, m=m, v=v, t=6)
    first = 0.9 * m + (1 - 0.9) * DW
    second = 0.999 * v + (1 - 0.999) * DW**2
    same(got["m"], first)
    same(got["v"], second)
    assert got["m"][0, 0] == pytest.approx(0.48)
    assert got["v"][0, 0] == pytest.approx(0.69966)

    def moved(t):
        return W - 1e-2 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)

    same(got["w"], moved(6))
    assert (abs(got["w"] - moved(5)) > 1e-5).all()


def test_defaults_are_the_course_s():
    assert cnn.SGD().lr == 1e-2
    assert cnn.Momentum().attributes() == cnn.Nesterov().attributes() == {"mu": 0.9}
    assert cnn.AdaGrad() == cnn.AdaGrad(lr=1e-2, eps=1e-8)
    assert cnn.RMSProp() == cnn.RMSProp(lr=1e-2, decay=0.99, eps=1e-8)
    assert cnn.Adam() == cnn.Adam(lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8)
    assert cnn.BatchNorm().eps == 1e-5


@pytest.mark.parametrize("rule", [cnn.AdaGrad, cnn.RMSProp, cnn.Adam])
@pytest.mark.parametrize("printed", [1e7, 1e8])
def test_an_epsilon_that_lost_its_minus_sign_is_refused(rule, printed):
    with pytest.raises(ValueError, match="eps must lie in"):
        rule(eps=printed)


# Conventions.


@pytest.mark.parametrize(
    ("rule", "states", "scale"),
    [
        ("adagrad", ("cache",), 1.0),
        ("rmsprop", ("cache",), 1 - 0.99),
        ("adam", ("m", "v"), 1.0),  # on the first step its correction undoes 1 - beta
    ],
)
def test_epsilon_stands_outside_the_root(rule, states, scale):
    """For a gradient of 1e-4 and eps = 1e-2 the two places differ by a factor of nearly 10."""
    g, eps, lr = 1e-4, 1e-2, 1.0
    zero = {name: np.zeros(1) for name in states}
    more = {"t": 1} if rule == "adam" else {}
    step = -apply(rule, [0.0], [g], lr, eps=eps, **zero, **more)["w"][0]
    mean = scale * g**2
    assert step == pytest.approx(lr * g / (np.sqrt(mean) + eps))
    inside = lr * g / np.sqrt(mean + eps)
    assert step > 9 * inside


@pytest.mark.parametrize(("rule", "states"), [("adagrad", ("cache",)), ("rmsprop", ("cache",))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_parameter_without_gradient_stays(rule, states, dtype):
    zero = np.zeros(20, dtype)
    w = W.reshape(-1).astype(dtype)
    caches = dict.fromkeys(states, zero)
    out = getattr(cnn.ops, rule).update(w=w, dw=zero, segments=SEGMENTS, lr=0.1, **caches)
    assert out["w"].tobytes() == w.tobytes()
    assert not out["cache"].any()


@pytest.mark.parametrize("rule", ["adagrad", "rmsprop"])
def test_the_first_step_depends_on_the_gradient_s_sign_alone(rule):
    """lr for AdaGrad; for RMSProp, which corrects no bias, ten times that: 1 / sqrt(1 - 0.99)."""
    g = np.array([1e-3, -7.0, 400.0, 0.0])
    step = -apply(rule, np.zeros(4), g, 0.01, cache=np.zeros(4))["w"]
    wanted = {"adagrad": 0.01, "rmsprop": 0.1}[rule] * np.sign(g)
    np.testing.assert_allclose(step, wanted, rtol=2e-4)


def test_adam_on_the_first_step_moves_by_lr():
    zeros = np.zeros(3)
    out = apply("adam", zeros, [5.0, -0.01, 0.0], 0.1, m=zeros, v=zeros, t=1)
    np.testing.assert_allclose(out["w"], [-0.1, 0.1, 0], rtol=1e-5)


def test_a_solver_counts_t_from_one():
    """Its Adam steps are those of the formula with t = 1, 2, 3. From 0, 1 - beta^t would be 0 at
    the first step; from 2, that step would be 0.74 lr."""
    model = cnn.Model([cnn.Affine(3)], (4,), dtype="float64")
    random = np.random.RandomState(0)
    x, y = random.standard_normal((8, 4)), random.randint(0, 3, 8)
    solver = cnn.Solver(model, update=cnn.Adam(0.01), batch_size=8)
    w = model.parameters.copy()
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in (1, 2, 3):
        _, g = model.loss_and_gradients(x, y)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        solver.step(x, y)
        np.testing.assert_allclose(model.parameters, w, rtol=1e-12)


def test_nesterov_is_momentum_with_the_gradient_at_the_look_ahead_point():
    """The textbook's x and v, and ours, whose w is x + mu v. On 0.5 w A w - b w, whose gradient
    depends on the place."""
    random = np.random.RandomState(0)
    root = random.standard_normal((6, 6))
    a, b = root @ root.T / 6, random.standard_normal(6)
    lr, mu = 0.1, 0.9
    w = x = random.standard_normal(6)
    v = ours = heavy_v = np.zeros(6)
    heavy = x
    for _ in range(25):
        v = mu * v - lr * (a @ (x + mu * v) - b)
        x = x + v
        out = apply("nesterov", w, a @ w - b, lr, v=ours, mu=mu)
        w, ours = out["w"], out["v"]
        out = apply("momentum", heavy, a @ heavy - b, lr, v=heavy_v, mu=mu)
        heavy, heavy_v = out["w"], out["v"]
        np.testing.assert_allclose(ours, v, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(w, x + mu * v, rtol=1e-10, atol=1e-13)
    assert abs(w - heavy).max() > 0.01


def test_nesterov_without_momentum_is_sgd():
    got = apply("nesterov", W, DW, 0.1, v=np.zeros(SHAPE), mu=0.0)
    same(got["w"], apply("sgd", W, DW, 0.1)["w"])


@pytest.mark.parametrize(
    ("rule", "ours", "theirs"), [("momentum", -0.2, -0.119), ("nesterov", -0.29, -0.2171)]
)
def test_the_velocity_holds_the_learning_rate(rule, ours, theirs):
    """Gradient 1, lr 0.1 and then 0.01. In PyTorch lr multiplies the velocity outside, so that a
    change acts at once; here it acts on what comes into the velocity."""
    w = v = np.zeros(1)
    buffer, other = 0.0, 0.0
    for lr in (0.1, 0.01):
        out = apply(rule, w, [1.0], lr, v=v, mu=0.9)
        w, v = out["w"], out["v"]
        buffer = 0.9 * buffer + 1.0
        other -= lr * (1.0 + 0.9 * buffer if rule == "nesterov" else buffer)
    assert w[0] == pytest.approx(ours)
    assert other == pytest.approx(theirs)


@EACH_RULE
def test_the_penalty_s_gradient_goes_through_the_rule(rule):
    """Coupled L2: the rule sees dw + l2 w where a segment has l2, dw elsewhere, and changes
    nothing between segments."""
    states = {name: grid(0.5, 0.7).reshape(-1) for name in rule.states}
    segments = np.array([[0.0, 7, 0.5], [9, 11, 0.0]])
    g = DW.reshape(-1).copy()
    g[:7] += 0.5 * W.reshape(-1)[:7]
    more = rule.attributes() | ({"t": 2} if rule.op == "adam" else {})
    got = apply(rule.op, W.reshape(-1), DW.reshape(-1), 0.1, segments, **states, **more)
    wanted = apply(rule.op, W.reshape(-1), g, 0.1, **states, **more)
    for name, array in got.items():
        before = states.get(name, W.reshape(-1))
        same(np.delete(array, [7, 8]), np.delete(wanted[name], [7, 8]))
        assert (array[7:9] == before[7:9]).all()
        assert (np.delete(array, [7, 8]) != np.delete(before, [7, 8])).all()


@pytest.mark.parametrize("size", [1, 8192, 8193, 131072, 300_001])
def test_every_element_of_a_segment_is_updated_once(size):
    """Wherever segments begin and end, and however short they are."""
    random = np.random.RandomState(size)
    cuts = np.unique(np.append(random.randint(0, size + 1, 80), [0, size]))
    pairs = list(itertools.pairwise(cuts))
    segments = np.array([[a, b - a, 0.0] for a, b in pairs[::2]] + [[size, 0, 0.0]])
    want = np.zeros(size, "float32")
    for offset, length, _ in segments.astype(int):
        want[offset : offset + length] = -1
    ones = np.ones(size, "float32")
    got = cnn.ops.sgd.update(w=np.zeros(size, "float32"), dw=ones, segments=segments, lr=1.0)["w"]
    assert np.array_equal(got, want)


# In training.


@EACH_RULE
def test_every_rule_lowers_the_loss(rule):
    digits = cnn.data.digits()
    net = [cnn.Conv2d(8, 3), cnn.ReLU(), cnn.MaxPool2d(2), cnn.Flatten(), cnn.Affine(10)]
    model = cnn.Model(net, (8, 8, 1), regularization=cnn.L2(1e-4))
    train = digits.x_train, digits.y_train
    before = model.evaluate(*train)["loss"]
    cnn.Solver(model, train, update=rule, batch_size=50, num_epochs=4).train()
    assert model.evaluate(*train)["loss"] < 0.5 * before


@EACH_RULE
def test_any_number_of_threads_gives_the_same_bits(rule):
    digits = cnn.data.digits()
    net = cnn.Sequential([cnn.Flatten(), cnn.Affine(500), cnn.ReLU(), cnn.Affine(10)])
    found = set()
    try:
        for threads in (1, 3):
            cnn.set_num_threads(threads)
            model = cnn.Model(net, (8, 8, 1), regularization=cnn.L2(1e-3))
            train = digits.x_train, digits.y_train
            cnn.Solver(model, train, update=rule, batch_size=50, num_iterations=20).train()
            found.add(model.digest())
    finally:
        cnn._core.set_threads(0)
    assert len(found) == 1
