"""The course's formulas once more, in other words than the twins', which have to agree."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cnn
from cnncore import reference
from cnncore.reference import philox

EPS = 1e-5


def agree(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * abs(np.asarray(wanted)).max())


# Batch normalization backward, in three stages of simplification.


def node_by_node(dy, x, gamma):
    """The graph of the forward pass, each node with its own derivative, from the last to the
    first."""
    n = len(x)
    mean = x.sum(axis=0) / n
    centred = x - mean
    squares = centred * centred
    var = squares.sum(axis=0) / n
    std = np.sqrt(var + EPS)
    inverse = 1 / std
    xhat = centred * inverse
    # y = gamma * xhat + beta
    dbeta = dy.sum(axis=0)
    dgamma = (dy * xhat).sum(axis=0)
    dxhat = dy * gamma
    # xhat = centred * inverse: the first of two ways to centred
    dinverse = (dxhat * centred).sum(axis=0)
    dcentred = dxhat * inverse
    dstd = -dinverse / std**2
    dvar = dstd / (2 * std)
    dsquares = np.ones_like(x) * dvar / n
    dcentred = dcentred + 2 * centred * dsquares
    # centred = x - mean
    dmean = -dcentred.sum(axis=0)
    dx = dcentred + np.ones_like(x) * dmean / n
    return {"dx": dx, "dgamma": dgamma, "dbeta": dbeta}


def by_var_and_mean(dy, x, gamma):
    """The chain rule by way of var and mean, as the paper has it."""
    n, mean, var = len(x), x.mean(axis=0), x.var(axis=0)
    dxhat = dy * gamma
    dvar = -0.5 * (var + EPS) ** -1.5 * np.einsum("nd,nd->d", dxhat, x - mean)
    dmean = -((var + EPS) ** -0.5) * dxhat.sum(axis=0) + dvar * (-2 * (x - mean)).sum(axis=0) / n
    return {"dx": dxhat * (var + EPS) ** -0.5 + dvar * 2 * (x - mean) / n + dmean / n}


def closed_form(dy, x, gamma):
    """All of it in one line: the part of dy across the ones and xhat, scaled."""
    n = len(x)
    xhat = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + EPS)
    across = n * dy - dy.sum(axis=0) - xhat * (dy * xhat).sum(axis=0)
    return {"dx": gamma / (n * np.sqrt(x.var(axis=0) + EPS)) * across}


@pytest.mark.parametrize("formula", [node_by_node, by_var_and_mean, closed_form])
@pytest.mark.parametrize("shape", [(4, 5), (200, 7), (3, 4, 5, 6)])
def test_batch_norm_backward(formula, shape):
    random = np.random.RandomState(0)
    x, dy = 3 + 2 * random.standard_normal(shape), random.standard_normal(shape)
    gamma = random.standard_normal(shape[-1])
    twin = reference.op("batchnorm")
    made = twin.forward(x=x, gamma=gamma, beta=gamma, eps=EPS)
    wanted = twin.backward(dy=dy, x=x, gamma=gamma, mean=made["mean"], var=made["var"], eps=EPS)
    rows = (-1, shape[-1])
    for name, found in formula(dy.reshape(rows), x.reshape(rows), gamma).items():
        agree(found, wanted[name].reshape(found.shape))


# Randomness.


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_words_that_its_authors_published(counter, key, words):
    """The known answers of Random123, Salmon et al.'s own implementation."""
    c0, c1, c2, c3 = counter
    block, t = c0 | (c1 & 0xFFFF) << 32, c2 | (c1 >> 16) << 32
    seed = key[0] | key[1] << 32
    found = philox.words(seed, np.array([block], np.uint64), t, c3 >> 24, c3 & 0xFFFFFF)
    assert " ".join(f"{word:08x}" for word in found[0]) == words


def test_shuffling_is_fair():
    """Each number comes to each place equally often: chi-squared within six deviations."""
    count, epochs = 7, 4000
    seen = np.zeros((count, count))
    for t in range(1, epochs + 1):
        seen[np.arange(count), reference.op("shuffle").forward(count, seed=3, t=t)["order"]] += 1
    chi_squared = ((seen - epochs / count) ** 2 / (epochs / count)).sum()
    freedom = (count - 1) ** 2
    assert abs(chi_squared - freedom) < 6 * np.sqrt(2 * freedom)


# Dropout in its two forms.


