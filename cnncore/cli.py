"""The command `cnncore`: train, predict, info, check, gradcheck."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

import numpy as np

from . import report
from .architecture import DTYPES
from .data import Dataset, is_image, load, read_samples
from .errors import DivergenceError
from .model import EVALUATION_BATCH, Model
from .model import load as load_model
from .reference.case import Array
from .shapes import integer
from .solver import Solver
from .system import info, set_num_threads, version
from .updates import L2, SGD, AdaGrad, Adam, Momentum, Nesterov, RMSProp, Update
from .zoo import MODELS

# Each rule with the learning rate to begin with.
UPDATES: dict[str, tuple[type[Update], float]] = {
    "adagrad": (AdaGrad, 5e-2),
    "adam": (Adam, 5e-3),
    "momentum": (Momentum, 2e-2),
    "nesterov": (Nesterov, 5e-2),
    "rmsprop": (RMSProp, 5e-3),
    "sgd": (SGD, 1e-1),
}
EPOCHS = 15
BATCH_SIZE = 64
L2_STRENGTH = 1e-4
# Without --lr-decay the learning rate falls to this share of itself, by the same factor after each
# epoch: a fixed factor would stop a long training and hardly slow a short one.
FINAL_LR_SHARE = 0.05

THREADS = "default: what cnncore info says; the result is the same for any number"

DIVERGED, FAILED, WRONG_INPUT, INTERRUPTED = 1, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0; 1 if training diverged or a check failed;
    2 for wrong input; 130 after Ctrl-C. The last three say why in one line on stderr.

    argv: the arguments, by default the process's. SystemExit from --help and --version."""
    try:
        arguments = _parser().parse_args(argv)
        code: int = arguments.run(arguments)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    # ImportError: an extra that is not installed.
    except (ImportError, OSError, ValueError, MemoryError) as error:
        return _say(f"error: {_reason(error)}", WRONG_INPUT)
    return code


def _train(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    data = load(arguments.data)
    try:
        model, solver = _construct(arguments, data)
    except TypeError as error:
        raise ValueError(*error.args) from error
    folder = _make_folder(arguments.out)
    report.clear(folder)
    print(_opening(arguments, data, solver), flush=True)
    start = time.perf_counter()
    try:
        solver.train()
    except KeyboardInterrupt:
        report.write_run(folder, model, solver.history)
        done = f"interrupted after {solver.iteration} of {solver.num_iterations} steps"
        return _say(f"{done}; the best model so far and its history are in {folder}", INTERRUPTED)
    except DivergenceError as error:
        report.write_run(folder, model, solver.history)
        return _say(f"training diverged at {error}; what was reached is in {folder}", DIVERGED)
    _conclude(arguments, model, solver, data, time.perf_counter() - start, folder)
    return 0


def _construct(arguments: argparse.Namespace, data: Dataset) -> tuple[Model, Solver]:
    shape = data.x_train.shape[1:]
    model = Model(
        MODELS[arguments.model](shape, _count_classes(data)),
        shape,
        regularization=arguments.l2,
        seed=arguments.seed,
        dtype=arguments.dtype,
        classes=data.classes or None,
    )
    rule, lr = UPDATES[arguments.update]
    epochs = arguments.epochs
    if epochs is None and arguments.iterations is None:
        epochs = EPOCHS
    solver = Solver(
        model,
        (data.x_train, data.y_train),
        (data.x_val, data.y_val),
        update=rule(lr if arguments.lr is None else arguments.lr),
        batch_size=arguments.batch_size,
        num_epochs=epochs,
        num_iterations=arguments.iterations,
        lr_decay=1.0 if arguments.lr_decay is None else arguments.lr_decay,
    )
    if arguments.lr_decay is None:
        solver.lr_decay = FINAL_LR_SHARE ** (solver.iterations_per_epoch / solver.num_iterations)
    return model, solver


def _count_classes(data: Dataset) -> int:
    labels = (data.y_train, data.y_val, data.y_test)
    classes = 1 + max(int(y.max()) for y in labels)
    examples = sum(map(len, labels))
    # Labels that are no class numbers would ask for a last layer beyond any memory.
    if classes > examples:
        raise ValueError(
            f"the labels go up to {classes - 1}, but there are only {examples} examples; "
            "classes are numbered 0, 1, 2, ..."
        )
    return classes


def _make_folder(out: Path | None) -> Path:
    """The folder for the results, made before training: an unwritable place is an OSError now."""
    folder = out or _fresh_folder(Path("runs", time.strftime("%Y%m%d-%H%M%S")))
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder):
        return folder


