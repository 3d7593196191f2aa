"""Preprocessing: formulas, the same in training and after it, files, and wrong input."""

import copy
import pickle

import numpy as np
import pytest

import cnncore as cnn

RANDOM = np.random.RandomState(3)
IMAGES = RANDOM.randint(0, 256, (40, 5, 4, 3)).astype(np.uint8)
VECTORS = RANDOM.randn(60, 6) @ RANDOM.randn(6, 6) + 3
LABELS = RANDOM.randint(0, 4, 40)
UNIT = IMAGES / 255

STEPS = {
    "scalar": [cnn.ZeroCenter("dataset")],
    "channel": [cnn.ZeroCenter("channel")],
    "mean image": [cnn.ZeroCenter()],
    "std": [cnn.ZeroCenter(), cnn.Normalize()],
    "std of channels": [cnn.ZeroCenter(), cnn.Normalize(per="channel")],
    "std first": [cnn.Normalize(per="channel"), cnn.ZeroCenter("dataset")],
    "minmax": [cnn.Normalize("minmax")],
    "pca": [cnn.PCA(7)],
    "white": [cnn.ZeroCenter(), cnn.Whiten(k=9)],
    "zca": [cnn.Whiten("zca", eps=0.1), cnn.Normalize("minmax", "dataset")],
}


def net(shape=(5, 4, 3), seed=0, **more):
    layers = [cnn.Flatten(), cnn.Affine(8), cnn.ReLU(), cnn.Affine(4)]
    return cnn.Model(layers, shape, seed=seed, **more)


def in_numpy(steps, x):
    for step in steps:
        x = copy.deepcopy(step).fit_transform(x)
    return x


@pytest.mark.parametrize(("per", "axes"), [("dataset", (0, 1, 2, 3)), ("channel", (0, 1, 2))])
def test_zero_center_subtracts_the_mean_over_what_shares_it(per, axes):
    expected = UNIT - UNIT.mean(axis=axes)
    assert abs(cnn.ZeroCenter(per).fit_transform(UNIT) - expected).max() < 1e-14


def test_zero_center_by_feature_is_the_mean_image():
    step = cnn.ZeroCenter().fit(IMAGES)
    assert abs(step.arrays["mean"] - UNIT.mean(axis=0)).max() < 1e-14
    assert abs(step.transform(UNIT).mean(axis=0)).max() < 1e-14
    assert step.transform(IMAGES).dtype == np.float32


def test_normalize_gives_standard_deviation_one_and_leaves_constants_at_zero():
    x = np.c_[VECTORS, np.full(60, 0.1)]
    found = in_numpy([cnn.ZeroCenter(), cnn.Normalize()], x)
    assert np.allclose(found[:, :6].std(axis=0), 1, atol=1e-12)
    assert (found[:, 6] == 0).all()


def test_normalize_minmax_reaches_from_minus_one_to_one():
    x = np.c_[VECTORS, np.full(60, -7.3)]
    found = cnn.Normalize("minmax").fit_transform(x)
    assert np.allclose(found[:, :6].min(axis=0), -1)
    assert np.allclose(found[:, :6].max(axis=0), 1)
    assert (found[:, 6] == 0).all()


def test_pca_decorrelates_in_order_of_variance():
    step = cnn.PCA(4).fit(VECTORS)
    found = step.transform(VECTORS)
    # By the course's way, the singular value decomposition of the covariance.
    centred = VECTORS - VECTORS.mean(axis=0)
    u, s, _ = np.linalg.svd(centred.T @ centred / len(centred))
    assert np.allclose(step.arrays["variances"], s[:4])
    assert np.allclose(abs(found), abs(centred @ u[:, :4]))
    assert np.allclose(found.T @ found / 60, np.diag(s[:4]), atol=1e-10 * s[0])


def test_whitening_gives_a_unit_covariance_and_zca_stays_near_the_data():
    pca = cnn.Whiten(eps=1e-12).fit_transform(VECTORS)
    zca = cnn.Whiten("zca", eps=1e-12).fit_transform(VECTORS)
    for found in (pca, zca):
        assert np.allclose(found.T @ found / 60, np.eye(6), atol=1e-6)
    step = cnn.Whiten("zca", eps=1e-12).fit(VECTORS)
    matrix = step.arrays["matrix"]
    assert np.allclose(matrix, matrix.T)  # of all whitenings the one nearest to the data
    assert cnn.Whiten("zca").fit_transform(IMAGES).shape == IMAGES.shape