def test_both_forms_of_dropout_have_the_test_time_value_as_their_mean():
    twin, scale = reference.op("dropout"), reference.op("scale")
    random = np.random.RandomState(0)
    x, dy = np.linspace(-0.4, 0.6, 20).reshape(4, 5), random.standard_normal((4, 5))
    steps, keep = 1500, 0.3
    sums = dict.fromkeys(("ours", "theirs", "dx", "inverted", "first"), 0.0)
    for t in range(1, steps + 1):
        inverted = twin.forward(x=x, keep_prob=keep, seed=5, t=t)["y"]
        first = twin.forward(x=x, keep_prob=keep, inverted=False, seed=5, t=t)["y"]
        kept = first != 0
        agree(first, x * kept)
        agree(inverted, x * kept / keep)
        dx = twin.backward(dy=dy, keep_prob=keep, seed=5, t=t)["dx"]
        agree(dx, dy * kept / keep)
        mask = random.random_sample(x.shape) < keep
        step = {"ours": x * mask / keep, "theirs": x * mask, "dx": dx}
        step |= {"inverted": inverted, "first": first}
        for name, value in step.items():
            sums[name] = sums[name] + value
    deviation = np.sqrt((1 - keep) / keep / steps)
    at_test = {
        "ours": x, "theirs": keep * x, "dx": dy, "inverted": x,
        "first": scale.forward(x=x, factor=keep)["y"],
    }  # fmt: skip
    for name, wanted in at_test.items():
        assert (abs(sums[name] / steps - wanted) <= 5 * deviation * abs(wanted)).all(), name


# Initial weights.


@pytest.mark.parametrize(
    ("shape", "fan_in", "fan_out"), [((300, 500), 300, 500), ((3, 5, 32, 64), 480, 960)]
)
def test_initializations_have_their_variances(shape, fan_in, fan_out):
    for name, variance in {
        "gaussian": 0.01**2, "lecun": 1 / fan_in, "glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in
    }.items():  # fmt: skip
        drawn = cnn.init.NAMES[name].draw(0, "path", shape)
        # The variance of n gaussians is known to sqrt(2 / n) of itself.
        assert drawn.var() == pytest.approx(variance, rel=5 * np.sqrt(2 / drawn.size))
        assert abs(drawn.mean()) < 5 * np.sqrt(variance / drawn.size)
        if len(shape) == 2:
            model = cnn.Model([cnn.Affine(shape[1], init=name)], shape[:1])
        else:
            net = [cnn.Conv2d(64, (3, 5), init=name), cnn.GlobalAvgPool2d()]
            model = cnn.Model(net, (8, 8, 32))
        assert model["0.w"].var() == pytest.approx(variance, rel=0.05)
        assert not model["0.b"].any()


# Update rules over several steps, the state of each written as a sum over the past.

STEPS = 6
W = np.linspace(-0.4, 0.6, 20).reshape(4, 5)
# A gradient that turns in some places and stays in others.
DW = [np.linspace(-0.6, 0.4, 20).reshape(4, 5) * np.cos(0.7 * t) + 0.1 for t in range(STEPS)]
LR = [0.1, 0.1, 0.05, 0.05, 0.02, 0.02]


def faded(by, values):
    """The sum of values, each faded by a factor for every step since it came."""
    last = len(values) - 1
    return sum(by ** (last - age) * value for age, value in enumerate(values))


def sgd(lr, g):
    return -lr[-1] * g[-1]


def momentum(lr, g):
    return -faded(0.9, [rate * gradient for rate, gradient in zip(lr, g, strict=True)])


def nesterov(lr, g):
    """Where momentum would go on to, from where it went on to before."""
    before = momentum(lr[:-1], g[:-1]) if len(g) > 1 else 0.0
    now = momentum(lr, g)
    return now + 0.9 * now - 0.9 * before


def adagrad(lr, g):
    return -lr[-1] * g[-1] / (np.linalg.norm(g, axis=0) + 1e-8)


def rmsprop(lr, g):
    return -lr[-1] * g[-1] / (np.sqrt(0.01 * faded(0.99, np.square(g))) + 1e-8)


def adam(lr, g):
    """Of both moments the weighted mean over the past, since 1 - beta^t sums the weights."""
    first, second = (
        faded(beta, values) / faded(beta, np.ones(len(g)))
        for beta, values in ((0.9, np.array(g)), (0.999, np.square(g)))
    )
    return -lr[-1] * first / (np.sqrt(second) + 1e-8)


@pytest.mark.parametrize("compiled", [False, True], ids=["twin", "compiled"])
@pytest.mark.parametrize(
    ("formula", "rule"),
    [
        (sgd, cnn.SGD()), (momentum, cnn.Momentum()), (nesterov, cnn.Nesterov()),
        (adagrad, cnn.AdaGrad()), (rmsprop, cnn.RMSProp()), (adam, cnn.Adam()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_update_rule_over_several_steps(formula, rule, compiled):
    assert formula.__name__ == rule.op
    update = (getattr(cnn.ops, rule.op) if compiled else reference.op(rule.op)).update
    arrays = {"w": W.reshape(-1), **{name: np.zeros(20) for name in rule.states}}
    w = W
    for t in range(1, STEPS + 1):
        more = rule.attributes() | ({"t": t} if rule.op == "adam" else {})
        arrays = update(
            dw=DW[t - 1].reshape(-1), segments=np.array([[0.0, 20, 0.0]]), lr=LR[t - 1],
            **arrays, **more,
        )  # fmt: skip
        w = w + formula(LR[:t], DW[:t])
        agree(arrays["w"].reshape(4, 5), w)
        assert abs(w - W).max() > 1e-3
