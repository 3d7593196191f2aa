"""Whole training steps beside the peers in all their modes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from cnncore.ceiling import Ceiling

from . import timing, workloads
from .ours import Training
from .peers import Peer, ready

Row = dict[str, Any]


def run(
    pattern: str, peers: Sequence[Peer], best: Ceiling, rounds: int, show: Callable[[Row], None]
) -> Iterator[Row]:
    """A row for each workload."""
    for workload in workloads.matching(pattern):
        ours = Training(workload, best.dtype, best.isa)
        runs = {"cnncore": timed(ours)}
        for peer in peers:
            start = time.perf_counter()
            made = ready(peer, partial(peer.step, workload, best.dtype, best.threads))
            if made:
                runs[peer.name] = made
                print(f"  {peer.name} ready after {time.perf_counter() - start:.0f} s", flush=True)
        times = timing.alternate(runs, rounds, seconds=0.2)
        flops, limit = ours.cost(best)
        row = {
            "suite": "steps",
            "group": "steps",
            "name": f"{workload.name}, batch {workload.batch}, {type(workload.update).__name__}",
            "flops": flops,
            "bytes": 0,
            "limit": limit,
            "target": None,
            "times": {name: timing.summary(values) for name, values in times.items()},
        }
        show(row)
        yield row


def timed(training: Training) -> timing.Run:
    def run(repeats: int) -> float:
        start = time.perf_counter()
        training.run(repeats)
        return (time.perf_counter() - start) / repeats

    return run
