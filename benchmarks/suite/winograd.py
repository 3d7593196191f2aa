"""Convolutions at stride 1 by Winograd's algorithm beside the direct sum and beside the peers:
where `cnncore/fuse.py` may choose it, and what it gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from cnncore import fuse
from cnncore.ceiling import Ceiling

from . import problems
from .peers import Peer, ready
from .problems import Prepared, Problem
from .timing import Run, alternate, summary

Row = dict[str, Any]


def run(pattern: str, peers: Sequence[Peer], best: Ceiling, rounds: int) -> Iterator[Row]:
    """A row for each pass of each such convolution in the shape files. `effective` is the direct
    sum's operations by Winograd's time, as a share of the ceiling."""
    print("\nms: median; effective: the direct sum's operations in that time, and in the shortest,")
    print("of the ceiling; then times of the direct kernel and of the peers over ours;")
    print("chosen: by a plan\n")
    for problem in problems.problems(pattern):
        largest = _largest(problem)
        if not largest:
            continue
        direct = Prepared(problem, best.dtype, best.isa)
        chosen = fuse.by_winograd([direct.op], problem.batch, inference=False)[0].fused
        switches = chosen or largest
        ours = Prepared(problem, best.dtype, best.isa, switches)
        runs: dict[str, Run] = {
            "winograd": ours.run(best.threads), "direct": direct.run(best.threads)
        }  # fmt: skip
        for peer in peers:
            made = ready(peer, partial(peer.kernel, direct, best.threads))
            if made:
                runs[peer.name] = made
        times = {name: summary(values) for name, values in alternate(runs, rounds).items()}
        median = times["winograd"]["median"]
        row = {
            "suite": "winograd", "group": problem.group, "name": problem.name,
            "flops": direct.flops, "times": times, "chosen": bool(chosen),
        }  # fmt: skip
        others = "  ".join(
            f"{name} {found['median'] / median:.2f}"
            for name, found in times.items()
            if name != "winograd"
        )
        shares = [direct.flops / times["winograd"][t] / best.flops for t in ("median", "minimum")]
        mark = "chosen" if chosen else "not chosen"
        figures = f"{median * 1e3:9.3f}{shares[0]:7.0%}{shares[1]:6.0%}"
        print(f"{problem.name:<58}{figures}  {others}  {mark}", flush=True)
        yield row


def _largest(problem: Problem) -> dict[str, int]:
    """What sets the kernel to the largest tile that there is; nothing where there is none."""
    if problem.op != "conv2d" or problem.attributes.get("stride", 1) not in (1, (1, 1)):
        return {}
    r, s = problem.shapes["w"][:2]
    if r != s or r not in fuse.TILES:
        return {}
    names = ["winograd"]
    if problem.function == "backward":
        names = [f"winograd_{gradient}" for gradient in problem.wanted]
    return dict.fromkeys(names, fuse.TILES[r][0][1])
