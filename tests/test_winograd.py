"""Convolution by Winograd's algorithm: its error, its bits, and where plans choose it."""

import itertools

import numpy as np
import pytest

import cnncore as cnn
from cnncore import levels, reference
from cnncore.plan import Op

TWIN = reference.op("conv2d")
# By a tile's size: all but infinity.
POINTS = {
    10: np.array([0, 0.375, -0.375, 0.75, -0.75, 1.25, -1.25, 3, -3]),
    8: np.array([0, 0.5, -0.5, 1, -1, 2, -2]),
    6: np.array([0, 0.75, -0.75, 1.5, -1.5]),
    4: np.array([0.0, 1, -1]),
}
# Outputs and filter of a tile, as in src/winograd.h; 7x7 filters along the rows only.
FORMS = [(4, 3), (2, 3), (4, 5), (2, 5), (4, 7)]

# n, h, w, c, k, padding
SHAPES = [
    (2, 8, 8, 16, 16, 1),
    (3, 7, 9, 5, 3, 1),
    (2, 13, 6, 70, 33, 0),
    (1, 5, 5, 17, 130, 2),
    (40, 4, 4, 8, 24, 1),
    (9, 16, 16, 64, 64, 1),
    (2, 3, 3, 1, 1, 1),
    (3, 4, 4, 330, 360, 1),  # filters that are gone through panel by panel
    (1, 41, 160, 3, 33, 2),  # images in several blocks
]


def matrices(m, r):
    """A^T, G and B^T by Toom and Cook, from the points alone."""
    size, points = m + r - 1, POINTS[m + r - 1]
    evaluate = np.zeros((size, size))
    evaluate[:-1] = points[:, None] ** np.arange(size)
    evaluate[-1, -1] = 1
    a, g = np.zeros((m, size)), np.zeros((size, r))
    a[:, :-1] = (points[:, None] ** np.arange(m)).T
    g[:-1] = points[:, None] ** np.arange(r)
    a[-1, -1] = g[-1, -1] = 1
    return a, g, np.linalg.inv(evaluate).T


def by_kernel(function, arrays, m, isa=None, threads=None, moments=False, ways=None, **attributes):
    """The compiled kernel with its switches set, or those in `ways`, as a plan sets them; with the
    moments of y, if asked for."""
    names = ["winograd"] if function == "forward" else ["winograd_dx", "winograd_dw"]
    names = names if ways is None else ways
    compiled = getattr(cnn.ops.conv2d, function)
    shapes = {name: array.shape for name, array in arrays.items()}
    results, canonical = compiled.infer(**shapes, **attributes)
    dtype = arrays["x"].dtype.name
    if moments:
        results = results | dict.fromkeys(("mean", "var"), arrays["w"].shape[3:])
    outputs = {name: np.full(shape, np.nan, dtype) for name, shape in results.items()}
    canonical = TWIN.infer(arrays["x"].shape, arrays["w"].shape, **attributes).attributes
    compiled._run(
        arrays | outputs, canonical | dict.fromkeys(names, m), {}, dtype, levels.choose(isa),
        threads, np.empty,
    )  # fmt: skip
    return outputs


def draw(shape, r, dtype, scale=1.0):
    n, h, w, c, k, padding = shape
    random = np.random.RandomState(0)
    y = (n, h + 2 * padding - r + 1, w + 2 * padding - r + 1, k)
    x, filters, b, dy = (
        random.standard_normal(s).astype(dtype)
        for s in ((n, h, w, c), (r, r, c, k), (k,), y)
    )  # fmt: skip
    return {"x": x * np.asarray(scale, dtype), "w": filters, "b": b}, dy


