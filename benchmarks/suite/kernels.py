"""Single kernels beside what the machine can do and beside the peers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from cnncore import ceiling
from cnncore.ceiling import Ceiling

from . import problems
from .peers import Peer, ready
from .problems import Prepared, Tape
from .timing import Run, alternate, summary

Row = dict[str, Any]


def run(
    pattern: str, peers: Sequence[Peer], best: Ceiling, rounds: int, show: Callable[[Row], None]
) -> Iterator[Row]:
    """A row for each problem. The probe of multiply-adds takes its turn too: `probe` is what it
    usually reached during the row, and `probe_best` at most, as shares of the ceiling. Of a problem
    whose bytes set its limit, the probes of memory as well: neighbours on a shared machine change
    the bandwidth from minute to minute, and its limit is that of its own minute."""
    probe = ceiling.arithmetic(best.dtype, best.isa)
    for problem in problems.problems(pattern):
        prepared = Prepared(problem, best.dtype, best.isa)
        ours = prepared.run(best.threads)
        runs: dict[str, Run] = {"cnncore": ours}
        for peer in peers:
            made = ready(peer, partial(peer.kernel, prepared, best.threads))
            if made:
                runs[peer.name] = made
        measured = list(runs)
        runs["probe"] = probing = Tape(probe, best.threads)
        moved = prepared.moved
        beside: list[tuple[str, Tape]] = []
        if best.seconds(prepared.flops, moved, prepared.in_place) > prepared.flops / best.flops:
            for mover in ceiling.memory(best.dtype, best.isa, moved.total):
                beside.append((mover.field, Tape(mover.alone, best.threads, mover.op)))
                runs[f"memory {len(beside)}"] = beside[-1][1]
        times = {name: summary(values) for name, values in alternate(runs, rounds).items()}
        times["cnncore"]["fastest"] = ours.fastest
        shortest = [(field, tape.fastest) for field, tape in beside]
        limits = best.beside(moved.total, shortest) if shortest else best
        least = ceiling.ARITHMETIC_FLOPS / best.flops
        row = {
            "suite": "kernels",
            "group": problem.group,
            "name": problem.name,
            "flops": prepared.flops,
            "bytes": moved.total,
            "elements": prepared.elements,
            "threads": ours.threads,
            "limit": limits.seconds(prepared.flops, moved, prepared.in_place),
            "target": problem.target,
            "probe": least / times["probe"]["median"],
            "probe_best": least / probing.fastest,
            "times": {name: times[name] for name in measured},
        }
        show(row)
        yield row
