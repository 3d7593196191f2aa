"""What this installation is and what it runs on; how many threads, and why."""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import Any

from . import _core, levels
from .ops import MOST_THREADS
from .shapes import integer


@cache
def version() -> str:
    from importlib import metadata  # slow to import, seldom asked for

    return metadata.version("cnncore")


def set_num_threads(threads: int) -> None:
    """Runs use this many threads from now on, in the whole process. Results do not depend on it.

    The default is the least of OpenMP's own (OMP_NUM_THREADS), the processors this process may run
    on, and the container's quota. An OpenMP limit lowered later in a thread (threadpoolctl) holds
    for that thread."""
    _core.set_threads(integer("threads", threads, 1, MOST_THREADS))


def get_num_threads() -> int:
    """Threads that a run from here would use."""
    size: int = _core.team_size()
    return size


def cgroup_quota(root: str = "/") -> int | None:
    """Whole processors that the control group of this process allows, or None.

    Reads cpu.max (version 2) or cpu.cfs_quota_us (version 1), here and in the groups above."""
    lines = _read(os.path.join(root, "proc/self/cgroup")).splitlines()
    return min((q for line in lines for q in _group_quotas(root, line)), default=None)


def _read(path: str) -> str:
    try:
        with open(path) as stream:
            return stream.read()
    except OSError:
        return ""


def _group_quotas(root: str, line: str) -> list[int]:
    number, controllers, group = [*line.split(":", 2), "", ""][:3]
    base = os.path.join(root, "sys/fs/cgroup")
    if number != "0":
        if "cpu" not in controllers.split(","):
            return []
        own = os.path.join(base, controllers)
        base = own if os.path.isdir(own) else os.path.join(base, "cpu")
    # Inside a container the path may be the host's: the mount itself is then the group.
    names = [name for name in group.split("/") if name]
    groups = [os.path.join(base, *names[:i]) for i in range(len(names) + 1)]
    return [q for g in groups if (q := _quota(g)) is not None]


def _quota(group: str) -> int | None:
    text = _read(os.path.join(group, "cpu.max")) or " ".join(
        _read(os.path.join(group, f"cpu.cfs_{name}_us")) for name in ("quota", "period")
    )
    try:
        limit, period = text.split()[:2]
        return max(1, int(limit) // int(period)) if int(limit) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max", or nothing there
        return None


def thread_source() -> str:
    """Where the number of threads comes from."""
    limits = _core.limits()
    if limits["requested"]:
        return "set_num_threads"
    known = {
        _openmp_source(): limits["openmp"],
        "processors this process may run on": limits["affinity"],
        "the control group's quota": limits["quota"] or MOST_THREADS,
        "OMP_THREAD_LIMIT": limits["limit"],
    }
    return min(known, key=lambda name: known[name])


def _openmp_source() -> str:
    return "OMP_NUM_THREADS" if "OMP_NUM_THREADS" in os.environ else "OpenMP's default"


def openmp_runtime() -> str:
    """The OpenMP runtime loaded with the kernels, as the dynamic linker found it."""
    names = ("libgomp", "libomp", "libiomp")
    files = {line.split()[-1] for line in _read("/proc/self/maps").splitlines() if "/" in line}
    found = sorted(f for f in files if os.path.basename(f).startswith(names))
    return ", ".join(found) or "unknown"


def info() -> dict[str, Any]:
    """Version, compiler, flags, instruction set in use and available, threads and their source,
    and the OpenMP runtime."""
    import numpy as np

    build = _core.build_info()
    return {
        "version": version(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "compiler": build["compiler"],
        "flags": build["flags"],
        "isa": levels.DEFAULT,
        "isas": levels.available(),
        "threads": get_num_threads(),
        "threads_from": thread_source(),
        "openmp": openmp_runtime(),
    }


_core.set_quota(cgroup_quota() or 0)