def test_whitening_divides_by_the_root_of_the_variance_and_eps():
    step = cnn.Whiten(eps=0.5).fit(VECTORS)
    found = step.transform(VECTORS)
    s = step.arrays["variances"]
    assert np.allclose((found**2).mean(axis=0), s / (s + 0.5))


def test_chunks_do_not_show(monkeypatch):
    from cnncore import preprocessing

    whole = {name: in_numpy(steps, UNIT) for name, steps in STEPS.items()}
    monkeypatch.setattr(preprocessing, "CHUNK", 3 * 60)
    for name, steps in STEPS.items():
        parts = in_numpy(steps, UNIT)
        assert parts.shape == whole[name].shape
        assert abs(parts - whole[name]).max() <= 1e-9 * abs(whole[name]).max(), name


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_applies_it_to_raw_inputs_everywhere(name, dtype):
    model = net(preprocessing=STEPS[name], dtype=dtype)
    solver = cnn.Solver(
        model, train=(IMAGES[:30], LABELS[:30]), validation=(IMAGES[30:], LABELS[30:]),
        update=cnn.Momentum(1e-2), batch_size=10, num_iterations=4, restore="last",
    )  # fmt: skip
    solver.train()
    # The same net fed with what NumPy made of the same data by the same fitted steps.
    x = UNIT
    for step in model.preprocessing.steps:
        x = step.transform(x)
    bare = net(x.shape[1:], dtype=dtype)
    cnn.Solver(
        bare, train=(x[:30], LABELS[:30]), update=cnn.Momentum(1e-2), batch_size=10,
        num_iterations=4, restore="last",
    ).train()  # fmt: skip
    tolerance = 2e-4 if dtype == "float32" else 1e-11
    assert np.allclose(model.parameters, bare.parameters, atol=tolerance)
    assert np.allclose(model.scores(IMAGES), bare.scores(x), atol=20 * tolerance)
    for found, expected in zip(
        model.evaluate(IMAGES, LABELS).items(), bare.evaluate(x, LABELS).items(), strict=True
    ):
        assert found[1] == pytest.approx(expected[1], abs=20 * tolerance)
    loss = solver.step(IMAGES[:10], LABELS[:10])
    assert np.isfinite(loss)


def test_statistics_are_of_the_training_data_alone():
    model = net(preprocessing=[cnn.ZeroCenter("dataset")])
    assert not model.preprocessing.fitted
    cnn.Solver(
        model, train=(IMAGES[:20], LABELS[:20]), validation=(IMAGES[20:], LABELS[20:]),
        update=cnn.SGD(1e-2), num_epochs=1,
    )  # fmt: skip
    mean = model.preprocessing.steps[0].arrays["mean"]
    assert mean == pytest.approx(UNIT[:20].mean(), rel=1e-12)
    # Fitted once: a second solver, on other data, changes nothing.
    cnn.Solver(model, train=(IMAGES[20:], LABELS[20:]), update=cnn.SGD(1e-2), num_epochs=1)
    assert model.preprocessing.steps[0].arrays["mean"] == mean


def test_steps_given_to_two_models_are_copied():
    steps = [cnn.ZeroCenter()]
    first, second = net(preprocessing=steps), net(preprocessing=steps)
    first.fit_preprocessing(IMAGES)
    assert not steps[0].fitted
    assert not second.preprocessing.fitted
    third = net(preprocessing=[cnn.ZeroCenter().fit(IMAGES)])
    assert np.array_equal(third.scores(IMAGES), first.scores(IMAGES))


@pytest.mark.parametrize("name", STEPS)
def test_saved_and_copied_models_carry_it(name, tmp_path):
    model = net(preprocessing=STEPS[name])
    model.save(tmp_path / "early.npz")
    assert not cnn.load(tmp_path / "early.npz").preprocessing.fitted
    model.fit_preprocessing(IMAGES)
    expected = model.scores(IMAGES)
    model.save(tmp_path / "model.npz")
    for same in (
        cnn.load(tmp_path / "model.npz"),
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        model.clone(),
    ):
        assert np.array_equal(same.scores(IMAGES), expected)


