"""The command `cnncore predict`: files in, a line for each example out."""

from __future__ import annotations

import csv
import gzip
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import cnncore as cnn
from cnncore.cli import main
from small_files import Image, idx_bytes, needs_pillow

SHAPE = (6, 5, 1)


@pytest.fixture(autouse=True)
def own_folder_and_threads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    requested = cnn._core.limits()["requested"]
    yield
    cnn._core.set_threads(requested)


def saved(path="model.npz", shape=SHAPE, classes=4, **options):
    net = [cnn.Flatten(), cnn.Affine(classes)] if len(shape) == 3 else [cnn.Affine(classes)]
    model = cnn.Model(net, shape, **options)
    model.save(path)
    return model


def images(count, shape=SHAPE, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)


def lines(capsys):
    out, err = capsys.readouterr()
    assert err == ""
    return [line.split("\t") for line in out.splitlines()]


def expected(model, file, x):
    p = model.predict_proba(x)
    return [[file, str(i), str(row.argmax()), f"{row.max():.6f}"] for i, row in enumerate(p)]


def test_arrays_and_idx_files_in_their_order(capsys):
    model, x = saved(), images(7)
    np.savez("x.npz", x=x, x_test=x[:2], y=np.arange(7))
    np.savez_compressed("test", x_test=x[:3], x_train=x)
    Path("test.npz").rename("test.NPZ")
    np.save("a.npy", (x / 255).astype(">f8"))
    np.save("f.npy", np.asfortranarray(x[..., 0]))
    Path("t10k-images-idx3-ubyte").write_bytes(idx_bytes(x[..., 0]))
    Path("zipped").write_bytes(gzip.compress(idx_bytes(x[2:3])))
    files = {"zipped": x[2:3], "x.npz": x, "test.NPZ": x[:3], "a.npy": x / 255, "f.npy": x}
    files |= {"t10k-images-idx3-ubyte": x}
    assert main(["predict", "model.npz", *files]) == 0
    wanted = [line for file, array in files.items() for line in expected(model, file, array)]
    assert lines(capsys) == wanted


def test_all_probabilities_go_to_a_file(capsys):
    model, x = saved(), images(5)
    np.save("a,b.npy", x)
    Path("p.csv").write_text("old")
    assert main(["predict", "model.npz", "a,b.npy", "a,b.npy", "--out", "p.csv"]) == 0
    assert len(lines(capsys)) == 10
    with Path("p.csv").open(newline="") as stream:
        head, *rows = csv.reader(stream)
    assert head == ["file", "row", "class", "p(0)", "p(1)", "p(2)", "p(3)"]
    p = model.predict_proba(x)
    assert [row[:3] for row in rows[5:]] == [
        ["a,b.npy", str(i), str(best)] for i, best in enumerate(p.argmax(axis=1))
    ]
    np.testing.assert_array_equal(np.array([r[3:] for r in rows[:5]], np.float32), p)


def test_batch_size_and_threads_change_nothing(capsys):
    saved()
    np.save("a.npy", images(30))
    found = []
    for options in ([], ["--batch-size", "7"], ["--threads", "1"], ["--threads", "3"]):
        assert main(["predict", "model.npz", "a.npy", *options]) == 0
        found.append(lines(capsys))
    assert found.count(found[0]) == 4
    assert cnn.get_num_threads() == 3


@pytest.mark.parametrize("shape", [(9,), (3, 6, 5)])
def test_rows_and_channel_first_arrays(shape, capsys):
    layout = "nchw" if len(shape) == 3 else "nhwc"
    model, x = saved(shape=shape, input_layout=layout), images(3, shape)
    np.save("a.npy", x)
    assert main(["predict", "model.npz", "a.npy"]) == 0
    assert lines(capsys) == expected(model, "a.npy", x)


@needs_pillow
def test_images(capsys):
    grey, colour = images(1)[0], images(1, (6, 5, 3))[0]
    Image.fromarray(grey[..., 0]).save("grey.png")
    Image.fromarray(colour).save("colour.bmp")
    model = saved()
    assert main(["predict", "model.npz", "grey.png"]) == 0
    assert lines(capsys) == expected(model, "grey.png", grey[None])
    three = np.repeat(grey, 3, axis=2)
    for shape, layout in (((6, 5, 3), "nhwc"), ((3, 6, 5), "nchw")):
        model = saved(shape=shape, input_layout=layout)
        assert main(["predict", "model.npz", "grey.png", "colour.bmp"]) == 0
        x = np.stack([three, colour])
        x = np.moveaxis(x, -1, 1) if layout == "nchw" else x
        wanted = expected(model, "grey.png", x[:1]) + expected(model, "colour.bmp", x[1:])
        assert lines(capsys) == wanted


