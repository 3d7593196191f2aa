"""The same processors and the same number of threads for everybody who is measured."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

LIBRARIES = ("cnncore", "numpy", "torch", "jax", "scikit-learn")
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def limit(threads: int | None) -> int:
    """Keeps this process to so many processors, all by default, and tells those who read their
    number of threads from the environment. Before NumPy or anything else is imported."""
    available = _one_of_each_core(sorted(os.sched_getaffinity(0)))
    if threads is None:
        threads = len(available)
    if not 1 <= threads <= len(available):
        raise SystemExit(f"--threads must be 1 .. {len(available)} here, not {threads}")
    os.sched_setaffinity(0, available[:threads])
    for name in VARIABLES:
        os.environ[name] = str(threads)
    return threads


def _one_of_each_core(processors: list[int]) -> list[int]:
    """The first hardware thread of each core before the second of any."""

    def place(processor: int) -> tuple[int, int]:
        path = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
        try:
            first = int(path.read_text().replace("-", ",").split(",")[0])
        except (OSError, ValueError):
            first = processor
        return processor != first, processor

    return sorted(processors, key=place)


def describe() -> dict[str, object]:
    """Processor and versions, for the record."""
    return {
        "processor": _processor(),
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in LIBRARIES},
        "load": os.getloadavg(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
