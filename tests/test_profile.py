"""model.profile: every op of the step with its time, its work and its share of the ceiling."""

from __future__ import annotations

import numpy as np
import pytest

import cnncore as cnn
from cnncore import _core, ceiling, levels
from cnncore.plan import Moved, op_bytes, op_cost

NET = [
    cnn.Conv2d(8, 3, padding=1, name="conv"), cnn.BatchNorm(name="norm"), cnn.ReLU(),
    cnn.MaxPool2d(2), cnn.Flatten(), cnn.Affine(10, name="affine"),
]  # fmt: skip
N = 16


@pytest.fixture(scope="module")
def batch():
    random = np.random.default_rng(0)
    return random.standard_normal((N, 12, 12, 3), np.float32), random.integers(0, 10, N)


@pytest.fixture(autouse=True, scope="module")
def quick_ceiling():
    """One measurement for all, on one thread, which disturbs the other tests least."""
    before = cnn.get_num_threads()
    cnn.set_num_threads(1)
    yield
    cnn.set_num_threads(before)


def test_profile_lists_every_op_and_its_times_sum_to_the_step(batch):
    model = cnn.Model(NET, (12, 12, 3))
    profile = model.profile(*batch)
    plan = model.plan("gradients", N)
    assert sorted(row.op.partition("+")[0] for row in profile.rows) == sorted(
        f"{op.op}.{op.function}" for op in plan.ops
    )
    seconds = [row.seconds for row in profile.rows]
    assert seconds == sorted(seconds, reverse=True)
    assert all(row.seconds > 0 and row.limit > 0 and 0 < row.share < 20 for row in profile.rows)
    # Medians of parts and of the whole, taken by turns on a machine that others may use too.
    assert 0.4 < sum(seconds) / profile.step_seconds < 1.6
    text = str(profile)
    for row in profile.rows:
        assert any(line.startswith(f"{row.layer or '-'} ") and row.op in line
                   for line in text.splitlines())  # fmt: skip
    assert "GFLOP/s" in text.splitlines()[0]


def test_profile_with_an_update_leaves_the_model_alone(batch):
    model = cnn.Model(NET, (12, 12, 3))
    before = {path: array.copy() for path, array in model.state().items()}
    ops = {row.op for row in model.profile(*batch, update=cnn.Adam(1e-2)).rows}
    assert {"adam.update", "guard.forward", "running_average.update"} <= ops
    for path, array in model.state().items():
        np.testing.assert_array_equal(array, before[path])


def test_profile_times_host_ops(batch):
    double = cnn.NumpyLayer(lambda x: (2 * x, None), lambda dy, _: 2 * dy, name="double")
    model = cnn.Model([cnn.Flatten(), cnn.Affine(8), double, cnn.Affine(10)], (12, 12, 3))
    rows = [row for row in model.profile(*batch).rows if row.op == "host"]
    assert [row.layer for row in rows] == ["double", "double"]
    assert all(row.seconds > 0 and row.bytes >= 4 * 2 * N * 8 for row in rows)


def test_a_row_counts_operations_and_bytes(batch):
    model = cnn.Model([cnn.Flatten(), cnn.Affine(32, name="wide"), cnn.Affine(10)], (12, 12, 3))
    rows = {(row.layer, row.op): row for row in model.profile(*batch).rows}
    d = 12 * 12 * 3
    forward, backward = rows["wide", "affine.forward"], rows["wide", "affine.backward"]
    assert forward.flops == 2 * N * d * 32
    assert forward.bytes == 4 * (N * d + d * 32 + 32 + N * 32)
    assert backward.flops == forward.flops  # the first layer has no dx
    assert backward.bytes == 4 * (N * 32 + N * d + d * 32 + 32)  # w is not read
    assert rows["", "gather.forward"].bytes == N * (2 * 4 * d + 2 * 8)


def test_gather_of_bytes_moves_bytes(batch):
    x = (abs(batch[0]) * 50).astype(np.uint8)
    rows = {row.op: row for row in cnn.Model(NET, (12, 12, 3)).profile(x, batch[1]).rows}
    assert rows["gather.forward"].bytes == N * (5 * 12 * 12 * 3 + 2 * 8)