@pytest.mark.parametrize("name", STEPS)
def test_any_number_of_threads_gives_the_same_bits(name):
    digests = set()
    fitted = net(preprocessing=STEPS[name])
    fitted.fit_preprocessing(IMAGES)
    try:
        for threads in (1, 3):
            cnn.set_num_threads(threads)
            model = fitted.clone()
            cnn.Solver(
                model, train=(IMAGES, LABELS), update=cnn.Adam(1e-2), batch_size=8, num_epochs=2
            ).train()
            digests.add(model.digest())
    finally:
        cnn._core.set_threads(0)
    assert len(digests) == 1


@pytest.mark.parametrize("name", STEPS)
def test_gradcheck_passes_through_it(name):
    model = net(preprocessing=STEPS[name], dtype="float64")
    model.fit_preprocessing(IMAGES)
    assert cnn.gradcheck(model, IMAGES[:3], LABELS[:3], num_checks=6, verbose=False)


def test_channel_first_images_have_the_same_statistics():
    steps = [cnn.ZeroCenter(), cnn.Normalize(per="channel")]
    last = net(preprocessing=steps)
    first = net((3, 5, 4), preprocessing=steps, input_layout="nchw")
    last.fit_preprocessing(IMAGES)
    first.fit_preprocessing(IMAGES.transpose(0, 3, 1, 2))
    assert np.array_equal(last.scores(IMAGES), first.scores(IMAGES.transpose(0, 3, 1, 2)))


def test_whitened_digits_train():
    d = cnn.data.digits()
    model = cnn.Model(
        [cnn.Affine(100), cnn.ReLU(), cnn.Affine(10)], (8, 8, 1),
        preprocessing=[cnn.Whiten(k=40, eps=1e-3)],
    )  # fmt: skip
    cnn.Solver(
        model, train=(d.x_train, d.y_train), validation=(d.x_val, d.y_val),
        update=cnn.Adam(3e-3), batch_size=64, num_epochs=15,
    ).train()  # fmt: skip
    assert model.evaluate(d.x_test, d.y_test)["accuracy"] > 0.95


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cnn.ZeroCenter("pixel"), "'dataset' or 'channel' or 'feature'"),
        (lambda: cnn.Normalize("max"), "'std' or 'minmax'"),
        (lambda: cnn.Whiten("svd"), "'pca' or 'zca'"),
        (lambda: cnn.Whiten(eps=0), "eps must lie in"),
        (lambda: cnn.PCA(0), "k must be an integer"),
        (lambda: cnn.PCA(7).fit(VECTORS), "at most 6"),
        (lambda: cnn.PCA().fit(np.zeros((2, 200, 200, 3), np.uint8)), "120000 features"),
        (lambda: cnn.ZeroCenter().transform(VECTORS), "not fitted"),
        (lambda: cnn.ZeroCenter().fit(VECTORS).transform(VECTORS[:, :3]), "shape"),
        (lambda: cnn.ZeroCenter().fit(VECTORS[:0]), "no example"),
        (lambda: cnn.ZeroCenter().fit(np.full((3, 2), np.nan)), r"x\[0\] holds NaN"),
        (lambda: cnn.ZeroCenter().fit(VECTORS.astype(int)), "uint8"),
        (lambda: cnn.ZeroCenter().fit(3.0), "shape"),
        (lambda: net(preprocessing=[cnn.ReLU()]), "ZeroCenter, Normalize, PCA and Whiten"),
        (lambda: net(preprocessing=cnn.ZeroCenter()), "list of steps"),
        (lambda: net(preprocessing=[cnn.PCA(61)]), "at most 60"),
        (lambda: net(preprocessing=[cnn.ZeroCenter().fit(VECTORS)]), "not fitted to"),
        (lambda: net(preprocessing=[cnn.ZeroCenter()]).scores(IMAGES), "not fitted"),
        (lambda: net(preprocessing=[cnn.ZeroCenter()]).fit_preprocessing(VECTORS), "shape"),
    ],
)
def test_wrong_use_is_refused(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()


def test_bad_values_are_named_by_row_behind_a_rotation():
    model = net((6,), preprocessing=[cnn.PCA()])
    model.fit_preprocessing(VECTORS)
    bad = VECTORS.copy()
    bad[17, 2] = np.inf
    with pytest.raises(ValueError, match=r"x\[17\] holds NaN or infinity"):
        model.scores(bad)


def test_a_solver_without_data_needs_it_fitted():
    solver = cnn.Solver(net(preprocessing=[cnn.ZeroCenter()]), update=cnn.SGD(1e-2))
    with pytest.raises(cnn.NotFittedError, match="fit_preprocessing"):
        solver.step(IMAGES, LABELS)
