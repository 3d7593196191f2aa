"""Models: paths, prediction, gradients, summaries, files, gradient checks."""

from __future__ import annotations

import json
import os
import resource
import zipfile

import numpy as np
import pytest

import cnncore as cnn
from cnncore.program import Runner
from cnncore.vector import Vector

NET = [
    cnn.Conv2d(6, 3, padding="same", name="first"), cnn.BatchNorm(), cnn.ReLU(), cnn.MaxPool2d(2),
    cnn.Residual(
        [cnn.Conv2d(6, 3, padding="same"), cnn.ReLU(), cnn.Conv2d(6, 3, padding="same")],
        shortcut=[cnn.Conv2d(6, 1)],
    ),
    cnn.Flatten(), cnn.Affine(20), cnn.ReLU(), cnn.Dropout(0.5), cnn.Affine(10),
]  # fmt: skip


def digits_model(dtype="float32", **more):
    return cnn.Model(NET, (8, 8, 1), regularization=cnn.L2(1e-3), dtype=dtype, **more)


@pytest.fixture(scope="module")
def digits():
    return cnn.data.digits()


def test_paths_and_views():
    model = digits_model()
    assert "first.w" in model.paths()
    assert model["4.0.w"].shape == (3, 3, 6, 6)
    assert model["4.shortcut.0.b"].shape == (6,)
    assert model["1.running_var"].tolist() == [1.0] * 6
    model["4.0.w"][...] = 3
    assert (model.parameters["4.0.w"] == 3).all()
    assert model["4.0.w"].ctypes.data % 64 == 0
    with pytest.raises(KeyError, match=r"no '4\.0\.q'"):
        model["4.0.q"]


def test_a_write_through_a_view_counts_from_the_next_call(digits):
    model = digits_model()
    x = digits.x_test[:5]
    before = model.scores(x)
    model["9.b"][...] += 1
    np.testing.assert_allclose(model.scores(x), before + 1, rtol=1e-5)


def test_pads_between_parameters_are_and_stay_zero(digits):
    model = digits_model()
    solver = cnn.Solver(model, update=cnn.Adam(), batch_size=20)
    for _ in range(3):
        solver.step(digits.x_train[:20], digits.y_train[:20])
    pads = np.ones(len(model.parameters), bool)
    for entry in model.architecture.parameters.entries.values():
        pads[entry.offset : entry.offset + entry.length] = False
    assert pads.any()
    for vector in (model.parameters, *solver._vectors.values()):
        assert (np.asarray(vector)[pads] == 0).all()


def test_uint8_means_divided_by_255(digits):
    model = digits_model()
    as_float = (digits.x_test / 255).astype(np.float32)
    assert model.scores(digits.x_test).tobytes() == model.scores(as_float).tobytes()


def test_a_missing_channel_axis_and_channels_first_are_understood(digits):
    x = digits.x_test[:9]
    model = digits_model()
    want = model.scores(x).tobytes()
    assert model.scores(x[..., 0]).tobytes() == want
    colour = np.random.RandomState(0).rand(4, 6, 5, 3).astype(np.float32)
    net = [cnn.Conv2d(4, 3), cnn.Flatten(), cnn.Affine(3)]
    last = cnn.Model(net, (6, 5, 3))
    first = cnn.Model(net, (3, 6, 5), input_layout="nchw")
    assert first.input_shape == (6, 5, 3)
    moved = np.ascontiguousarray(np.moveaxis(colour, -1, 1))
    assert first.scores(moved).tobytes() == last.scores(colour).tobytes()


def test_arrays_of_any_layout_are_read_right(digits):
    x = (digits.x_test[:12] / 255).astype(np.float64)
    model = digits_model("float64")
    want = model.scores(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    padded = np.zeros((12, 8, 8, 3))
    padded[..., :1] = x
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float64).reshape(x.shape)
    unaligned[...] = x
    for version in (
        read_only, np.asfortranarray(x), padded[..., :1], x[::-1][::-1], unaligned,
        x.astype(x.dtype.newbyteorder()), x.tolist(),
    ):  # fmt: skip
        assert model.scores(version).tobytes() == want.tobytes()