def test_batchnorm_reads_twice_what_no_convolution_made():
    model = cnn.Model(NET, (12, 12, 3))
    plan = model.plan("gradients", N)
    ops = {f"{op.op}.{op.function}": op for op in plan.ops}
    plain = next(op for op in plan.plain_ops if op.kernel == "batchnorm_forward")
    image, channels = N * 12 * 12 * 8, 8
    assert op_bytes(plain).total == 4 * (3 * image + 4 * channels)
    assert op_bytes(ops["batchnorm.forward"]).total == 4 * (2 * image + 4 * channels)
    assert op_bytes(ops["batchnorm.backward"]).total == 4 * (5 * image + 6 * channels)
    assert op_cost(ops["conv2d.forward"])[0] == 2 * N * 12 * 12 * 8 * 27


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ceiling_is_plausible(dtype):
    found = ceiling.remembered(dtype, levels.DEFAULT, 1)
    assert 1e8 < found.flops < 1e14
    for ladder in (found.copies, found.triads, found.copies_in_place, found.triads_in_place):
        assert len(ladder) == len(found.sizes)
        assert all(1e7 < rate < 1e13 for rate in ladder)
    assert found.seconds(found.flops, Moved(1, 0)) == pytest.approx(1)
    assert found.seconds(1, Moved(0, round(found.copies[-1]))) <= 2
    assert found.bandwidth(Moved(0, 1)) == found.copies[0]
    assert found.bandwidth(Moved(1, 0)) == max(found.copies[0], found.triads[0])
    assert "GFLOP/s" in str(found)


def test_an_op_is_compared_with_what_reads_and_writes_as_it_does():
    sizes, MiB = (1 << 20, 1 << 24), 1 << 20
    found = ceiling.Ceiling(
        "float32", "sse2", 1, 1e9, sizes, (4.0, 2.0), (8.0, 1.0), (16.0, 2.0), (4.0, 6.0)
    )
    assert found.bandwidth(Moved(MiB // 2, MiB // 2)) == 4  # a copy
    assert found.bandwidth(Moved(0, MiB)) == 4
    assert found.bandwidth(Moved(MiB, 0)) == 8  # a triad
    assert found.bandwidth(Moved(9 * MiB, 7 * MiB)) == 2  # the faster of the two
    assert found.bandwidth(Moved(3 << 18, 1 << 18)) == 8
    assert found.bandwidth(Moved(6 << 18, 4 << 18)) == pytest.approx(
        found.bandwidth(Moved(10 << 18, 0)) / 2 + found.bandwidth(Moved(0, 10 << 18)) / 2
    )
    assert found.bandwidth(Moved(2 * MiB, 2 * MiB)) == 3  # between the two sizes
    assert found.bandwidth(Moved(MiB // 2, MiB // 2), in_place=True) == 16
    assert found.bandwidth(Moved(14 * MiB, 2 * MiB), in_place=True) == 6
    assert found.seconds(3e9, Moved(MiB, 0)) == MiB / 8
    shortest = [("copies", 2.0), ("copies", 1.0), ("copies", 4.0), ("triads", 0.5)]
    in_place = [("copies_in_place", 0.25), ("triads_in_place", 1.0)]
    beside = found.beside(MiB, shortest + in_place)
    assert beside.bandwidth(Moved(MiB // 2, MiB // 2)) == MiB
    assert beside.bandwidth(Moved(MiB, 0)) == 2 * MiB
    assert beside.bandwidth(Moved(MiB, 0), in_place=True) == 4 * MiB
    assert found.seconds(1e18, Moved(MiB, 0)) == 1e9


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_clock_of_each_op_is_positive_and_adds_up(batch, threads):
    model = cnn.Model(NET, (12, 12, 3))
    examples = model.labelled(*batch)
    runner, _ = model.gradient_runner(examples)
    runner.bind(examples.bindings)
    steps, ops = 20, len(runner.program.plan.ops)
    seconds = np.full((steps, ops), np.nan)
    done, status, _ = runner.tape.run(
        np.full(steps, N), np.tile(np.arange(N), steps), np.zeros(steps), 1, 0,
        np.empty((steps, 1)), team=threads, op_seconds=seconds,
    )  # fmt: skip
    assert (done, status) == (steps, "ok")
    assert (seconds >= 0).all()
    assert (seconds.sum(axis=1) > 0).all()


def test_the_clocks_must_fit(batch):
    model = cnn.Model(NET, (12, 12, 3))
    examples = model.labelled(*batch)
    runner, _ = model.gradient_runner(examples)
    runner.bind(examples.bindings)
    one = np.array([N]), np.arange(N), np.zeros(1)
    with pytest.raises(ValueError, match="op_seconds"):
        runner.tape.run(*one, 1, 0, np.empty((1, 1)), op_seconds=np.empty((1, 1)))
    assert _core.team_size() == 1
