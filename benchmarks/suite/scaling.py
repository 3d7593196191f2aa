"""More threads, larger batches, and a neighbour who keeps one processor busy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean, median
from typing import Any

import cnncore as cnn
from cnncore.ceiling import Ceiling

from . import timing, workloads
from .ours import Training
from .peers import Peer, ready
from .steps import timed

Row = dict[str, Any]
BATCHES = (1, 4, 16, 64, 256)
STEPS = 200
SIZED = ("MLP 784", "ConvNet", "LeNet", "ResNet-20")
# Steps of some milliseconds: long enough to be disturbed, short enough for 200 of them.
NEIGHBOUR = ("tiny", "ConvNet", "LeNet")
BUSY = "import sys\nwhile True:\n    pass"


def run(
    pattern: str, peers: Sequence[Peer], best: Ceiling, rounds: int, show: Callable[[Row], None]
) -> Iterator[Row]:
    threads = sorted({1, 2, 4, 8, 16, 32, 64, best.threads})
    threads = [t for t in threads if t <= best.threads]
    print(f"\nms a step on {', '.join(map(str, threads))} threads; how many times as fast as one")
    for workload in workloads.matching(pattern):
        yield _threads(Training(workload, best.dtype, best.isa), workload.name, threads, rounds)
    print(f"\nmicroseconds an example on {best.threads} threads, by batch size")
    for workload in workloads.matching(pattern):
        if workload.name.startswith(SIZED):
            yield _batches(workload, best, rounds)
    if best.threads > 1:
        print(f"\nbeside a busy process on one processor: {STEPS} steps")
        for workload in workloads.matching(pattern):
            if workload.name.startswith(NEIGHBOUR):
                plain = [p for p in peers if "compile" not in p.name]
                yield from _beside_a_neighbour(workload, best, plain)


def _threads(ours: Training, name: str, threads: Sequence[int], rounds: int) -> Row:
    def on(count: int) -> timing.Run:
        run = timed(ours)

        def with_threads(repeats: int) -> float:
            cnn.set_num_threads(count)
            return run(repeats)

        return with_threads

    times = timing.alternate({str(count): on(count) for count in threads}, rounds, seconds=0.1)
    cnn.set_num_threads(threads[-1])
    found = {count: timing.summary(values) for count, values in times.items()}
    one = found["1"]["median"]
    cells = [f"{t['median'] * 1e3:.3f} ({one / t['median']:.2f}x)" for t in found.values()]
    print(f"{name:<32}{'  '.join(cells)}", flush=True)
    return {"suite": "scaling", "kind": "threads", "name": name, "found": found}


def _batches(workload: workloads.Workload, best: Ceiling, rounds: int) -> Row:
    runs = {
        str(n): timed(Training(replace(workload, batch=n), best.dtype, best.isa))
        for n in BATCHES
        if n > 1 or len(workload.input_shape) == 3  # one value a channel has no variance
    }
    times = timing.alternate(runs, rounds, seconds=0.05)
    found = {n: timing.summary(values) for n, values in times.items()}
    cells = [f"{n}: {t['median'] / int(n) * 1e6:.1f}" for n, t in found.items()]
    print(f"{workload.name:<32}{'  '.join(cells)}", flush=True)
    return {"suite": "scaling", "kind": "batches", "name": workload.name, "found": found}


def _beside_a_neighbour(
    workload: workloads.Workload, best: Ceiling, peers: Sequence[Peer]
) -> Iterator[Row]:
    runs: dict[str, timing.Run] = {"cnncore": timed(Training(workload, best.dtype, best.isa))}
    for peer in peers:
        made = ready(peer, partial(peer.step, workload, best.dtype, best.threads))
        if made:
            runs[peer.name] = made
    for name, run in runs.items():
        alone = _single_steps(run)
        with _Busy():
            beside = _single_steps(run)
        usual = median(alone)
        row = {
            "suite": "scaling", "kind": "neighbour", "name": f"{workload.name} {name}",
            "alone": alone, "beside": beside,
            "mean": mean(beside) / usual, "worst": max(beside) / usual,
        }  # fmt: skip
        print(
            f"{workload.name:<32}{name:<28}undisturbed {usual * 1e3:.3f} ms, "
            f"mean {row['mean']:.2f}x, worst {row['worst']:.1f}x",
            flush=True,
        )
        yield row


def _single_steps(run: timing.Run) -> list[float]:
    """Warm in both cases: a first step after a pause is as long as ten, neighbour or not. The
    neighbour's first moments are therefore not among them."""
    for _ in range(5):
        run(1)
    return [run(1) for _ in range(STEPS)]


class _Busy:
    """A process that never rests, on the first of this process's processors."""

    def __enter__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", BUSY])
        os.sched_setaffinity(self.process.pid, {min(os.sched_getaffinity(0))})
        time.sleep(0.2)

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait()
