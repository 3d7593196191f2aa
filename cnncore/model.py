"""A net with parameters: what users hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import inputs, levels, losses
from .architecture import DTYPES, Architecture, Purpose, architecture, program, training
from .errors import DataFormatError
from .fuse import winograd_form
from .inputs import Examples
from .layers import Sequential
from .plan import GRADIENTS, PARAMETERS, PREPROCESSING, STATISTICS, Op, Plan, op_cost
from .preprocessing import Chain, Preprocessing
from .program import Batches, Runner
from .reference.case import Array
from .shapes import integer
from .updates import L2, Update
from .vector import Vector

if TYPE_CHECKING:
    from .profiling import Profile

EVALUATION_BATCH = 256
# Running copies of a prediction plan that a model keeps for its threads, and of how many plans.
POOL = 4


# What models have elsewhere, and how it is done here.
_OTHER_NAMES = {
    "fit": "train it with Solver(model, train=(x, y), update=Adam(1e-3), num_epochs=5).train()",
    "train": "train it with Solver(model, train=(x, y), update=Adam(1e-3), num_epochs=5).train()",
    "compile": "give loss= to Model, and the update rule to Solver",
    "weights": "its parameters are model.parameters, or model.state() by path",
    "state_dict": "its arrays by path are model.state()",
    "load_state_dict": "arrays by path are taken by model.load_state(state)",
    "forward": "model.scores(x) gives the scores",
    "score": "model.evaluate(x, y) gives accuracy and loss",
}


class StateDifference(NamedTuple):
    """Paths that a loaded state did not have, and those that the model does not have."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class Model:
    """A net for inputs of one shape, with its parameters, statistics and loss.

    net: `Sequential` or a list of layers. input_shape: of one example, (d,) or (h, w, c), or
    (c, h, w) with input_layout="nchw". loss: "softmax" or a Loss. regularization: None or L2.
    seed: of the initial weights. dtype: "float32" or "float64". isa: instruction set (default: the
    best available). classes: names of the classes, saved with the model. preprocessing: steps, in
    order, of ZeroCenter, Normalize, PCA and Whiten; copies of them work on all inputs, in training
    and after it, and are fitted by the first Solver with training data, if they are not.
    precision: "fast" computes convolutions at stride 1 by Winograd's algorithm where that is
    faster, with a few times the rounding error of the direct sums (docs/performance.md), which
    "exact" keeps to; None takes the environment's CNNCORE_PRECISION, or else "fast".

    Inputs are uint8, meaning x / 255, or floats, taken as they are. Raises ValueError or TypeError
    naming the layer or argument."""

    def __init__(
        self, net: Any, input_shape: Any, loss: Any = "softmax", regularization: L2 | None = None,
        seed: int = 0, dtype: str = "float32", input_layout: str = "nhwc", isa: str | None = None,
        classes: Sequence[str] | None = None, preprocessing: Sequence[Preprocessing] = (),
        precision: str | None = None,
    ) -> None:  # fmt: skip
        if not isinstance(net, Sequential):
            net = Sequential(net)
        if str(np.dtype(dtype) if isinstance(dtype, (type, np.dtype)) else dtype) not in DTYPES:
            raise ValueError(f"dtype must be float32 or float64, not {dtype!r}")
        if regularization is not None and not isinstance(regularization, L2):
            raise TypeError(f"regularization must be None or L2(strength), not {regularization!r}")
        self.net = net
        self.loss = losses.resolve(loss)
        self.regularization = regularization
        self.seed = integer("seed", seed, 0, 2**64 - 1)
        self.dtype = np.dtype(dtype).name
        self.input_layout = input_layout
        self.isa = levels.choose(isa)
        self.precision = levels.precision(precision)
        self.input_shape = inputs.input_shape(input_shape, input_layout)
        self.preprocessing = Chain(preprocessing, self.input_shape)
        self._architecture = architecture(
            net, self.preprocessing.output_shape, self.dtype,
            tuple(self.preprocessing.lengths.items()), self.precision,
        )  # fmt: skip
        self.classes = self._class_names(classes)
        self._parameters = Vector(self._architecture.parameters, self.dtype)
        self.statistics = Vector(self._architecture.statistics, self.dtype)
        self._scalings = Vector(self._architecture.scalings, self.dtype)
        self._set_scalings()
        self.frozen: frozenset[str] = frozenset()
        self._pool: dict[Purpose, list[Runner]] = {}
        self.initialize(self.seed)

    def _class_names(self, names: Sequence[str] | None) -> tuple[str, ...] | None:
        if names is None:
            return None
        if (
            not np.iterable(names)
            or isinstance(names, str)
            or not all(isinstance(name, str) for name in names)
        ):
            raise TypeError(f"classes must be a list of names, not {names!r}")
        if len(names) != self.outputs or len(set(names)) != len(names):
            raise ValueError(f"classes must be {self.outputs} different names, not {names!r}")
        return tuple(names)

    @property
    def parameters(self) -> Vector:
        """All parameters in one flat vector, found by path; setting it copies into it."""
        return self._parameters

    @parameters.setter
    def parameters(self, values: Any) -> None:
        self._parameters[...] = values

    @property
    def given_shape(self) -> tuple[int, ...]:
        """Of one example, as the user's arrays have it: (c, h, w) for nchw."""
        shape = self.input_shape
        return (shape[2], *shape[:2]) if self.input_layout == "nchw" and len(shape) == 3 else shape

    @property
    def outputs(self) -> int:
        """Scores an example gets: the number of classes, or of real targets."""
        return self._architecture.outputs

    @property
    def l2(self) -> float:
        return self.regularization.strength if self.regularization else 0.0

    def initialize(self, seed: int) -> None:
        """Draws all parameters anew and resets the statistics."""
        seed = integer("seed", seed, 0, 2**64 - 1)
        for vector in (self.parameters, self.statistics):
            assert vector.layout is not None
            for path, entry in vector.layout.entries.items():
                constant = isinstance(entry.fill, float)
                value = entry.fill if constant else entry.fill.draw(seed, path, entry.shape)
                vector.part(path)[...] = value

    if not TYPE_CHECKING:  # to a type checker an unknown name stays an error

        def __getattr__(self, name: str) -> Any:
            hint = _OTHER_NAMES.get(name)
            words = f"Model has no {name}" + (f"; {hint}" if hint else "")
            raise AttributeError(words, name=name, obj=self)

    def __getitem__(self, path: str) -> Array:
        """View of the parameter or statistic at a path ("0.w"); writing changes the model."""
        if path in self._architecture.statistics:
            return self.statistics.part(path)
        return self.parameters.part(path)

    def __setitem__(self, path: str, value: Any) -> None:
        self[path][...] = value

    def __repr__(self) -> str:
        count = self._architecture.parameters.count
        return (
            f"Model({len(self._architecture.layers)} layers, input_shape={self.given_shape}, "
            f"loss={self.loss}, {count:,} parameters, {self.dtype})"
        )

    def paths(self) -> tuple[str, ...]:
        return (*self._architecture.parameters, *self._architecture.statistics)

    def state(self) -> dict[str, Array]:
        """Views of all parameters and statistics by path."""
        return {path: self[path] for path in self.paths()}

    def load_state(self, state: Mapping[str, Any], strict: bool = True) -> StateDifference:
        """Copies arrays into the parameters and statistics of the same paths.

        strict: KeyError if a path is missing or unexpected; otherwise those are returned.
        ValueError for an array of the wrong shape, TypeError for one of the wrong kind. Nothing is
        changed unless all fit."""
        difference = StateDifference(
            tuple(path for path in self.paths() if path not in state),
            tuple(path for path in state if path not in self.paths()),
        )
        if strict and any(difference):
            raise KeyError(
                f"missing: {', '.join(difference.missing) or 'none'}; "
                f"unexpected: {', '.join(difference.unexpected) or 'none'}"
            )
        arrays = {path: np.asarray(state[path]) for path in self.paths() if path in state}
        for path, array in arrays.items():
            if array.dtype.kind not in "fiu":
                raise TypeError(f"{path} has dtype {array.dtype}, expected numbers")
            if array.shape != self[path].shape:
                raise ValueError(f"{path} has shape {array.shape}, expected {self[path].shape}")
        for path, array in arrays.items():
            self[path][...] = array
        return difference

    def freeze(self, pattern: str) -> tuple[str, ...]:
        """Trains no more what the pattern names; the paths of those parameters.

        pattern: a layer's path ("stage1"), a parameter's ("3.w"), or with wildcards ("stage*").
        Backward passes stop below the lowest layer that is trained. A batch normalization whose
        gamma and beta are frozen uses its running statistics and leaves them alone. Frozen
        parameters carry no penalty. KeyError if the pattern names nothing."""
        matched = self._matching(pattern)
        self.frozen |= set(matched)
        return matched

    def unfreeze(self, pattern: str = "*") -> tuple[str, ...]:
        """Trains again what the pattern names; all by default."""
        matched = self._matching(pattern)
        self.frozen -= set(matched)
        return matched

    def _matching(self, pattern: str) -> tuple[str, ...]:
        paths = tuple(
            path
            for path in self._architecture.parameters
            if fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")
        )
        if not paths:
            raise KeyError(
                f"{pattern!r} names no parameter; there are {', '.join(self.parameters.paths())}"
            )
        return paths

    def fit_preprocessing(self, x: Any, name: str = "x") -> None:
        """Fits the steps of preprocessing that are not fitted yet to x (n, ...). Those that are,
        and a model without any, stay as they are."""
        if not self.preprocessing.fitted:
            self.preprocessing.fit(self._checked(x, name), name)
            self._set_scalings()

    def _set_scalings(self) -> None:
        if self.preprocessing.fitted:
            for name, values in self.preprocessing.vectors().items():
                self._scalings.part(f"{PREPROCESSING}.{name}")[...] = values

    def clone(self, seed: int | None = None, dtype: str | None = None) -> Model:
        """An equal model with memory of its own: the same weights, or with `seed` new ones; of
        another dtype if one is given."""
        changes = {"seed": seed, "dtype": dtype}
        copy = Model(**self._arguments | {n: v for n, v in changes.items() if v is not None})
        copy.frozen = self.frozen
        if seed is None:
            copy.load_state(self.state())
        return copy

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return self.clone()

    def __reduce__(self) -> tuple[Any, ...]:
        """For worker processes (never a file format: see `save`)."""
        state = {path: array.copy() for path, array in self.state().items()}
        return _unpickle, (self._arguments, state, self.frozen)

    @property
    def _arguments(self) -> dict[str, Any]:
        """What `Model` is called with to make such a model."""
        names = (
            "net", "loss", "regularization", "seed", "dtype", "input_layout", "isa", "classes",
            "precision",
        )  # fmt: skip
        return {name: getattr(self, name) for name in names} | {
            "input_shape": self.given_shape,
            "preprocessing": self.preprocessing.steps,
        }

    @property
    def vectors(self) -> dict[str, Array]:
        return {
            PARAMETERS: self.parameters, STATISTICS: self.statistics, PREPROCESSING: self._scalings
        }  # fmt: skip

    def examples(self, x: Any, name: str = "x") -> Array:
        """x checked and brought into the form that plans read. NotFittedError if preprocessing is
        not fitted."""
        return self.preprocessing.enter(self._checked(x, name), self.dtype)

    def _checked(self, x: Any, name: str) -> Array:
        return inputs.examples(name, x, self.input_shape, self.input_layout, self.dtype)

    def targets(self, y: Any, count: int, name: str = "y") -> Array:
        """y checked: class indices, or real numbers, as the loss wants them."""
        if self.loss.targets == "real":
            return inputs.real_targets(name, y, count, self.outputs, self.dtype)
        return inputs.class_labels(name, y, count, self.outputs)

    def labelled(self, x: Any, y: Any, weight: Any = None, prefix: str = "") -> Examples:
        """x, y and the examples' weights, checked together; `prefix` for messages."""
        data = self.examples(x, f"{prefix}x")
        targets = self.targets(y, len(data), f"{prefix}y")
        if weight is not None:
            weight = inputs.example_weights(f"{prefix}weight", weight, len(data), self.dtype)
        return Examples(data, targets, weight, prefix)

    def scores(self, x: Any, batch_size: int = EVALUATION_BATCH) -> Array:
        """(n, classes): what the net gives, before the softmax."""
        return self._forward("scores", self.examples(x), batch_size)

    def predict_proba(self, x: Any, batch_size: int = EVALUATION_BATCH) -> Array:
        """(n, classes): softmax of the scores."""
        return self._forward("probabilities", self.examples(x), batch_size)

    def predict(self, x: Any, batch_size: int = EVALUATION_BATCH) -> Array:
        """(n,): the class with the largest score, int64."""
        best: Array = self.scores(x, batch_size).argmax(axis=1)
        return best

    def evaluate(self, x: Any, y: Any, batch_size: int = EVALUATION_BATCH) -> dict[str, float]:
        """{"accuracy": share of right predictions, "loss": mean data loss, without penalty}; a loss
        with real targets has no accuracy."""
        return self.evaluate_checked(self.labelled(x, y), batch_size)

    def evaluate_checked(
        self, examples: Examples, batch_size: int, rows: Array | None = None
    ) -> dict[str, float]:
        """`evaluate` of what `labelled` returned, or of some rows of it."""
        rows = np.arange(len(examples.x)) if rows is None else rows
        log: list[tuple[Array, Array]] = []
        scores = self._forward("evaluate", examples.x, batch_size, rows, examples, log)
        # One sum, whose order does not depend on when the clock ended a run.
        losses = np.concatenate([results[:, 0] * sizes for results, sizes in log])
        found = {"loss": float(losses.sum()) / len(rows)}
        if self.loss.targets == "class":
            right = np.count_nonzero(scores.argmax(axis=1) == examples.y[rows])
            found["accuracy"] = right / len(rows)
        return found

    def _forward(
        self, kind: str, data: Array, batch_size: int, rows: Array | None = None,
        examples: Examples | None = None, log: list[tuple[Array, Array]] | None = None,
    ) -> Array:  # fmt: skip
        """Scores or probabilities of the rows of `data`, all by default; of `examples`, `log` gets
        the losses and sizes of the batches."""
        rows = np.arange(len(data)) if rows is None else rows
        # A power of two that holds them: few capacities, whatever numbers of rows are asked for.
        capacity = min(integer("batch_size", batch_size), 1 << (len(rows) - 1).bit_length())
        purpose = Purpose(kind, capacity, self.isa, self.loss if examples else None)
        out = np.empty((len(rows), self.outputs), self.dtype)
        runner = self._take_runner(purpose)
        labels = {} if examples is None else {"labels": examples.y}
        runner.bind({"data": data, "y": out} | labels, examples.prefix if examples else "")
        try:
            done = 0
            while done < len(rows):
                batches = Batches.in_order(rows, done, capacity)
                results = runner.run(batches)
                if log is not None:
                    log.append((results, batches.sizes[: len(results)]))
                done += len(results) * capacity  # the last may be smaller
        finally:
            runner.release()
            self._give_back(purpose, runner)
        return out

    def _take_runner(self, purpose: Purpose) -> Runner:
        try:
            return self._pool[purpose].pop()
        except (KeyError, IndexError):
            return Runner(program(self._architecture, purpose), self.vectors)

    def _give_back(self, purpose: Purpose, runner: Runner) -> None:
        """Keeps a runner for the next call: a few for each purpose, of the latest few purposes."""
        idle = self._pool.pop(purpose, [])
        if len(idle) < POOL:
            idle.append(runner)
        self._pool[purpose] = idle
        for oldest in list(self._pool)[:-POOL]:
            self._pool.pop(oldest, None)

    def loss_and_gradients(
        self, x: Any, y: Any, weight: Any = None, t: int = 1
    ) -> tuple[float, Vector]:
        """(loss, gradients) of one batch in training mode, penalty included; nothing is updated.

        Batch statistics are this batch's, dropout masks those of iteration t. The gradients are a
        flat vector with the same paths as the parameters."""
        examples = self.labelled(x, y, weight)
        runner, gradients = self.gradient_runner(examples)
        runner.bind(examples.bindings)
        results = runner.run(Batches.one(len(examples.x), integer("t", t), self.seed))
        runner.release()
        return float(results.sum()), gradients

    def gradient_runner(
        self, examples: Examples, *, input_gradient: bool = False
    ) -> tuple[Runner, Vector]:
        """A plan that differentiates the loss of such examples, and the vector it writes to."""
        purpose = Purpose(
            "gradients", len(examples.x), self.isa, self.loss, self.l2,
            input_gradient=input_gradient, weighted=examples.weight is not None,
            frozen=self.frozen,
        )  # fmt: skip
        gradients = Vector(self._architecture.parameters, self.dtype)
        made = program(self._architecture, purpose)
        return Runner(made, self.vectors | {GRADIENTS: gradients}), gradients

    def activations(
        self, x: Any, layers: Sequence[str] | None = None, batch_size: int = EVALUATION_BATCH
    ) -> dict[str, Array]:
        """What layers give at test time, by path: arrays (n, ...). All layers by default."""
        data = self.examples(x)
        known = [path for path, _, _ in self._architecture.layers]
        wanted = known if layers is None else list(layers)
        missing = [path for path in wanted if path not in known]
        if missing:
            raise KeyError(f"there is no layer {missing[0]!r}; there are {', '.join(known)}")
        capacity = min(integer("batch_size", batch_size), len(data))
        purpose = Purpose("scores", capacity, self.isa, keep=tuple(wanted))
        runner = Runner(program(self._architecture, purpose), self.vectors)
        runner.bind({"data": data, "y": np.empty((len(data), self.outputs), self.dtype)})
        parts: dict[str, list[Array]] = {path: [] for path in wanted}
        steps = Batches.in_order(np.arange(len(data)), 0, capacity)
        for i, n in enumerate(steps.sizes):
            runner.run(steps.only(i))
            for path, found in parts.items():
                found.append(runner.value(runner.program.plan.named[path], int(n)).copy())
        return {path: np.concatenate(found) for path, found in parts.items()}

    def stepping(self, x: Any, y: Any, t: int = 1) -> Iterator[tuple[Op, dict[str, Array]]]:
        """Runs the plan of `loss_and_gradients` one op at a time: each op with its results, which
        hold until the next."""
        examples = self.labelled(x, y)
        runner, _ = self.gradient_runner(examples)
        runner.bind(examples.bindings)
        yield from runner.stepping(Batches.one(len(examples.x), t, self.seed))
        runner.release()

    def profile(self, x: Any, y: Any, update: Update | None = None) -> Profile:
        """Times each op of a training step on this batch, with `update` also the update: print it.

        Takes a second or two; see `cnncore.profiling`. The model stays as it is."""
        from . import profiling  # seldom asked for

        examples = self.labelled(x, y)
        given = len(examples.x), self.isa, self.loss, self.l2
        purpose = (
            Purpose("gradients", *given, frozen=self.frozen)
            if update is None
            else training(*given, update, frozen=self.frozen)
        )
        return profiling.profile(self._architecture, purpose, self.vectors, examples, self.seed)

    def plan(self, kind: str = "scores", batch_size: int = EVALUATION_BATCH) -> Plan:
        """The plan for "scores", "probabilities", "evaluate" or "gradients"; print it."""
        kinds = ("scores", "probabilities", "evaluate", "gradients")
        if kind not in kinds:
            raise ValueError(f"kind must be one of {', '.join(kinds)}, not {kind!r}")
        batch_size = integer("batch_size", batch_size)
        purpose = Purpose(kind, batch_size, self.isa, self.loss, self.l2)
        return program(self._architecture, purpose).plan

    def summary(self) -> str:
        """Layers with output shapes, parameters and FLOPs of one example forward, and how training
        computes a convolution that is not summed directly; and the memory that one example's
        activations take in training, at most."""
        flops: dict[str, int] = {}
        for op in self._architecture.forward_ops:
            flops[op.layer] = flops.get(op.layer, 0) + op_cost(op)[0]
        layout = self._architecture.parameters
        counts = {
            path: sum(
                e.length for e in layout.entries.values() if e.path.rpartition(".")[0] == path
            )
            for path, _, _ in self._architecture.layers
        }
        plan = self.plan("gradients")
        kinds = {op.layer: winograd_form(op) for op in plan.ops if op.kernel == "conv2d_forward"}
        rows = [("layer", "type", "output", "parameters", "FLOPs")]
        rows += [
            (
                path,
                kind + kinds.get(path, ""),
                str(y.shape[1:]),
                f"{counts[path]:,}",
                f"{flops.get(path, 0):,}",
            )
            for path, kind, y in self._architecture.layers
        ]
        return _table(rows) + (
            f"\n{layout.count:,} parameters, {sum(flops.values()):,} FLOPs forward and "
            f"{self._architecture.activation_bytes / 1024:,.1f} KiB of activations an example, "
            f"{self.dtype}, {self.isa}"
        )

    def save(self, path: Any) -> None:
        """Writes parameters, statistics and configuration to one file; see `cnncore.load`.

        Raises OSError if it cannot be written; what was there before then remains."""
        from . import storage  # archives take longer to import than all the rest

        storage.save(path, self._arguments, self.preprocessing, self.state())

    def digest(self) -> str:
        """SHA-256 over the little-endian parameters in path order, then the statistics."""
        import hashlib  # slow to import; also in `init`

        sha = hashlib.sha256()
        for layout in self._architecture.layouts:
            for path in sorted(layout):
                sha.update(self[path].astype(self[path].dtype.newbyteorder("<")).tobytes())
        return sha.hexdigest()

    @property
    def architecture(self) -> Architecture:
        return self._architecture


def load(path: Any) -> Model:
    """The model that `Model.save` wrote.

    Raises DataFormatError, a ValueError, naming the file and what is wrong with it; OSError if it
    cannot be opened."""
    from . import storage  # as above

    arguments, state = storage.load(path)
    try:
        model = Model(**arguments)
    except (ValueError, TypeError) as error:
        raise DataFormatError(f"{path}: its configuration is wrong: {error}") from None
    model.load_state(state)
    return model


def _unpickle(arguments: dict[str, Any], state: dict[str, Array], frozen: frozenset[str]) -> Model:
    model = Model(**arguments)
    model.load_state(state)
    model.frozen = frozen
    return model


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
