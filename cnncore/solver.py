"""Minibatch training: the loop of cs231n's Solver, with exact resumption and safe endings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from math import inf, isfinite
from typing import Any, NamedTuple

import numpy as np

from . import inputs, ops
from .architecture import program, training
from .inputs import Examples
from .interrupts import Uninterrupted
from .model import EVALUATION_BATCH, Model
from .plan import GRADIENTS
from .program import Batches, Runner
from .progress import Progress
from .reference import philox
from .reference.case import Array
from .shapes import integer, number, one_of
from .updates import Update, check_lr
from .vector import Vector

# Steps of one run at most; a run ends sooner when its time slice is over.
LONGEST_RUN = 256

# Ordinals of the generator's stream: what is drawn.
EPOCH, REPLACEMENT, SAMPLE = 0, 1, 2


# Arguments as others spell them, and as they are spelt here.
_OTHER_NAMES = {
    "optimizer": "update=Adam(lr)",
    "epochs": "num_epochs=",
    "n_epochs": "num_epochs=",
    "max_iter": "num_iterations=",
    "iterations": "num_iterations=",
    "steps": "num_iterations=",
    "validation_data": "validation=(x, y)",
    "learning_rate": "the rule's own: update=Adam(lr)",
    "lr": "the rule's own: update=Adam(lr)",
    "update_rule": "update=SGD(lr)",
    "optim_config": "the rule's own arguments: update=Momentum(lr, mu)",
    "reg": "Model(..., regularization=L2(strength))",
    "weight_decay": "Model(..., regularization=L2(strength))",
    "shuffle": 'sampling="shuffle" or "replacement"',
    "drop_last": 'last_batch="drop" or "keep"',
    "sample_weight": "train=(x, y, weight)",
    "num_train_sample": "num_train_samples=",
}


class Step(NamedTuple):
    """What one iteration did. `epoch` counts from 1; `loss` is data loss plus penalty."""

    iteration: int
    epoch: int
    loss: float
    data_loss: float
    lr: float
    epoch_end: bool


class Solver:
    """Trains a model on minibatches.

    train: (x, y), (x, y, weight) with weights of the examples, or None; the loss is the sum of
    weight_i loss_i / n. The model's preprocessing, if it is not fitted yet, is fitted to x.
    validation: (x, y) or None. class_weight: None, "balanced" (each class of
    the training data weighs the same) or a dict of weights by class. update: SGD, Momentum,
    Nesterov, AdaGrad, RMSProp or Adam.
    Exactly one of num_epochs and num_iterations. sampling: "shuffle", each epoch a new order of all
    examples, or "replacement", each batch drawn anew (the course's). last_batch: "drop" or "keep"
    the partial batch at an epoch's end. lr_decay multiplies lr at each epoch's end.
    num_train_samples: train accuracy is checked on that many, drawn once. restore: at any ending
    the model gets the "best" parameters and statistics by validation accuracy, then loss, or the
    "last". verbose: None shows progress in a terminal after two seconds.

    Without train, a solver only steps: `step(x, y)`.

    `for step in solver` yields a Step after each iteration; between them `solver.lr` may be set.
    Run to its end it ends as `train` does; left early, the model holds what the last step made.
    Raises ValueError or TypeError naming the argument; DivergenceError from a step whose loss or
    gradient is not finite, which then has changed nothing."""

    def __init__(
        self,
        model: Model,
        train: Any = None,
        validation: Any = None,
        update: Update | None = None,
        batch_size: int = 100,
        num_epochs: int | None = None,
        num_iterations: int | None = None,
        sampling: str = "shuffle",
        last_batch: str = "drop",
        lr_decay: float = 1.0,
        num_train_samples: int = 1000,
        restore: str = "best",
        class_weight: Any = None,
        seed: int | None = None,
        verbose: bool | None = None,
        **unknown: Any,
    ) -> None:
        for name in unknown:
            right = _OTHER_NAMES.get(name)
            hint = f"; here it is {right}" if right else ""
            raise TypeError(f"Solver has no argument {name}{hint}")
        if not isinstance(model, Model):
            raise TypeError(f"model must be a Model, not {type(model).__name__}")
        if not isinstance(update, Update):
            hint = f"; write {update.__name__}(lr)" if isinstance(update, type) else ""
            raise TypeError(
                "update must be SGD, Momentum, Nesterov, AdaGrad, RMSProp or Adam, "
                f"not {update!r}{hint}"
            )
        one_of("sampling", sampling, ("shuffle", "replacement"))
        one_of("last_batch", last_batch, ("drop", "keep"))
        one_of("restore", restore, ("best", "last"))
        if not set(model.architecture.parameters) - model.frozen:
            raise ValueError("the model has no parameters to train")
        self.model, self.update = model, update
        self.batch_size = integer("batch_size", batch_size)
        self.sampling, self.last_batch, self.restore = sampling, last_batch, restore
        self.lr_decay = number("lr_decay", lr_decay, 0, inf, open_low=True, open_high=True)
        self.num_train_samples = integer("num_train_samples", num_train_samples)
        self.seed = model.seed if seed is None else integer("seed", seed, 0, 2**64 - 1)
        self.verbose = verbose
        self.iteration = 0
        self._lr = update.lr
        self._take_data(train, validation, class_weight)
        self._count_iterations(num_epochs, num_iterations)
        self.history: dict[str, list[float]] = {
            name: []
            for name in (
                "loss", "data_loss", "penalty", "iterations", "train_accuracy", "train_loss",
                "validation_accuracy", "validation_loss",
            )
        }  # fmt: skip
        self._best: tuple[tuple[float, float], bytes, bytes] | None = None
        self._last: tuple[bytes, bytes] | None = None
        self._order: tuple[int, Array] | None = None
        self._sample: Array | None = None
        self._check_due = False
        self._vectors = {
            name: Vector(model.architecture.parameters, model.dtype)
            for name in (GRADIENTS, *update.states)
        }
        self._runners: dict[tuple[bool, frozenset[str]], Runner] = {}
        self._training = threading.Lock()

    def _take_data(self, train: Any, validation: Any, class_weight: Any) -> None:
        self._train = self._validation = None
        self._class_weights: Array | None = None
        if train is not None:
            _check_tuple("train", train, (2, 3))
            self.model.fit_preprocessing(train[0], "train x")
            self._train = self._examples("train", train)
            self.batch_size = min(self.batch_size, len(self._train.x))
        if validation is not None:
            _check_tuple("validation", validation, (2,))
            self._validation = self._examples("validation", validation)
        if class_weight is None:
            return
        if self.model.loss.targets != "class":
            raise ValueError("class_weight needs a loss over class indices")
        if self._train is None and class_weight == "balanced":
            raise ValueError('class_weight="balanced" needs train=(x, y) to count the classes')
        y = self._train.y if self._train is not None else np.zeros(0, np.int64)
        self._class_weights = inputs.class_weights(
            "class_weight", class_weight, y, self.model.outputs
        )
        if self._train is not None:
            self._train = self._with_class_weights(self._train)

    def _examples(self, name: str, given: Any) -> Examples:
        weight = given[2] if len(given) == 3 else None
        return self.model.labelled(given[0], given[1], weight, f"{name} ")

    def _with_class_weights(self, examples: Examples) -> Examples:
        """The examples with their weights times those of their classes."""
        if self._class_weights is None:
            return examples
        weight = self._class_weights[examples.y]
        if examples.weight is not None:
            weight = weight * examples.weight
        return examples._replace(weight=weight.astype(self.model.dtype))

    def _count_iterations(self, num_epochs: int | None, num_iterations: int | None) -> None:
        if self._train is None:
            if num_epochs is not None or num_iterations is not None:
                raise ValueError("num_epochs and num_iterations need train=(x, y)")
            self.iterations_per_epoch = self.num_iterations = 0
            return
        if (num_epochs is None) == (num_iterations is None):
            raise ValueError("give exactly one of num_epochs and num_iterations")
        count = len(self._train.x)
        whole, rest = divmod(count, self.batch_size)
        keep = rest > 0 and self.last_batch == "keep" and self.sampling == "shuffle"
        self.iterations_per_epoch = max(whole, 1) + keep
        if num_iterations is not None:
            self.num_iterations = integer("num_iterations", num_iterations)
        else:
            assert num_epochs is not None
            epochs = integer("num_epochs", num_epochs)
            self.num_iterations = epochs * self.iterations_per_epoch

    @property
    def lr(self) -> float:
        """Learning rate of the next step; may be set at any time."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = check_lr(value)

    @property
    def epoch(self) -> int:
        """Of the next step, from 1."""
        return self.iteration // max(self.iterations_per_epoch, 1) + 1

    def train(self, num_epochs: int | None = None) -> dict[str, list[float]]:
        """Trains to the end, or for `num_epochs` more, and returns the history.

        However it ends (finished, interrupted, diverged), the model then holds what `restore` says
        and the history what happened; the exception, if any, goes on."""
        self._need_data()
        with self._alone():
            if num_epochs is not None:
                more = integer("num_epochs", num_epochs) * self.iterations_per_epoch
                self.num_iterations = self.iteration + more
            with Progress(self.iteration, self.num_iterations, self.verbose) as progress:
                try:
                    self._resume()
                    while self.iteration < self.num_iterations:
                        progress.show(self._advance(LONGEST_RUN), self.history)
                finally:
                    self._finish()
        return self.history

    def __iter__(self) -> Iterator[Step]:
        self._need_data()
        with self._alone():
            self._resume()
        while self.iteration < self.num_iterations:
            with self._alone():
                step = self._advance(1)
            yield step
        with self._alone():
            self._finish()

    def step(self, x: Any, y: Any, weight: Any = None) -> float:
        """One training step on this batch, an iteration like any other; its loss, data loss plus
        penalty."""
        examples = self._with_class_weights(self.model.labelled(x, y, weight))
        n = len(examples.x)
        if n > self.batch_size:
            raise ValueError(f"x has {n} examples, more than batch_size = {self.batch_size}")
        with self._alone(), Uninterrupted():
            results = self._run(examples, np.array([n], np.int64), np.arange(n))
            return self._record(results).loss

    def _need_data(self) -> None:
        if self._train is None:
            raise ValueError("this solver has no data: give train=(x, y), or call step(x, y)")

    def _run(self, examples: Examples, sizes: Array, index: Array) -> Array:
        """One run of the tape from the current iteration: results of the steps it did."""
        runner = self._runner_for(examples.weight is not None)
        lr = np.full(len(sizes), self._lr)
        runner.bind(examples.bindings, examples.prefix)
        try:
            return runner.run(Batches(sizes, index, lr, self.iteration + 1, self.seed))
        finally:
            runner.release()

    def _alone(self) -> threading.Lock:
        """Trains in one thread at a time: a second one is refused before it changes anything.

        A lock, since nothing can interrupt a `with` of one between taking and giving it back."""
        if self._training.locked():
            raise RuntimeError("this solver is training already, in another thread")
        return self._training

    def __reduce__(self) -> Any:
        raise TypeError("a Solver cannot be pickled or copied; pickle, clone or save its model")

    def _runner_for(self, weighted: bool) -> Runner:
        model = self.model
        key = weighted, model.frozen  # all that may change between two steps
        if key not in self._runners:
            purpose = training(
                self.batch_size, model.isa, model.loss, model.l2, self.update, weighted=weighted,
                frozen=model.frozen,
            )  # fmt: skip
            self._runners[key] = Runner(
                program(model.architecture, purpose), model.vectors | self._vectors
            )
        return self._runners[key]

    def _advance(self, limit: int) -> Step:
        """Up to `limit` steps, not beyond the epoch's end, and what is due after them: the last."""
        assert self._train is not None
        position = self.iteration % self.iterations_per_epoch
        count = min(
            limit,
            self.iterations_per_epoch - position,
            self.num_iterations - self.iteration,
            # Accuracy is checked after the very first step.
            1 if self.iteration == 0 else limit,
        )
        sizes, index = self._batches(self.epoch, position, count)
        with Uninterrupted():
            step = self._record(self._run(self._train, sizes, index))
        if self._check_due:
            self._check_accuracy()
        return step

    def _record(self, results: Array) -> Step:
        """The books of the steps of an epoch that a run did, data loss and penalties of each: the
        last of them."""
        epoch = self.epoch
        self.iteration += len(results)
        data_losses = results[:, 0].tolist()
        penalties = [sum(row, 0.0) for row in results[:, 1:].tolist()]
        losses = [data + penalty for data, penalty in zip(data_losses, penalties, strict=True)]
        self.history["loss"] += losses
        self.history["data_loss"] += data_losses
        self.history["penalty"] += penalties
        end = self._train is not None and self.iteration % self.iterations_per_epoch == 0
        step = Step(self.iteration, epoch, losses[-1], data_losses[-1], self._lr, end)
        if end:
            self._lr *= self.lr_decay
        checked = end or self.iteration in (1, self.num_iterations)
        self._check_due = checked and self._train is not None
        return step

    def _batches(self, epoch: int, position: int, count: int) -> tuple[Array, Array]:
        """Sizes and row numbers of `count` batches from `position` in the epoch."""
        assert self._train is not None
        total, size = len(self._train.x), self.batch_size
        first = position * size
        if self.sampling == "replacement":
            # One draw for each example of the whole training: where a run ends changes nothing.
            draws = philox.draws_64(
                self.seed, count * size, 1, philox.SHUFFLE, REPLACEMENT, self.iteration * size
            )
            rows = (draws >> np.uint64(32)) * np.uint64(total) >> np.uint64(32)
            return np.full(count, size, np.int64), rows.astype(np.int64)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self._shuffled(epoch)
        end = min(first + count * size, total)
        sizes = np.full(count, size, np.int64)
        sizes[-1] = end - first - (count - 1) * size
        return sizes, self._order[1][first:end]

    def _check_accuracy(self) -> None:
        assert self._train is not None
        if self._sample is None:
            self._sample = self._draw_sample()
        train = self.model.evaluate_checked(self._train, EVALUATION_BATCH, self._sample)
        found = None
        if self._validation is not None:
            found = self.model.evaluate_checked(self._validation, EVALUATION_BATCH)
        with Uninterrupted():
            self.history["iterations"].append(self.iteration)
            self._note("train", train)
            if found is not None:
                self._note("validation", found)
                score = found.get("accuracy", 0.0), -found["loss"]
                # A NaN loss is no candidate: its argmax may be right by accident.
                if isfinite(score[1]) and (self._best is None or score > self._best[0]):
                    self._best = score, *self._snapshot()
            self._check_due = False

    def _note(self, part: str, found: dict[str, float]) -> None:
        self.history[f"{part}_loss"].append(found["loss"])
        if "accuracy" in found:
            self.history[f"{part}_accuracy"].append(found["accuracy"])

    def _draw_sample(self) -> Array:
        """Rows of the training data that accuracy is checked on: the same at every check."""
        assert self._train is not None
        count = len(self._train.x)
        if count <= self.num_train_samples:
            return np.arange(count)
        return np.sort(self._shuffled(1, SAMPLE)[: self.num_train_samples])

    def _shuffled(self, t: int, ordinal: int = EPOCH) -> Array:
        """The numbers of all training examples in an order of their own for each t and ordinal."""
        assert self._train is not None
        count = len(self._train.x)
        return ops.shuffle.forward(
            count=count, ordinal=ordinal, seed=self.seed, t=t, isa=self.model.isa, threads=1
        )["order"]

    def _snapshot(self) -> tuple[bytes, bytes]:
        return self.model.parameters.tobytes(), self.model.statistics.tobytes()

    def _write(self, parameters: bytes, statistics: bytes) -> None:
        for vector, saved in (
            (self.model.parameters, parameters), (self.model.statistics, statistics)
        ):  # fmt: skip
            vector[...] = np.frombuffer(saved, vector.dtype)

    def _resume(self) -> None:
        """Goes on from the last state, unless the model was changed since the ending."""
        with Uninterrupted():
            best = self._best[1:] if self._best is not None else None
            if self._last is not None and self._snapshot() == best:
                self._write(*self._last)
            self._last = None
        if self._check_due:  # an interruption came before it
            self._check_accuracy()

    def _finish(self) -> None:
        with Uninterrupted():
            if self.restore == "best" and self._best is not None:
                self._last = self._snapshot()
                self._write(*self._best[1:])


def _check_tuple(name: str, given: Any, lengths: tuple[int, ...]) -> None:
    if not isinstance(given, (tuple, list)) or len(given) not in lengths:
        shape = "(x, y)" if lengths == (2,) else "(x, y) or (x, y, weight)"
        raise TypeError(f"{name} must be {shape}")
    if given[1] is None:
        raise TypeError(f"{name} y is None, expected targets")
