"""The command `cnncore`, and the nets it offers."""

from __future__ import annotations

import csv
import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import cnncore as cnn
from cnncore import progress, report, selfcheck, zoo
from cnncore.cli import UPDATES, main

SHORT = ["--model", "mlp", "--iterations", "6"]


@pytest.fixture(autouse=True)
def own_folder_and_threads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    requested = cnn._core.limits()["requested"]
    yield
    cnn._core.set_threads(requested)


def command(*arguments):
    """The installed script, in a process of its own."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    script = shutil.which("cnncore", path=places)
    assert script, "the package's script is not installed"
    return subprocess.run([script, *arguments], capture_output=True, text=True, timeout=120)


def read_metrics(folder):
    return json.loads(Path(folder, "metrics.json").read_text())


def read_history(folder):
    with Path(folder, "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def images(count, shape, classes, seed=0):
    rng = np.random.RandomState(seed)
    return rng.randint(0, 256, (count, *shape)).astype(np.uint8), np.arange(count) % classes


def write_npz(path, **changes):
    (x, y), (x_test, y_test) = images(40, (6, 5, 3), 4), images(12, (6, 5, 3), 4, seed=1)
    arrays = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}
    np.savez(path, **(arrays | changes))
    return path


def write_idx_folder(folder):
    folder.mkdir()
    for part, count in (("train", 30), ("t10k", 10)):
        x, y = images(count, (8, 8), 10)
        for kind, array in (("images-idx3", x), ("labels-idx1", y.astype(np.uint8))):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + array.tobytes())
    return folder


def test_the_default_job_reaches_its_target(capsys):
    assert main(["train"]) == 0
    (folder,) = Path("runs").iterdir()
    metrics = read_metrics(folder)
    assert metrics["test_accuracy"] >= 0.985
    assert metrics["steps"] == metrics["configuration"]["iterations"]
    digits, model = cnn.data.digits(), cnn.load(folder / "model.npz")
    assert model.evaluate(digits.x_test, digits.y_test)["accuracy"] == metrics["test_accuracy"]
    assert model.evaluate(digits.x_val, digits.y_val)["accuracy"] == metrics["val_accuracy"]
    assert model.digest() == metrics["weights_sha256"]
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("test accuracy", "images/s", "threads", "instruction set", "Confusion matrix"):
        assert word in out
    assert f"{metrics['test_accuracy']:.2%}" in out


def test_history_has_a_line_for_each_iteration_and_gaps_where_nothing_was_measured():
    assert main(["train", *SHORT, "--batch-size", "419", "--out", "out"]) == 0
    rows = read_history("out")
    assert [row["iteration"] for row in rows] == [str(i) for i in range(1, 7)]
    # Checked after the first step, at the ends of the epochs of three steps, and at the end.
    assert [i for i, row in enumerate(rows, 1) if row["validation_accuracy"]] == [1, 3, 6]
    for row in rows:
        parts = float(row["data_loss"]) + float(row["penalty"])
        assert float(row["loss"]) == pytest.approx(parts, rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_number_of_threads_changes_nothing(dtype):
    job = ["train", "--iterations", "12", "--dtype", dtype]
    for threads in ("1", "3"):
        assert main([*job, "--threads", threads, "--out", threads]) == 0
    one, three = read_metrics("1"), read_metrics("3")
    assert (one["threads"], three["threads"]) == (1, 3)
    assert one["weights_sha256"] == three["weights_sha256"]
    assert one["test_accuracy"] == three["test_accuracy"]


def test_another_seed_gives_other_weights():
    for seed in ("0", "1"):
        assert main(["train", *SHORT, "--seed", seed, "--out", seed]) == 0
    assert read_metrics("0")["weights_sha256"] != read_metrics("1")["weights_sha256"]


@pytest.mark.parametrize("update", UPDATES)
def test_every_update_learns_with_its_own_learning_rate(update):
    job = ["train", "--model", "mlp", "--epochs", "4", "--update", update, "--out", "out"]
    assert main(job) == 0
    metrics = read_metrics("out")
    assert metrics["test_accuracy"] > 0.9
    assert metrics["configuration"]["update"] == update


def test_options_reach_the_run():
    options = "--epochs 2 --batch-size 100 --lr 0.01 --lr-decay 0.5 --l2 0.25 --seed 7"
    assert main(["train", "--model", "mlp", "--out", "a/b", *options.split()]) == 0
    metrics = read_metrics("a/b")
    assert metrics["steps"] == 2 * (1257 // 100)
    found = metrics["configuration"]
    wanted = {"batch_size": 100, "lr": 0.01, "lr_decay": 0.5, "l2": 0.25, "seed": 7}
    assert {name: found[name] for name in wanted} == wanted


def test_the_learning_rate_falls_to_the_same_share_for_any_length():
    for epochs in (1, 5):
        assert main(["train", "--model", "mlp", "--epochs", f"{epochs}", "--out", f"{epochs}"]) == 0
        decay = read_metrics(f"{epochs}")["configuration"]["lr_decay"]
        assert decay**epochs == pytest.approx(0.05)


def test_data_may_come_from_a_file_or_a_folder(capsys):
    assert main(["train", "--data", str(write_npz(Path("own.npz"))), *SHORT, "--out", "a"]) == 0
    assert "own.npz: 36 training, 4 validation, 12 test examples of 6x5x3, 4 classes" in (
        capsys.readouterr().out
    )
    folder = write_idx_folder(Path("idx"))
    assert main(["train", "--data", str(folder), *SHORT, "--out", "b"]) == 0
    assert "30" not in read_metrics("b")["configuration"]["data"]
    assert "8x8x1, 10 classes" in capsys.readouterr().out


def test_runs_of_the_same_second_do_not_share_a_folder(monkeypatch):
    monkeypatch.setattr("time.strftime", lambda form: "20260131-235959")
    for _ in range(3):
        assert main(["train", *SHORT]) == 0
    names = sorted(p.name for p in Path("runs").iterdir())
    assert names == ["20260131-235959", "20260131-235959-2", "20260131-235959-3"]


WRONG = [
    ([], "required: COMMAND"),
    (["fly"], "invalid choice: 'fly'"),
    (["train", "--bogus"], "unrecognized arguments: --bogus"),
    (["train", "--epochs", "two"], "--epochs: invalid int value: 'two'"),
    (["train", "--epochs", "2", "--iterations", "2"], "not allowed with argument --epochs"),
    (["train", "--epochs", "0"], "num_epochs must be"),
    (["train", "--iterations", "-1"], "num_iterations must be"),
    (["train", "--model", "alexnet"], "--model: invalid choice: 'alexnet'"),
    (["train", "--update", "lbfgs"], "--update: invalid choice: 'lbfgs'"),
    (["train", "--dtype", "float16"], "--dtype: invalid choice: 'float16'"),
    (["train", "--batch-size", "0"], "batch_size must be"),
    (["train", "--lr", "nan"], "lr must lie in"),
    (["train", "--lr", "-1"], "lr must lie in"),
    (["train", "--lr-decay", "0"], "lr_decay must lie in"),
    (["train", "--l2", "-1"], "--l2: strength must lie in"),
    (["train", "--l2", "much"], "--l2: could not convert"),
    (["train", "--seed", "-1"], "seed must be"),
    (["train", "--threads", "0"], "threads must be"),
    (["train", "--data", "nowhere"], "nowhere: expected 'digits', an .npz file or a folder"),
    (["train", "--data", "nowhere.npz"], "nowhere.npz: No such file"),
    (["train", "--data", "junk.npz"], "junk.npz: expected an intact .npz archive"),
    (["train", "--data", "."], "train-images-idx3-ubyte"),
    (["train", "--out", "junk.npz"], "junk.npz: File exists"),
    (["train", "--out", "junk.npz/below"], "junk.npz/below: Not a directory"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    Path("junk.npz").write_bytes(b"junk")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cnncore: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(p.name for p in Path().iterdir()) == ["junk.npz"]


BAD_DATA = [
    ({"x_train": np.full((40, 6, 5, 3), np.nan), "x_test": np.zeros((12, 6, 5, 3))}, "NaN"),
    ({"y_train": np.full(40, 10**9)}, "the labels go up to 1000000000"),
    ({"y_train": np.zeros(40, int), "y_test": np.zeros(12, int)}, "classes must be"),
    ({"x_train": np.zeros((40, 9)), "x_test": np.zeros((12, 9))}, "takes images (h, w, c)"),
    ({"y_test": np.zeros(11, int)}, "expected 12 labels"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_DATA, ids=[m for _, m in BAD_DATA])
def test_bad_data_is_exit_code_2(changes, message, capsys):
    write_npz(Path("own.npz"), **changes)
    assert main(["train", "--data", "own.npz", "--iterations", "2"]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_divergence_is_exit_code_1_and_keeps_what_was_reached(capsys):
    job = ["train", *SHORT, "--update", "sgd", "--lr", "1e30", "--out", "out"]
    assert main(job) == 1
    err = capsys.readouterr().err
    assert err.startswith("cnncore: training diverged at iteration 2: ")
    assert err.count("\n") == 1
    assert len(read_history("out")) == 1
    cnn.load("out/model.npz")
    assert not Path("out/metrics.json").exists()


def test_an_interrupted_run_keeps_what_was_reached(monkeypatch, capsys):
    job = ["train", "--model", "mlp", "--epochs", "50", "--out", "out"]
    assert main(["train", *SHORT, "--out", "out"]) == 0
    capsys.readouterr()

    def interrupt(self, step, history):
        if step.iteration >= 60:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "show", interrupt)
    assert main(job) == 130
    err = capsys.readouterr().err
    assert err.startswith("cnncore: interrupted after ")
    assert err.count("\n") == 1
    rows = read_history("out")
    assert len(rows) >= 60
    best = max(float(r["validation_accuracy"]) for r in rows if r["validation_accuracy"])
    digits = cnn.data.digits()
    found = cnn.load("out/model.npz").evaluate(digits.x_val, digits.y_val)["accuracy"]
    assert found == best
    # Those of the finished run would not belong to this model.
    assert not Path("out/metrics.json").exists()


def test_info_and_check(monkeypatch, capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name, value in (("version", cnn.__version__), ("isa", cnn.info()["isa"])):
        assert [line.split() for line in out.splitlines() if line.split()[0] == name] == [
            [name, value]
        ]
    monkeypatch.setattr(selfcheck, "main", lambda: 1)
    assert main(["check"]) == 1


def test_the_installed_script_trains_and_fails_as_main_does():
    done = command("train", *SHORT, "--out", "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert read_metrics("out")["steps"] == 6
    failed = command("train", "--data", "nowhere")
    assert failed.returncode == 2
    assert failed.stderr.startswith("cnncore: error: nowhere: ")
    assert command("--version").stdout == f"cnncore {cnn.__version__}\n"


def test_confusion_matrix_has_true_rows_and_predicted_columns():
    labels, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    matrix = report.confusion_matrix(labels, predicted, 4)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    lines = report.confusion_text(matrix).splitlines()
    assert [line.split() for line in lines[3:]] == [
        ["0", "|", "1", "1", ".", "."],
        ["1", "|", ".", "1", ".", "."],
        ["2", "|", "1", ".", "2", "."],
        ["3", "|", ".", ".", ".", "."],
    ]
    assert len(report.confusion_text(np.zeros((26, 26), int)).splitlines()) == 1


HISTORY = {
    "loss": [2.0, 1.0], "data_loss": [1.5, 0.5], "penalty": [0.5, 0.5], "iterations": [1, 2],
    "train_accuracy": [0.1, 0.6], "validation_accuracy": [0.1, 0.5], "validation_loss": [1.6, 0.6],
}  # fmt: skip


def test_without_matplotlib_the_run_says_how_to_get_curves(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["train", *SHORT, "--out", "out"]) == 0
    assert "pip install 'cnncore[plot]'" in capsys.readouterr().out
    assert not Path("out/curves.png").exists()


def test_a_picture_that_fails_does_not_fail_the_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", SimpleNamespace(Figure=lambda **_: 1 / 0))
    message = report.write_curves(Path("curves.png"), HISTORY)
    assert "drawing failed (ZeroDivisionError" in message


def test_with_matplotlib_there_are_curves():
    pytest.importorskip("matplotlib")
    assert "curves.png" in report.write_curves(Path("curves.png"), HISTORY)
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", zoo.MODELS)
@pytest.mark.parametrize("shape", [(4, 4, 1), (9, 6, 3)])
def test_every_net_of_the_zoo_takes_a_step(name, shape):
    model = cnn.Model(zoo.MODELS[name](shape, 5), shape)
    assert model.outputs == 5
    before = model.parameters.copy()
    x, y = images(4, shape, 5)
    loss = cnn.Solver(model, update=cnn.SGD(0.1), batch_size=4).step(x, y)
    assert np.isfinite(loss)
    assert not np.array_equal(before, model.parameters)


def test_nets_say_what_they_need():
    for name, net in zoo.MODELS.items():
        with pytest.raises(ValueError, match=f"{name} takes"):
            net((3, 3, 3, 3), 10)
        with pytest.raises(ValueError, match="classes must be"):
            net((8, 8, 1), 1)
        if name != "mlp":
            with pytest.raises(ValueError, match=f"{name} takes images of at least"):
                net((1, 8, 3), 10)
            with pytest.raises(ValueError, match=f"{name} takes images"):
                net((64,), 10)
    assert cnn.Model(zoo.mlp((64,), 10), (64,)).outputs == 10


def test_resnet20_has_the_size_of_its_paper():
    model = cnn.Model(zoo.resnet20((32, 32, 3), 10), (32, 32, 3))
    # 269,722 with parameterless shortcuts, and 2,752 in the two that are convolutions here.
    assert model.architecture.parameters.count == 269_722 + 2_752


@pytest.mark.parametrize("model", ["mlp", "lenet"])
def test_gradcheck_command(model, capsys):
    assert main(["gradcheck", "--model", model, "--checks", "2"]) == 0
    assert "gradients agree" in capsys.readouterr().out


def test_gradcheck_command_with_burn_in_and_several_steps(capsys):
    job = ["gradcheck", "--model", "mlp", "--checks", "1", "--burn-in", "2", "--h", "1e-4", "1e-5"]
    assert main(job) == 0
    out = capsys.readouterr().out
    assert "2 steps of burn-in" in out
    assert "h = 0.0001" in out
    assert main([*job[:-2], "0"]) == 2
    assert "h must lie in" in capsys.readouterr().err
    assert main(["gradcheck", "--burn-in", "-1"]) == 2
    assert "burn_in must" in capsys.readouterr().err


def test_gradcheck_command_fails_on_wrong_gradients(monkeypatch, capsys):
    original = cnn.Model.gradient_runner

    def spoilt(self, examples, **more):
        runner, gradients = original(self, examples, **more)
        run = runner.run

        def run_and_spoil(*arguments):
            results = run(*arguments)
            gradients[...] *= 1.01
            return results

        runner.run = run_and_spoil
        return runner, gradients

    monkeypatch.setattr(cnn.Model, "gradient_runner", spoilt)
    assert main(["gradcheck", "--model", "mlp", "--checks", "2"]) == 1
    assert "DIFFER" in capsys.readouterr().out