def _fresh_folder(wanted: Path) -> Path:
    """A new folder of this name, or with -2, -3, ... where runs begin in the same second."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for i in count(1):
        folder = wanted if i == 1 else wanted.with_name(f"{wanted.name}-{i}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        break
    return folder


def _opening(arguments: argparse.Namespace, data: Dataset, solver: Solver) -> str:
    parts = (("training", data.y_train), ("validation", data.y_val), ("test", data.y_test))
    sizes = ", ".join(f"{len(y):,} {name}" for name, y in parts)
    shape = "x".join(map(str, solver.model.input_shape))
    return (
        f"{arguments.model} on {arguments.data}: {sizes} examples of {shape}, "
        f"{solver.model.outputs} classes\n"
        f"{solver.num_iterations:,} steps, {solver.iterations_per_epoch:,} an epoch, of "
        f"{solver.batch_size} examples; {solver.update}"
    )


def _conclude(
    arguments: argparse.Namespace, model: Model, solver: Solver, data: Dataset, seconds: float,
    folder: Path,
) -> None:  # fmt: skip
    report.write_run(folder, model, solver.history)
    metrics = report.measure(model, solver, data, seconds)
    matrix = report.confusion_matrix(data.y_test, model.predict(data.x_test), model.outputs)
    report.write_metrics(folder / "metrics.json", metrics, _configuration(arguments, solver))
    curves = report.write_curves(folder / "curves.png", solver.history)
    print(f"\n{report.table(metrics)}\n\n{report.confusion_text(matrix)}\n")
    print(f"Model, metrics and history are in {folder}.\n{curves}")


def _configuration(arguments: argparse.Namespace, solver: Solver) -> dict[str, str | int | float]:
    """What the run was asked for, defaults filled in."""
    return {
        "version": version(),
        "data": arguments.data,
        "model": arguments.model,
        "iterations": solver.num_iterations,
        "batch_size": solver.batch_size,
        "update": arguments.update,
        "lr": solver.update.lr,
        "lr_decay": solver.lr_decay,
        "l2": solver.model.l2,
        "seed": arguments.seed,
        "dtype": arguments.dtype,
    }


def _predict(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None:
        set_num_threads(arguments.threads)
    if arguments.out is not None:
        _check_writable(arguments.out)
    # Nothing is printed or written before all files have turned out to be right.
    try:
        net = load_model(arguments.model)
        batch_size = integer("batch_size", arguments.batch_size)
        found = [(path, _probabilities(net, path, batch_size)) for path in arguments.files]
    except TypeError as error:
        raise ValueError(*error.args) from error
    classes = _class_names(net)
    if arguments.out is not None:
        report.write_probabilities(arguments.out, found, classes)
    for line in report.prediction_lines(found, classes):
        print(line)
    return 0


def _probabilities(net: Model, path: Path, batch_size: int) -> Array:
    """Of all classes for each example in a file."""
    x: Array = read_samples(path, colour=net.input_shape[2:] == (3,))
    if is_image(path) and net.input_layout == "nchw":
        x = np.moveaxis(x, -1, 1)
    # Under the name of the file; what is wrong with single values is found only on the way.
    net.examples(x, str(path))
    try:
        return net.predict_proba(x, batch_size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _class_names(net: Model) -> tuple[str, ...]:
    """A name for each class: its own, or its number."""
    return net.classes or tuple(map(str, range(net.outputs)))


def _check_writable(path: Path) -> None:
    """OSError now if a file cannot be written there later."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with TemporaryFile(dir=path.parent):
        pass


def _info(arguments: argparse.Namespace) -> int:
    rows = {
        name: ", ".join(value) if isinstance(value, (list, tuple)) else str(value)
        for name, value in info().items()
    }
    print(report.aligned(rows))
    return 0


def _check(arguments: argparse.Namespace) -> int:
    # Not wanted, and not paid for, by the other commands.
    from . import selfcheck

    return selfcheck.main()


