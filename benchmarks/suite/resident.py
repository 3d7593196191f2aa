"""Memory that the ResNet-18 step takes, each library in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .peers import Peer

Row = dict[str, Any]
STEPS = 3


def run(pattern: str, peers: Sequence[Peer], dtype: str, threads: int) -> Iterator[Row]:
    names = ["cnncore", *(p.name for p in peers if p.name in ("torch", "torch-channels-last"))]
    print("\nresident memory that a training adds, from before the net to after its steps")
    ours = None
    for name in names:
        grown = _in_a_process(name, pattern, dtype, threads)
        ours = ours or grown
        print(f"{name:<28}{grown / 2**20:9.1f} MiB   ours is {ours / grown:.2f} of it", flush=True)
        yield {"suite": "memory", "name": name, "bytes": grown}


def _in_a_process(name: str, pattern: str, dtype: str, threads: int) -> int:
    program = Path(__file__).parents[1] / "run.py"
    command = [sys.executable, str(program), "memory-of", name, "--only", pattern or "ResNet-18"]
    command += ["--dtype", dtype, "--threads", str(threads)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{name}: {result.stderr.strip()[-2000:]}")
    return int(json.loads(result.stdout.splitlines()[-1]))


def child(name: str, pattern: str, dtype: str, threads: int) -> None:
    """Runs in that process: prints the bytes that it grew by at most."""
    from . import workloads

    workload = workloads.matching(pattern)[0]
    if name == "cnncore":
        from .ours import Training

        before = _resident("VmRSS")
        Training(workload, dtype).run(STEPS)
    else:
        from .peers import chosen

        (peer,) = chosen(name)
        before = _resident("VmRSS")
        run = peer.step(workload, dtype, threads)
        assert run is not None
        run(STEPS)
    print(json.dumps(_resident("VmHWM") - before))


def _resident(what: str) -> int:
    """Bytes: VmRSS is what is resident now, VmHWM the most that ever was."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {what} in /proc/self/status")