def test_names_that_do_not_print_are_escaped(capsys):
    saved()
    name = os.fsdecode(b"a\tb\n\xff\x1b.npy")
    np.save(name, images(1))
    assert main(["predict", "model.npz", name, "--out", "p.csv"]) == 0
    ((shown, *rest),) = lines(capsys)
    assert shown == r"a\tb\n\udcff\x1b.npy"
    assert len(rest) == 3
    assert b"\xff\x1b.npy" in Path("p.csv").read_bytes()


def test_what_train_leaves_is_taken(capsys):
    assert main(["train", "--model", "mlp", "--iterations", "3", "--out", "out"]) == 0
    capsys.readouterr()
    digits = cnn.data.digits()
    np.savez("digits.npz", x_test=digits.x_test)
    assert main(["predict", "out/model.npz", "digits.npz"]) == 0
    wanted = cnn.load("out/model.npz").predict(digits.x_test)
    assert [int(line[2]) for line in lines(capsys)] == wanted.tolist()


WRONG = [
    ([], "required: MODEL, FILE"),
    (["model.npz"], "required: FILE"),
    (["none.npz", "good.npy"], "none.npz: No such file"),
    (["good.npy", "good.npy"], "good.npy: expected an intact .npz archive"),
    (["data.npz", "good.npy"], "data.npz: meta.npy: expected this member"),
    (["model.npz", "none.npy"], "none.npy: No such file"),
    (["model.npz", "."], ".: Is a directory"),
    (["model.npz", "good.npy", "wide.npy"], "wide.npy has shape (2, 6, 6, 1), expected (n, 6, 5,"),
    (["model.npz", "one.npy"], "one.npy has shape (6, 5, 1), expected (n, 6, 5, 1)"),
    (["model.npz", "scalar.npy"], "scalar.npy has shape (), expected (n, 6, 5, 1)"),
    (["model.npz", "int.npy"], "int.npy: expected dtype uint8 or float32 or float64, found int64"),
    (["model.npz", "good.npy", "nan.npy"], "nan.npy: "),
    (["model.npz", "cut.npy"], "cut.npy: expected 60 bytes of data"),
    (["model.npz", "junk.npy"], "junk.npy: expected an .npy header"),
    (["model.npz", "junk.npz"], "junk.npz: expected an intact .npz archive"),
    (["model.npz", "y.npz"], "y.npz: x.npy: expected this member, found y.npy"),
    (["model.npz", "junk.txt"], "junk.txt: expected a file .npz or .npy, an image (.png"),
    (["model.npz", "labels-idx1"], "labels-idx1 has shape (3,), expected (n, 6, 5, 1)"),
    (["model.npz", "cut-idx3"], "cut-idx3: expected 106 bytes"),
    (["model.npz", "int-idx3"], "int-idx3 has dtype int8; expected uint8"),
    (["model.npz", "good.npy", "--batch-size", "0"], "batch_size must be"),
    (["model.npz", "good.npy", "--threads", "0"], "threads must be"),
    (["model.npz", "good.npy", "--out", "folder"], "folder: Is a directory"),
    (["model.npz", "good.npy", "--out", "no/p.csv"], "No such file or directory"),
    (["model.npz", "good.npy", "--bogus"], "unrecognized arguments"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message, capsys):
    saved()
    good = images(2)
    arrays = {
        "good": good, "wide": images(2, (6, 6, 1)), "one": good[0], "scalar": np.zeros(()),
        "int": good.astype(int), "nan": np.full((2, *SHAPE), np.nan),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    npy, idx = Path("good.npy").read_bytes(), idx_bytes(images(3, (6, 5)))
    files = {
        "cut.npy": npy[:-1], "junk.npy": b"junk", "junk.npz": b"junk",
        "junk.txt": b"junk", "labels-idx1": idx_bytes(np.arange(3, dtype=np.uint8)),
        "cut-idx3": idx[:-1], "int-idx3": idx[:2] + b"\x09" + idx[3:],
    }  # fmt: skip
    for name, content in files.items():
        Path(name).write_bytes(content)
    np.savez("y.npz", y=good)
    np.savez("data.npz", x_train=good)
    Path("folder").mkdir()
    before = sorted(p.name for p in Path().iterdir())
    assert main(["predict", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cnncore: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(p.name for p in Path().iterdir()) == before


@needs_pillow
def test_wrong_images(capsys):
    saved()
    Image.fromarray(images(1, (6, 5, 3))[0]).save("colour.png")
    Path("junk.png").write_bytes(b"junk")
    for name, message in (
        ("colour.png", "colour.png has shape (1, 6, 5, 3), expected (n, 6, 5, 1)"),
        ("junk.png", "junk.png: expected an intact image"),
        ("none.png", "none.png: No such file"),
    ):
        assert main(["predict", "model.npz", name]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err


def test_without_pillow_the_error_says_how_to_get_it(monkeypatch, capsys):
    saved()
    Path("a.png").touch()
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert main(["predict", "model.npz", "a.png"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'cnncore[images]'" in err
    assert err.count("\n") == 1