def _gradcheck(arguments: argparse.Namespace) -> int:
    from .gradcheck import gradcheck  # as above

    data = load(arguments.data)
    shape = data.x_train.shape[1:]
    net = MODELS[arguments.model](shape, _count_classes(data))
    model = Model(net, shape, regularization=arguments.l2, seed=arguments.seed)
    few = slice(arguments.examples)
    outcome = gradcheck(
        model, data.x_train[few], data.y_train[few], num_checks=arguments.checks,
        h=arguments.h, seed=arguments.seed, burn_in=arguments.burn_in,
    )  # fmt: skip
    return 0 if outcome else FAILED


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print below a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} ({self.prog} --help lists what there is)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cnncore",
        description="Trains MLPs and convolutional networks on a multi-core CPU.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"cnncore {version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run, text in (
        ("train", _train, "train a net, by default a small ConvNet on the bundled digits"),
        ("predict", _predict, "print the class and its probability for each example of files"),
        ("info", _info, "print version, compiler, instruction set and threads"),
        ("check", _check, "run every kernel against its NumPy twin on this processor"),
        ("gradcheck", _gradcheck, "check a net's gradients against central differences"),
    ):
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        if run is _train:
            _add_train_options(command)
        elif run is _predict:
            _add_predict_options(command)
        elif run is _gradcheck:
            _add_gradcheck_options(command)
    return parser


def _add_gradcheck_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--data", default="digits", metavar="DATA", help="as for train (default: digits)")
    add("--model", default="convnet", choices=MODELS, help="the net (default: convnet)")
    add("--l2", type=_l2, default=L2(L2_STRENGTH), metavar="X", help="strength of the L2 penalty")
    add("--seed", type=int, default=0, metavar="N", help="of weights and coordinates (default: 0)")
    add("--examples", type=int, default=3, metavar="N", help="few are best (default: 3)")
    add("--checks", type=int, default=10, metavar="N", help="of each parameter (default: 10)")
    steps = "of the differences; of several the best counts (default: 1e-5)"
    add("--h", type=float, nargs="+", default=[1e-5], metavar="X", help=steps)
    burn_in = "steps of SGD before the check, on these examples (default: 0)"
    add("--burn-in", type=int, default=0, metavar="N", help=burn_in)


def _add_train_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    data = "digits (default), an .npz file with x_train y_train x_test y_test, or a folder: of IDX"
    data += " files as MNIST has them, CIFAR-10, images (<class>/*.png or train/<class>/*.png ...)"
    add("--data", default="digits", metavar="DATA", help=data)
    add("--model", default="convnet", choices=MODELS, help="the net (default: convnet)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=int, metavar="N", help=f"default: {EPOCHS}")
    length.add_argument("--iterations", type=int, metavar="N", help="training steps, instead")
    add("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help=f"default: {BATCH_SIZE}")
    add("--update", default="adam", choices=UPDATES, help="the update rule (default: adam)")
    rates = ", ".join(f"{lr:g} for {name}" for name, (_, lr) in UPDATES.items())
    add("--lr", type=float, metavar="X", help=f"learning rate (default: {rates})")
    decay = f"factor on it after each epoch (default: one that leaves {FINAL_LR_SHARE:.0%}% of it)"
    add("--lr-decay", type=float, metavar="X", help=decay)
    penalty = f"strength of the penalty 0.5 X sum(w^2) (default: {L2_STRENGTH:g})"
    add("--l2", type=_l2, default=L2(L2_STRENGTH), metavar="X", help=penalty)
    add("--seed", type=int, default=0, metavar="N", help="of weights and order (default: 0)")
    add("--threads", type=int, metavar="N", help=THREADS)
    add("--dtype", default="float32", choices=DTYPES, help="default: float32")
    files = "model.npz, metrics.json, history.csv and curves.png"
    add("--out", type=Path, metavar="DIR", help=f"folder for {files} (default: runs/<time>)")


def _add_predict_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="a model file, as train writes one")
    files = ".npz (member x or x_test), .npy, IDX, .png, .jpg, .bmp, .ppm or .pgm"
    add("files", type=Path, nargs="+", metavar="FILE", help=files)
    add("--out", type=Path, metavar="FILE", help="CSV file for the probabilities of all classes")
    batch = f"examples at a time (default: {EVALUATION_BATCH})"
    add("--batch-size", type=int, default=EVALUATION_BATCH, metavar="N", help=batch)
    add("--threads", type=int, metavar="N", help=THREADS)


def _l2(text: str) -> L2:
    try:
        return L2(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _reason(error: Exception) -> str:
    """The error in one line."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _say(message: str, code: int) -> int:
    print(f"cnncore: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