def test_predictions_agree_with_each_other(digits):
    model = digits_model()
    scores, prob = model.scores(digits.x_test), model.predict_proba(digits.x_test)
    np.testing.assert_allclose(prob.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.predict(digits.x_test), scores.argmax(axis=1))
    found = model.evaluate(digits.x_test, digits.y_test, batch_size=100)
    right = (model.predict(digits.x_test) == digits.y_test).mean()
    assert found["accuracy"] == pytest.approx(right)
    rows = np.arange(len(prob))
    assert found["loss"] == pytest.approx(-np.log(prob[rows, digits.y_test]).mean(), rel=1e-5)


def test_where_the_clock_cuts_an_evaluation_does_not_show(digits, monkeypatch):
    model = digits_model()
    whole = model.evaluate(digits.x_train, digits.y_train, batch_size=30)
    run = Runner.run
    monkeypatch.setattr(Runner, "run", lambda runner, batches: run(runner, batches, seconds=1e-9))
    assert model.evaluate(digits.x_train, digits.y_train, batch_size=30) == whole


def test_loss_and_gradients_change_nothing(digits):
    model = digits_model()
    before = model.digest()
    loss, gradients = model.loss_and_gradients(digits.x_train[:7], digits.y_train[:7])
    assert model.digest() == before
    assert isinstance(gradients, Vector)
    assert gradients.paths() == model.parameters.paths()
    assert gradients["9.w"].shape == (20, 10)
    assert np.linalg.norm(gradients["first.w"]) > 0
    again = model.loss_and_gradients(digits.x_train[:7], digits.y_train[:7])
    assert again[0] == loss
    assert again[1].tobytes() == gradients.tobytes()


def test_loss_starts_at_chance_and_the_penalty_raises_it(digits):
    """cs231n: ln 10 = 2.303 for small weights, and half the squared weights times the strength."""
    small = cnn.init.SmallGaussian(1e-4)
    net = [cnn.Flatten(), cnn.Affine(50, init=small), cnn.ReLU(), cnn.Affine(10, init=small)]
    batch = digits.x_train[:50], digits.y_train[:50]
    plain, _ = cnn.Model(net, (8, 8, 1)).loss_and_gradients(*batch)
    assert plain == pytest.approx(np.log(10), abs=1e-3)
    model = cnn.Model(net, (8, 8, 1), regularization=cnn.L2(1e3), dtype="float64")
    loss, gradients = model.loss_and_gradients(*batch)
    squares = sum((model[path] ** 2).sum() for path in ("1.w", "3.w"))
    assert loss == pytest.approx(plain + 0.5 * 1e3 * squares, rel=1e-6)
    np.testing.assert_allclose(gradients["3.w"], 1e3 * model["3.w"], atol=0.1)


def test_he_before_relu_and_lecun_elsewhere():
    model = cnn.Model(
        [cnn.Conv2d(64, 3), cnn.BatchNorm(), cnn.ReLU(), cnn.Flatten(), cnn.Affine(200)],
        (10, 10, 16),
    )
    assert model["0.w"].var() == pytest.approx(2 / (9 * 16), rel=0.1)
    assert model["4.w"].var() == pytest.approx(1 / (64 * 64), rel=0.05)


def test_summary_counts(capsys):
    text = digits_model().summary()
    assert "4.shortcut.0" in text
    count = 60 + 12 + 2 * (54 * 6 + 6) + 42 + 16 * 6 * 20 + 20 + 210
    assert f"{count:,} parameters" in text
    assert f"{2 * 64 * 9 * 6:,}" in text


def test_gradcheck_passes_and_prints(digits, capsys):
    outcome = cnn.gradcheck(digits_model(), digits.x_train[:3], digits.y_train[:3])
    assert outcome
    assert {c.path for c in outcome.coordinates} >= {"first.w", "1.gamma", "4.shortcut.0.b", "x"}
    assert "agree" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["first.w", "1.gamma", "4.2.b", "9.w"])
def test_gradcheck_reports_a_wrong_gradient(digits, monkeypatch, path):
    original = cnn.Model.gradient_runner

    def spoilt(self, capacity, *, input_gradient=False):
        runner, gradients = original(self, capacity, input_gradient=input_gradient)
        run = runner.run

        def run_and_spoil(*arguments, **more):
            results = run(*arguments, **more)
            gradients.part(path)[...] *= 1.001
            return results

        runner.run = run_and_spoil
        return runner, gradients

    monkeypatch.setattr(cnn.Model, "gradient_runner", spoilt)
    outcome = cnn.gradcheck(digits_model(), digits.x_train[:3], digits.y_train[:3], verbose=False)
    assert not outcome
    assert "DIFFER" in str(outcome)
    assert any(not c.passed and c.path == path for c in outcome.coordinates)


