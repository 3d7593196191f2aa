"""What runs leave behind: tables and lines on the screen, and files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .data import Dataset
from .model import Model
from .reference.case import Array
from .solver import Solver
from .system import get_num_threads

History = Mapping[str, Sequence[float]]
# Files, each with the probabilities (n, classes) of its examples.
Predictions = Iterable[tuple[Path, Array]]

PER_ITERATION = ("loss", "data_loss", "penalty")
PER_CHECK = ("train_accuracy", "validation_accuracy", "validation_loss")
FILES = ("model.npz", "history.csv", "metrics.json", "curves.png")
# A wider confusion matrix does not fit a screen.
MOST_CLASSES = 25


@dataclass(frozen=True)
class Metrics:
    """A finished run. Accuracies are shares, losses mean data losses without penalty;
    images_per_second counts training images over train_seconds, accuracy checks included."""

    test_accuracy: float
    val_accuracy: float
    test_loss: float
    val_loss: float
    train_seconds: float
    images_per_second: float
    steps: int
    threads: int
    isa: str
    parameters: int
    weights_sha256: str


def measure(model: Model, solver: Solver, data: Dataset, seconds: float) -> Metrics:
    """Metrics of a model as trained by the solver in so many seconds."""
    test = model.evaluate(data.x_test, data.y_test)
    val = model.evaluate(data.x_val, data.y_val)
    return Metrics(
        test_accuracy=test["accuracy"],
        val_accuracy=val["accuracy"],
        test_loss=test["loss"],
        val_loss=val["loss"],
        train_seconds=seconds,
        images_per_second=solver.iteration * solver.batch_size / seconds,
        steps=solver.iteration,
        threads=get_num_threads(),
        isa=model.isa,
        parameters=model.architecture.parameters.count,
        weights_sha256=model.digest(),
    )


def table(metrics: Metrics) -> str:
    """The metrics, one on a line."""
    rows = {
        "test accuracy": f"{metrics.test_accuracy:.2%}",
        "test loss": f"{metrics.test_loss:.4f}",
        "validation accuracy": f"{metrics.val_accuracy:.2%}",
        "validation loss": f"{metrics.val_loss:.4f}",
        "training": f"{metrics.train_seconds:.2f} s, {metrics.steps:,} steps",
        "speed": f"{metrics.images_per_second:,.0f} images/s",
        "threads": f"{metrics.threads}",
        "instruction set": metrics.isa,
        "parameters": f"{metrics.parameters:,}",
        "weights_sha256": metrics.weights_sha256,
    }
    return aligned(rows)


def aligned(rows: Mapping[str, str]) -> str:
    """Names and values in two columns."""
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def confusion_matrix(labels: Array, predicted: Array, classes: int) -> Array:
    """(classes, classes) int64: how often a row's class was taken for a column's."""
    pairs = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def confusion_text(matrix: Array) -> str:
    """The matrix with its class numbers; zeros are dots, so that confusions stand out."""
    classes = len(matrix)
    if classes > MOST_CLASSES:
        return f"No confusion matrix: {classes} classes are more than {MOST_CLASSES}."
    width = max(len(str(matrix.max())), len(str(classes - 1)))
    head = " ".join(f"{c:>{width}}" for c in range(classes))
    rows = (
        f"{c:>4} | " + " ".join(f"{n or '.':>{width}}" for n in row)
        for c, row in enumerate(matrix.tolist())
    )
    title = "Confusion matrix of the test split: true classes in rows, predicted in columns"
    return "\n".join([title, f"     | {head}", f"-----+-{'-' * len(head)}", *rows])


def clear(folder: Path) -> None:
    """Removes the files of an earlier run, lest they be taken for this one's."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def write_run(folder: Path, model: Model, history: History) -> None:
    """What any ending leaves: model.npz and history.csv."""
    model.save(folder / "model.npz")
    write_history(folder / "history.csv", history)


def write_history(path: Path, history: History) -> None:
    """A line for each iteration, as CSV; cells are empty where nothing was measured."""
    checks = zip(*(history[name] for name in PER_CHECK), strict=False)
    measured = dict(zip(history["iterations"], checks, strict=False))
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["iteration", *PER_ITERATION, *PER_CHECK])
        for i, row in enumerate(zip(*(history[n] for n in PER_ITERATION), strict=False), 1):
            writer.writerow([i, *row, *measured.get(i, [""] * len(PER_CHECK))])


def prediction_lines(predictions: Predictions, classes: Sequence[str]) -> Iterator[str]:
    """File, row, class and probability of each example, with tabs between."""
    for path, probabilities in predictions:
        name = _plain(str(path))
        for row, best in enumerate(probabilities.argmax(axis=1)):
            yield f"{name}\t{row}\t{classes[best]}\t{probabilities[row, best]:.6f}"


def _plain(text: str) -> str:
    """Text in which what does not print, or would not fit into a line, is escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def write_probabilities(path: Path, predictions: Predictions, classes: Sequence[str]) -> None:
    """A line for each example, as CSV: file, row, class and the probabilities of all classes."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["file", "row", "class", *(f"p({name})" for name in classes)])
        for file, probabilities in predictions:
            for row, values in enumerate(probabilities):
                writer.writerow([file, row, classes[values.argmax()], *map(str, values)])


def write_metrics(path: Path, metrics: Metrics, configuration: Mapping[str, Any]) -> None:
    """The metrics and what led to them, as JSON."""
    content = {**asdict(metrics), "configuration": dict(configuration)}
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_curves(path: Path, history: History) -> str:
    """Draws loss and accuracies; a line that says so, or why there is no picture.

    matplotlib is an extra, and a picture is never worth a failed run: nothing is raised."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return "No curves.png: pip install 'cnncore[plot]' draws the curves."
    try:
        figure = Figure(figsize=(10, 4), layout="constrained")
        _draw(figure, history)
        figure.savefig(path, dpi=120)
    except Exception as error:
        return f"No curves.png: drawing failed ({type(error).__name__}: {error})."
    return f"Curves are in {path}."


def _draw(figure: Any, history: History) -> None:
    loss, accuracy = figure.subplots(1, 2)
    # Without the penalty, which a validation loss does not have either.
    steps = range(1, len(history["data_loss"]) + 1)
    loss.semilogy(steps, history["data_loss"], lw=0.8, label="training batches")
    loss.semilogy(history["iterations"], history["validation_loss"], ".-", label="validation")
    loss.set(xlabel="iteration", ylabel="loss")
    accuracy.plot(history["iterations"], history["train_accuracy"], ".-", label="training")
    accuracy.plot(history["iterations"], history["validation_accuracy"], ".-", label="validation")
    accuracy.set(xlabel="iteration", ylabel="accuracy")
    for axes in (loss, accuracy):
        axes.grid(alpha=0.3)
        axes.legend()
