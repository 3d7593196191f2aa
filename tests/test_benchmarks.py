"""The benchmark suite runs, counts right what it divides by, and can compare its records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest

from cnncore import levels

FOLDER = Path(__file__).parents[1] / "benchmarks"
RUN = FOLDER / "run.py"


@pytest.fixture(scope="module")
def problems():
    sys.path.insert(0, str(FOLDER))
    try:
        from suite import problems
    finally:
        sys.path.remove(str(FOLDER))
    return problems


def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    # In a folder of its own, where there is no source tree to import by accident.
    command = [sys.executable, str(RUN), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check, cwd=os.sep)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    path = tmp_path_factory.mktemp("records") / "kernels.json"
    options = "--peers", "numpy", "--rounds", "1", "--threads", "1", "--json", path
    result = run("kernels", "--only", "gemm 32x64x64", *options)
    return path, result.stdout


def test_kernels_are_timed_beside_the_ceiling_and_numpy(record):
    path, text = record
    found = json.loads(path.read_text())
    assert [row["name"] for row in found["rows"]] == [
        f"gemm {kind} 32x64x64" for kind in ("NN", "NT", "TN")
    ]
    assert (found["dtype"], found["threads"]) == ("float32", 1)
    assert found["ceiling"]["flops"] > 0
    for row in found["rows"]:
        assert set(row["times"]) == {"cnncore", "numpy"}
        for times in row["times"].values():
            assert 0 < times["minimum"] <= times["median"]
            assert len(times["rounds"]) == 1
        assert row["times"]["cnncore"]["fastest"] >= 0.2 * row["limit"]
        assert row["name"] in text


def test_every_problem_runs_with_two_examples(problems):
    for problem in problems.problems():
        if problem.gemm:
            continue  # their first dimensions hang together
        shapes = {
            name: (min(shape[0], 1000 if problem.function == "update" else 2), *shape[1:])
            if name != "w" or problem.function == "update"
            else shape
            for name, shape in problem.shapes.items()
        }
        small = replace(problem, shapes=shapes)
        tape = problems.Prepared(small, "float64", levels.DEFAULT).run(1)
        mean = tape(2)
        assert 0 < tape.fastest <= mean, problem.name


def test_steps_run(tmp_path):
    path = tmp_path / "steps.json"
    options = "--peers", "none", "--rounds", "1", "--threads", "1", "--json", path
    run("steps", "--only", "tiny", *options)
    (row,) = json.loads(path.read_text())["rows"]
    # Three products forward, three for the weights but two for the inputs: 64-64, 64-10.
    products = 2 * 32 * (64 * 64 + 64 * 10) * 2 + 2 * 32 * 64 * 10
    assert products < row["flops"] < 2 * products
    assert row["times"]["cnncore"]["median"] > 0


@pytest.mark.parametrize(
    ("words", "chosen"), [("conv2d dx 128x8x8x64", True), ("conv2d dw 128x28x28x1", False)]
)
def test_winograd_is_timed_beside_the_direct_sum(tmp_path, words, chosen):
    path = tmp_path / "winograd.json"
    options = "--peers", "none", "--rounds", "1", "--threads", "1", "--json", path
    run("winograd", "--only", words, *options)
    for row in json.loads(path.read_text())["rows"]:
        assert row["chosen"] is chosen
        assert set(row["times"]) == {"winograd", "direct"}


def test_records_are_compared_worst_first(record, tmp_path):
    path, _ = record
    faster = json.loads(path.read_text())
    for factor, row in zip((2, 4, 3), faster["rows"], strict=True):
        for times in row["times"].values():
            times["minimum"] /= factor
    other = tmp_path / "faster.json"
    other.write_text(json.dumps(faster))
    lines = run("compare", path, other).stdout.splitlines()
    assert [line.split()[1] for line in lines[1:4]] == ["NN", "TN", "NT"]
    assert [line for line in lines if "2.00x" in line] == [lines[1]]
    assert f"{(2 * 3 * 4) ** (1 / 3):.3f} times as fast" in lines[4]


def test_what_cannot_be_done_is_said(tmp_path):
    for arguments, words in (
        (("kernels", "--only", "nothing like this", "--peers", "none"), "no row has"),
        (("kernels", "--threads", "100000"), "--threads must be"),
        (("compare", FOLDER / "run.py", FOLDER / "run.py"), ""),
    ):
        result = run(*arguments, check=False)
        assert result.returncode
        assert words in result.stderr


def test_shape_lines_have_targets_and_names_of_their_own(problems):
    found = list(problems.problems())
    assert len(found) > 100
    assert len({p.name for p in found}) == len(found)
    assert {p.group for p in found} == {"gemm", "conv", "memory"}
    assert sum(p.target is not None for p in found) > 100


def test_cost_of_products_and_convolutions(problems):
    for problem in problems.problems():
        if problem.op not in ("affine", "conv2d"):
            continue
        prepared = problem.plan_op("float32")
        x, w = problem.shapes["x"], problem.shapes["w"]
        if problem.gemm:
            m, n, k = map(int, problem.name.split()[-1].split("x"))
            flops, arrays = 2 * m * n * k, m * k + k * n + m * n
        else:
            stride, p = problem.attributes.get("stride", 1), problem.attributes.get("padding", 0)
            y = [(x[i] + 2 * p - w[i - 1]) // stride + 1 for i in (1, 2)]
            pixels = x[0] * prod(y) * w[3]
            flops, arrays = 2 * pixels * prod(w[:3]), prod(x) + prod(w) + pixels
        assert problems.op_cost(prepared)[0] == flops, problem.name
        assert problems.op_bytes(prepared).total == 4 * arrays, problem.name


# Arrays of x's size that an op moves, for those whose other arrays are small.
ARRAYS = {
    "batchnorm forward": 3, "batchnorm backward": 5, "relu forward": 2, "relu backward": 3,
    "leaky_relu forward": 2, "leaky_relu backward": 3, "elu forward": 2, "elu backward": 3,
    "sigmoid forward": 2, "sigmoid backward": 3, "tanh forward": 2, "tanh backward": 3,
    "dropout forward": 2, "dropout backward": 2, "add forward": 3, "softmax forward": 2,
    "softmax_cross_entropy forward": 2, "softmax_cross_entropy backward": 2,
    "avg_pool2d forward": 1.25, "avg_pool2d backward": 1.25,
    # the winner of each window has two bytes
    "max_pool2d forward": 1.375, "max_pool2d backward": 1.375,
    "global_avg_pool2d forward": 1, "global_avg_pool2d backward": 1,
    "sgd update": 3, "momentum update": 5, "adam update": 7,
    "gather forward": 2,
}  # fmt: skip


def test_bytes_of_ops_that_move_them(problems):
    seen = set()
    for problem in problems.problems("memory"):
        kind = " ".join(problem.name.split()[:2])
        elements = prod(next(iter(problem.shapes.values())))
        arrays = 1.25 if "bytes=1" in problem.name else ARRAYS[kind]
        small = 0.12 if "128x10" in problem.name else 0.02
        moved = problems.op_bytes(problem.plan_op("float32")).total
        assert moved == pytest.approx(4 * elements * arrays, rel=small), problem.name
        seen.add(kind)
    assert seen == set(ARRAYS)


def test_a_wrong_line_is_refused(problems):
    with pytest.raises(ValueError, match="has no colour"):
        list(problems.parse("relu x=2x3 colour=3 : forward", "here"))
    with pytest.raises(KeyError):
        list(problems.parse("relu x=2x3 : sideways", "here"))