def test_gradcheck_of_strided_padded_pooled_net():
    random = np.random.RandomState(0)
    net = [
        cnn.Conv2d(4, (3, 2), stride=(2, 1), padding=((1, 0), (1, 1))), cnn.ReLU(),
        cnn.MaxPool2d(3, 2, 1), cnn.Conv2d(5, 4, stride=2, padding="same"), cnn.BatchNorm(),
        cnn.GlobalAvgPool2d(), cnn.Dropout(0.7), cnn.Affine(3),
    ]  # fmt: skip
    model = cnn.Model(net, (11, 9, 2), regularization=cnn.L2(0.1))
    assert cnn.gradcheck(model, random.rand(3, 11, 9, 2), [0, 2, 1], verbose=False)


@pytest.mark.parametrize(
    "layer", [cnn.ELU(), cnn.ELU(0.3), cnn.Sigmoid(), cnn.Tanh(), cnn.Maxout(7), cnn.Maxout(5, 3)],
    ids=repr,
)  # fmt: skip
def test_gradcheck_of_a_layer_between_others(layer):
    random = np.random.RandomState(0)
    net = [cnn.Affine(9), layer, cnn.BatchNorm(), layer, cnn.Affine(3)]
    model = cnn.Model(net, (6,), regularization=cnn.L2(0.1))
    assert cnn.gradcheck(model, random.standard_normal((5, 6)), [0, 2, 1, 1, 0], verbose=False)


# Files.


def test_a_saved_model_comes_back_whole(tmp_path, digits):
    model = digits_model(seed=3)
    cnn.Solver(model, (digits.x_train, digits.y_train), update=cnn.Adam(), num_iterations=5).train()
    model.save(tmp_path / "m.npz")
    again = cnn.load(tmp_path / "m.npz")
    assert again.digest() == model.digest()
    assert (again.net, again.loss, again.regularization) == (model.net, model.loss, cnn.L2(1e-3))
    assert (
        again.predict_proba(digits.x_test).tobytes() == model.predict_proba(digits.x_test).tobytes()
    )
    with np.load(tmp_path / "m.npz") as plain:
        np.testing.assert_array_equal(plain["4.0.w"], model["4.0.w"])
        assert json.loads(bytes(plain["meta"]))["format"] == 1
    model.save(tmp_path / "n.npz")
    assert (tmp_path / "n.npz").read_bytes() == (tmp_path / "m.npz").read_bytes()


def test_numpy_scalars_are_as_good_as_numbers(tmp_path):
    net = [cnn.Dropout(np.float32(0.5)), cnn.BatchNorm(np.float64(0.8)), cnn.Affine(np.int64(3))]
    model = cnn.Model(net, np.array([4]), regularization=cnn.L2(np.float32(0.5)))
    model.save(tmp_path / "m.npz")
    assert cnn.load(tmp_path / "m.npz").net == model.net


def test_channels_first_and_float64_come_back(tmp_path):
    net = [cnn.Conv2d(4, 3, init="glorot"), cnn.Flatten(), cnn.Affine(3)]
    model = cnn.Model(net, (2, 6, 5), input_layout="nchw", dtype="float64")
    model.save(tmp_path / "m.npz")
    again = cnn.load(tmp_path / "m.npz")
    x = np.random.RandomState(0).rand(3, 2, 6, 5)
    assert again.scores(x).tobytes() == model.scores(x).tobytes()


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    model = digits_model()
    path = tmp_path / "m.npz"
    model.save(path)
    before = path.read_bytes()
    model["9.b"][...] = 7
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            model.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.npz"]
    with pytest.raises(FileNotFoundError):
        model.save(tmp_path / "nowhere" / "m.npz")


def test_saved_members_are_stored_with_checksums(tmp_path):
    digits_model().save(tmp_path / "m.npz")
    with zipfile.ZipFile(tmp_path / "m.npz") as archive:
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        assert all(i.CRC for i in archive.infolist())