def magnitude_of(x, w, padding, m):
    """What rounding acts on: the algorithm with every matrix, input and filter made positive."""
    r = len(w)
    a, g, b = map(abs, matrices(m, r))
    n, h, width, c = x.shape
    p, q = h + 2 * padding - r + 1, width + 2 * padding - r + 1
    rows = m if r < 7 else 1
    down, across = -(-p // rows), -(-q // m)
    bordered = np.zeros((n, rows * down + r - 1, m * across + r - 1, c))
    bordered[:, padding : padding + h, padding : padding + width] = abs(x)[
        :, : bordered.shape[1] - padding, : bordered.shape[2] - padding
    ]
    y = np.zeros((n, rows * down, m * across, w.shape[3]))
    if rows == 1:
        u = np.einsum("bj,ijck->ibck", g, abs(w).astype(float))
        for j in range(across):
            v = np.einsum("bj,nijc->nibc", b, bordered[:, :, m * j : m * j + m + r - 1])
            products = sum(np.einsum("nibc,bck->nibk", v[:, i : i + p], u[i]) for i in range(r))
            y[:, :, m * j : m * j + m] = np.einsum("qb,nibk->niqk", a, products)
        return y[:, :p, :q]
    u = np.einsum("ai,bj,ijck->abck", g, g, abs(w).astype(float))
    for i, j in itertools.product(range(down), range(across)):
        tile = bordered[:, m * i : m * i + m + r - 1, m * j : m * j + m + r - 1]
        v = np.einsum("ai,bj,nijc->nabc", b, b, tile)
        products = np.einsum("nabc,abck->nabk", v, u)
        block = np.einsum("pa,qb,nabk->npqk", a, a, products)
        y[:, m * i : m * i + m, m * j : m * j + m] = block
    return y[:, :p, :q]


def passes(shape, dtype, isa=None, threads=None, form=(4, 3), oracle=np.float64, **more):
    """All three passes by the kernel, and by the twin in the oracle's precision."""
    m, r = form
    arrays, dy = draw(shape, r, dtype, **more)
    padding = shape[5]
    found = by_kernel("forward", arrays, m, isa, threads, padding=padding)
    given = {"dy": dy, "x": arrays["x"], "w": arrays["w"]}
    found |= by_kernel("backward", given, m, isa, threads, padding=padding)
    exact = {name: array.astype(oracle) for name, array in arrays.items()}
    wide = {"x": exact["x"], "w": exact["w"], "dy": dy.astype(oracle)}
    attributes = TWIN.infer(exact["x"].shape, exact["w"].shape, padding=padding).attributes
    expected = TWIN.forward(**exact, **attributes)
    expected |= TWIN.backward(**wide, **attributes)
    return found, expected, arrays, dy


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", [(0, 3), (0, 1), *FORMS], ids=str)
def test_moments_that_a_convolution_makes_are_those_of_its_result(form, shape, dtype, isa):
    """Within the bounds of batch normalization's own, the same for any number of threads, and
    exact where a channel is constant."""
    m, r = form
    padding = shape[5] if r > 1 else 0
    if min(shape[1:3]) + 2 * padding < r:
        padding = 2
    arrays, _ = draw((*shape[:5], padding), r, dtype)
    arrays["w"][..., -1] = 0
    found = by_kernel("forward", arrays, m, isa, 3, moments=True, padding=padding)
    plain = by_kernel("forward", arrays, m, isa, 1, padding=padding)
    assert found["y"].tobytes() == plain["y"].tobytes()
    rows = found["y"].reshape(-1, shape[4]).astype(np.longdouble)
    rows -= rows[0]  # numpy's own sums would not be exact for a constant
    spread, eps = np.ptp(rows, axis=0), np.finfo(dtype).eps
    first = found["y"].reshape(-1, shape[4])[0]
    assert within(found["mean"], first + rows.mean(axis=0), eps * (abs(first) + 25 * spread))
    assert within(found["var"], rows.var(axis=0), eps * 48 * spread**2)
    assert (found["mean"][-1], found["var"][-1]) == (arrays["b"][-1], 0)
    alone = by_kernel("forward", arrays, m, isa, 1, moments=True, padding=padding)
    assert all(alone[name].tobytes() == found[name].tobytes() for name in ("mean", "var"))


def within(found, expected, bound):
    return not (abs(found - expected) > bound).any() and np.isfinite(found).all()


@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_pass_is_within_what_rounding_can_do(form, shape, dtype, isa):
    """Each value is a sum of c products with a dozen roundings on the way in and out."""
    m, r = form
    if min(shape[1:3]) + 2 * shape[5] < r:
        shape = (*shape[:5], 2)
    found, expected, arrays, dy = passes(shape, dtype, isa, form=form)
    eps = np.finfo(dtype).eps / 2
    c, k, padding = shape[3:]
    terms, ways, rows = (7, 1, 1) if r == 7 else (1, 2, m)  # for each channel
    y = magnitude_of(arrays["x"], arrays["w"], padding, m) + abs(arrays["b"])
    assert within(found["y"], expected["y"], (terms * c + 40) * eps * y)
    turned = arrays["w"][::-1, ::-1].transpose(0, 1, 3, 2)
    dx = magnitude_of(dy, turned, r - 1 - padding, m)
    assert within(found["dx"], expected["dx"], (terms * k + 40) * eps * dx)
    # dw sums over tiles, not channels; its products have the same factors.
    n, p, q, _ = expected["y"].shape
    tiles = n * -(-p // rows) * -(-q // m)
    a, g, b = map(abs, matrices(m, r))
    largest = (b.sum(1).max() * a.sum(0).max() * g.sum(0).max()) ** ways
    dw = largest * abs(arrays["x"]).max() * abs(dy).max() * tiles
    assert within(found["dw"], expected["dw"], (min(tiles, 96) + 40) * eps * dw)
    assert within(found["db"], expected["db"], 1e-3 if dtype == "float32" else 1e-11)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_error_is_near_that_of_the_direct_sum(dtype, form):
    """Root mean square, of unit inputs: F(4x4, 3x3) has 2.0 to 2.5 (y, dx), 1.8 to 4.1 (dw) times
    the direct kernel's; the usual points 0, +-1, +-2 would give twice as much. F(4x4, 5x5) has two
    points more. In float64 the oracle is wider, since NumPy's products may be ours to the bit.
    Images so wide that dx of 7x7 filters, too, is directly one chain of sums, not seven; and of
    those two, not eight: dw of each is a part, and more parts make direct sums more exact."""
    shape = (2, 32, 48, 64, 64, 1) if form == (4, 7) else (8, 16, 24, 64, 64, 1)
    found, expected, arrays, dy = passes(shape, dtype, form=form, oracle=np.longdouble)
    given = {"dy": dy, "x": arrays["x"], "w": arrays["w"]}
    direct = by_kernel("forward", arrays, 0, padding=1) | by_kernel("backward", given, 0, padding=1)
    limits = (6, 6, 25) if form == (4, 5) else (7, 7, 8) if form == (4, 7) else (3, 3, 6)
    for name, limit in zip(("y", "dx", "dw"), limits, strict=True):
        error, usual = (
            np.sqrt(((array - expected[name]) ** 2).mean()) for array in (found[name], direct[name])
        )
        assert error < limit * usual, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_and_channels_of_any_scale_stay_within_the_bound(dtype):
    """A bright line beside dark pixels, channels from 1e-4 to 1e4: what is lost is relative to the
    tile, which the bound says."""
    shape = (2, 12, 12, 16, 16, 1)
    scale = np.ones((12, 12, 16)) * 10.0 ** np.linspace(-4, 4, 16)
    scale[5] *= 1e5
    scale[:, 8] *= 1e-5
    found, expected, arrays, _ = passes(shape, dtype, scale=scale)
    y = magnitude_of(arrays["x"], arrays["w"], 1, 4) + abs(arrays["b"])
    assert within(found["y"], expected["y"], 56 * np.finfo(dtype).eps / 2 * y)


def test_real_activations_are_as_exact_as_random_ones():
    d = cnn.data.digits()
    big = d.x_train.repeat(2, axis=1).repeat(2, axis=2)
    net = [
        cnn.Conv2d(32, 3, padding=1), cnn.BatchNorm(), cnn.ReLU(),
        cnn.Conv2d(32, 3, padding=1, name="here"), cnn.BatchNorm(), cnn.ReLU(),
        cnn.GlobalAvgPool2d(), cnn.Affine(10),
    ]  # fmt: skip
    model = cnn.Model(net, (16, 16, 1))
    cnn.Solver(
        model, train=(big, d.y_train), update=cnn.Adam(3e-3), batch_size=64, num_epochs=2
    ).train()
    x = model.activations(big[:20], ["2"])["2"]
    arrays = {"x": x, "w": model["here.w"].copy(), "b": model["here.b"].copy()}
    expected = TWIN.forward(
        **{name: a.astype(np.float64) for name, a in arrays.items()},
        **TWIN.infer(x.shape, arrays["w"].shape, padding=1).attributes,
    )["y"]
    errors = [
        np.sqrt(((by_kernel("forward", arrays, way, padding=1)["y"] - expected) ** 2).mean())
        for way in (4, 0)
    ]
    assert errors[0] < 4 * errors[1]
    y = magnitude_of(x, arrays["w"], 1, 4) + abs(arrays["b"])
    found = by_kernel("forward", arrays, 4, padding=1)["y"]
    assert within(found, expected, 72 * np.finfo("float32").eps / 2 * y)


# The filters of the second are shared by threads in every form, those of the first in none of 3x3
# and 5x5.
@pytest.mark.parametrize("shape", [(9, 12, 10, 24, 40, 1), (3, 9, 7, 96, 112, 1)], ids=str)
@pytest.mark.parametrize("isa", levels.available())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(form, dtype, isa, shape):
    found = [passes(shape, dtype, isa, threads, form)[0] for threads in (1, 2, 3, 8)]
    for other in found[1:]:
        for name, array in other.items():
            assert np.array_equal(array, found[0][name]), name


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", ["winograd_dx", "winograd_dw"])
def test_one_gradient_by_it_beside_the_other_by_the_direct_sum(way, threads):
    arrays, dy = draw((9, 12, 10, 24, 40, 1), 3, "float32")
    given = {"dy": dy, "x": arrays["x"], "w": arrays["w"]}
    both, neither, mixed = (
        by_kernel("backward", given, 4, threads=threads, ways=ways, padding=1)
        for ways in (None, (), (way,))
    )
    for name in ("dx", "dw", "db"):
        expected = both if f"winograd_{name}" == way else neither
        assert np.array_equal(mixed[name], expected[name]), name


def test_nan_and_infinity_stay_visible():
    arrays, _ = draw((1, 8, 8, 16, 16, 1), 3, "float32")
    arrays["x"][0, 3, 3, 0] = np.nan
    assert np.isnan(by_kernel("forward", arrays, 4, padding=1)["y"][0, 2:5, 2:5]).all()


@pytest.mark.parametrize(
    ("attributes", "filters", "m"),
    [
        ({"stride": 2, "padding": 1}, 3, 4), ({"padding": 2}, 5, 3), ({"padding": 3}, 3, 4),
        ({}, 3, 3), ({}, 3, 1), ({}, 3, -2), ({"padding": 5}, 5, 2), ({}, 7, 2), ({}, 9, 4),
    ],
)  # fmt: skip
def test_the_kernel_refuses_what_it_cannot_do(attributes, filters, m):
    x = np.zeros((1, 12, 12, 16), np.float32)
    w = np.zeros((filters, filters, 16, 16), np.float32)
    with pytest.raises(ValueError, match="winograd needs"):
        by_kernel("forward", {"x": x, "w": w}, m, **attributes)


def chosen(model, kind="gradients", batch_size=32):
    """The tiles' sides by layer and pass; of a backward pass for dx and dw."""
    ops: list[Op] = model.plan(kind, batch_size).ops
    found = {}
    for op in ops:
        names = ["winograd"] if op.function == "forward" else ["winograd_dx", "winograd_dw"]
        found[f"{op.layer}.{op.function}"] = tuple(op.fused.get(name, 0) for name in names)
    return found


def test_plans_choose_it_by_shape():
    net = [
        cnn.Conv2d(16, 3, padding=1), cnn.ReLU(), cnn.Conv2d(32, 3, padding=1, name="yes"),
        cnn.Conv2d(32, 3, padding=1, stride=2, name="strided"), cnn.Conv2d(32, 1, name="one"),
        cnn.Conv2d(32, 5, padding=2, name="five"), cnn.Conv2d(32, 3, padding=1, name="small"),
        cnn.MaxPool2d(4), cnn.Conv2d(32, 3, padding=1, name="tiny"),
        cnn.Conv2d(8, 3, padding=1, name="few"), cnn.GlobalAvgPool2d(), cnn.Affine(10),
    ]  # fmt: skip
    model = cnn.Model(net, (16, 16, 3))
    found = chosen(model)
    for layer, m in (("yes", 4), ("small", 4), ("tiny", 2), ("five", 4)):
        assert (found[f"{layer}.forward"], found[f"{layer}.backward"]) == ((m,), (m, m)), layer
    for layer in ("0", "strided", "one", "few"):
        assert not any(found[f"{layer}.forward"] + found[f"{layer}.backward"]), layer
    assert "winograd" in str(model.plan("gradients", 32))
    assert "Conv2d F(4x4, 3x3)" in model.summary()
    # At test time by one example's shape, for any batch.
    for batch in (1, 64):
        found = chosen(model, "scores", batch)
        assert [found[f"{layer}.forward"] for layer in ("yes", "five", "small", "tiny")] == [
            (4,), (2,), (0,), (0,)
        ]  # fmt: skip
    exact = cnn.Model(net, (16, 16, 3), precision="exact")
    assert not any(map(any, chosen(exact).values()))


def test_large_filters_of_a_first_layer_are_transformed_along_rows():
    net = [
        cnn.Conv2d(32, 7, padding=3), cnn.ReLU(), cnn.Conv2d(4, 7, padding=3, name="few"),
        cnn.Conv2d(32, 7, padding=3, name="again"), cnn.GlobalAvgPool2d(), cnn.Affine(10),
    ]  # fmt: skip
    model = cnn.Model(net, (16, 16, 3))
    found = chosen(model)
    assert (found["0.forward"], found["0.backward"]) == ((4,), (0, 4))
    assert (found["few.forward"], found["few.backward"]) == ((0,), (4, 0))
    assert (found["again.forward"], found["again.backward"]) == ((4,), (0, 4))
    assert "Conv2d F(1x4, 7x7)" in model.summary()


def test_precision_is_kept(tmp_path, monkeypatch):
    net = [cnn.Conv2d(16, 3, padding=1), cnn.Conv2d(16, 3, padding=1), cnn.GlobalAvgPool2d()]
    assert cnn.Model(net, (16, 16, 3)).precision == "fast"
    monkeypatch.setenv("CNNCORE_PRECISION", "exact")
    model = cnn.Model(net, (16, 16, 3))
    model.save(tmp_path / "model.npz")
    monkeypatch.setenv("CNNCORE_PRECISION", "wrong")
    with pytest.raises(ValueError, match="CNNCORE_PRECISION must be 'fast' or 'exact'"):
        cnn.Model(net, (16, 16, 3))
    monkeypatch.delenv("CNNCORE_PRECISION")
    assert cnn.load(tmp_path / "model.npz").precision == model.clone().precision == "exact"
    with pytest.raises(ValueError, match="precision must be"):
        cnn.Model(net, (16, 16, 3), precision="double")


def test_a_net_with_it_passes_gradcheck_and_predicts_row_by_row():
    net = [
        cnn.Conv2d(16, 3, padding=1), cnn.Tanh(), cnn.Conv2d(16, 3, padding=1), cnn.BatchNorm(),
        cnn.ReLU(), cnn.GlobalAvgPool2d(), cnn.Affine(4),
    ]  # fmt: skip
    random = np.random.RandomState(0)
    x, y = random.standard_normal((6, 16, 16, 2)), random.randint(0, 4, 6)
    model = cnn.Model(net, (16, 16, 2), dtype="float64")
    assert chosen(model)["2.backward"] == (4, 4)
    assert cnn.gradcheck(model, x[:2], y[:2], num_checks=4, verbose=False)
    single = cnn.Model(net, (16, 16, 2))
    whole = single.scores(x)
    assert all(np.array_equal(single.scores(x[i : i + 1])[0], whole[i]) for i in range(6))
