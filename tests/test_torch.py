"""Training beside PyTorch: from the same weights and batches the losses stay together, and where a
convention differs, the difference is what our documentation says it is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import cnncore as cnn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what it says while it is imported is not ours
    torch = pytest.importorskip("torch")

L2 = 1e-2
STEPS, BATCH = 50, 32

# A rule, and the optimizer of PyTorch that is the same one as long as lr is constant.
RULES = {
    "sgd": (cnn.SGD(0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (cnn.Momentum(0.01, mu=0.9), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
    "nesterov": (
        cnn.Nesterov(0.01, mu=0.9),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    ),
    "adagrad": (cnn.AdaGrad(0.01), lambda p: torch.optim.Adagrad(p, lr=0.01, eps=1e-8)),
    "rmsprop": (cnn.RMSProp(1e-3), lambda p: torch.optim.RMSprop(p, lr=1e-3, alpha=0.99, eps=1e-8)),
    "adam": (cnn.Adam(3e-3), lambda p: torch.optim.Adam(p, lr=3e-3, eps=1e-8)),
}


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch's threads would fight with ours over few cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(dtype):
    """The same net twice, with the same weights, in each library's own layout.

    In float32 it has no ReLU and no pooling: among the many values of 50 steps some come so near a
    kink that rounding decides on which side they lie, and one of them may change a loss by more
    than all rounding together. BatchNorm alone keeps it from being linear."""
    kinks = dtype == "float64"
    stride = 1 if kinks else 2
    act = [cnn.ReLU()] if kinks else []
    pool = [cnn.MaxPool2d(2)] if kinks else []
    net = [
        cnn.Conv2d(8, 3, stride, padding=1, name="conv1"), cnn.BatchNorm(name="norm1"), *act, *pool,
        cnn.Conv2d(12, 3, name="conv2"), cnn.BatchNorm(name="norm2"), *act,
        cnn.Flatten(), cnn.Affine(10, name="affine"),
    ]  # fmt: skip
    ours = cnn.Model(net, (8, 8, 1), regularization=cnn.L2(L2), dtype=dtype, seed=3)
    nn = torch.nn
    theirs = nn.Sequential()
    theirs.add_module("conv1", nn.Conv2d(1, 8, 3, stride, padding=1))
    theirs.add_module("norm1", nn.BatchNorm2d(8))
    if kinks:
        theirs.extend([nn.ReLU(), nn.MaxPool2d(2)])
    theirs.add_module("conv2", nn.Conv2d(8, 12, 3))
    theirs.add_module("norm2", nn.BatchNorm2d(12))
    theirs.extend([nn.ReLU(), nn.Flatten()] if kinks else [nn.Flatten()])
    theirs.add_module("affine", nn.Linear(2 * 2 * 12, 10))
    theirs.to(getattr(torch, dtype))
    with torch.no_grad():
        for name in ("conv1", "conv2"):
            put(getattr(theirs, name).weight, ours[f"{name}.w"].transpose(3, 2, 0, 1))
            put(getattr(theirs, name).bias, ours[f"{name}.b"])
        # Flattened (2, 2, 12) here, (12, 2, 2) there.
        w = ours["affine.w"].reshape(2, 2, 12, 10).transpose(3, 2, 0, 1)
        put(theirs.affine.weight, w.reshape(10, -1))
        put(theirs.affine.bias, ours["affine.b"])
    return ours, theirs


def put(tensor, array):
    tensor.copy_(torch.from_numpy(np.ascontiguousarray(array)))


def optimizer(theirs, make):
    """Weight decay on the weights alone, as our penalty: 0.5 l2 w^2 has the gradient l2 w."""
    others = [p for p in theirs.parameters() if p.ndim == 1]
    return make([{"params": weights(theirs), "weight_decay": L2}, {"params": others}])


def weights(theirs):
    return [p for p in theirs.parameters() if p.ndim > 1]


def batches(dtype):
    digits = cnn.data.digits()
    random = np.random.RandomState(1)
    for _ in range(STEPS):
        rows = random.choice(len(digits.x_train), BATCH, replace=False)
        yield (digits.x_train[rows] / 255).astype(dtype), digits.y_train[rows].astype(np.int64)


def train(name, dtype, rates=None):
    """Losses of both, penalty included, over the same steps."""
    rule, make = RULES[name]
    ours, theirs = build(dtype)
    solver = cnn.Solver(ours, update=rule, batch_size=BATCH)
    other = optimizer(theirs, make)
    found = []
    for i, (x, y) in enumerate(batches(dtype)):
        if rates is not None:
            solver.lr = rates(i)
            for group in other.param_groups:
                group["lr"] = rates(i)
        scores = theirs(torch.from_numpy(x).permute(0, 3, 1, 2))
        loss = torch.nn.functional.cross_entropy(scores, torch.from_numpy(y))
        penalty = sum((w.detach() ** 2).sum() for w in weights(theirs)) * L2 / 2
        other.zero_grad()
        loss.backward()
        other.step()
        found.append((solver.step(x, y), float(loss.detach() + penalty)))
    return np.array(found).T


def difference(ours, theirs):
    return float(np.max(abs(ours - theirs) / abs(theirs)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RULES)
def test_losses_follow_pytorch(name, dtype):
    ours, theirs = train(name, dtype)
    found = difference(ours, theirs)
    print(f"{name} {dtype}: largest relative difference {found:.1e}")  # pytest -rP shows it
    assert ours[-10:].mean() < 0.7 * ours[0]
    assert found <= {"float32": 1e-4, "float64": 1e-9}[dtype]


# Where the conventions part, and that they part there only.


def halfway(i):
    return 0.02 if i < STEPS // 2 else 0.005


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_a_change_of_lr_acts_at_once_in_pytorch_and_on_what_comes_in_here(name):
    """Its velocity is without lr. The losses are equal up to the first step after the change."""
    ours, theirs = train(name, "float64", halfway)
    changed = STEPS // 2
    assert difference(ours[: changed + 1], theirs[: changed + 1]) < 1e-9
    assert difference(ours[changed + 1 :], theirs[changed + 1 :]) > 1e-3


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop", "adam"])
def test_a_change_of_lr_is_no_difference_without_a_velocity(name):
    rule = RULES[name][0]
    ours, theirs = train(name, "float64", lambda i: rule.lr * (1 if i < STEPS // 2 else 0.3))
    assert difference(ours, theirs) < 1e-9


def test_running_variance_is_biased_here_and_unbiased_there():
    """Normalization itself divides by the biased variance in both; only what is kept for test time
    differs, by n / (n - 1) over the n values of a channel."""
    ours, theirs = build("float64")
    x, y = next(batches("float64"))
    cnn.Solver(ours, update=cnn.SGD(0.0), batch_size=BATCH).step(x, y)
    theirs(torch.from_numpy(x).permute(0, 3, 1, 2))
    for name, n in (("norm1", BATCH * 8 * 8), ("norm2", BATCH * 2 * 2)):
        norm = getattr(theirs, name)
        mean, var = norm.running_mean.numpy(), norm.running_var.numpy()
        np.testing.assert_allclose(ours[f"{name}.running_mean"], mean, rtol=1e-10, atol=1e-14)
        # Both keep 0.9 of the initial 1.
        fresh = ours[f"{name}.running_var"] - 0.9
        np.testing.assert_allclose(fresh * n / (n - 1), var - 0.9, rtol=1e-10, atol=1e-13)
        assert (abs(fresh - (var - 0.9)) > 1e-10 * fresh).all()


@pytest.mark.parametrize("name", ["adagrad", "rmsprop", "adam"])
def test_epsilon_stands_at_the_same_place(name):
    """Outside the root in all three. With an epsilon as large as the gradient any other place, and
    for Adam one before its correction of the bias, would show at the first step."""
    eps, g = 0.1, np.array([0.05, -0.1, 0.5])
    rule = {"adagrad": cnn.AdaGrad, "rmsprop": cnn.RMSProp, "adam": cnn.Adam}[name](0.01, eps=eps)
    make = {"adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop,
            "adam": torch.optim.Adam}[name]  # fmt: skip
    parameter = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    other = make([parameter], lr=0.01, eps=eps)
    state = {"w": np.zeros(3)} | {s: np.zeros(3) for s in rule.states}
    segments = np.array([[0.0, 3, 0]])
    for t in range(1, 6):
        parameter.grad = torch.from_numpy(t * g)
        other.step()
        step = rule.attributes() | ({"t": t} if name == "adam" else {})
        state = getattr(cnn.ops, name).update(**state, dw=t * g, segments=segments, lr=0.01, **step)
        np.testing.assert_allclose(state["w"], parameter.detach().numpy(), rtol=1e-12)


def test_adagrad_has_another_default_epsilon_there():
    assert torch.optim.Adagrad([torch.zeros(1)]).defaults["eps"] == 1e-10
    assert cnn.AdaGrad().eps == 1e-8
