"""Other libraries, each in its best modes. One that is not installed is left out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from fnmatch import fnmatch
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ..problems import Prepared
    from ..timing import Run
    from ..workloads import Workload


class Peer(Protocol):
    """One library in one mode. A method returns None for what the mode does not have."""

    name: str

    def kernel(self, prepared: Prepared, threads: int) -> Run | None: ...
    def step(self, workload: Workload, dtype: str, threads: int) -> Run | None: ...


# Each module has PEERS. By the name that must be installed.
MODULES = {
    "numpy": "numpy_peer",
    "torch": "torch_peer",
    "jax": "jax_peer",
    "sklearn": "sklearn_peer",
}


def chosen(patterns: str) -> list[Peer]:
    """Installed peers whose name matches one of the patterns, separated by commas: "all", "none",
    "torch*,jax"."""
    words = [] if patterns == "none" else patterns.replace("all", "*").split(",")
    found: list[Peer] = []
    for library, module in MODULES.items():
        wanted = any(fnmatch(library, w) or w.startswith(library) for w in words)
        if wanted and find_spec(library) is not None:
            peers = importlib.import_module(f"{__name__}.{module}").PEERS
            found += [p for p in peers if any(fnmatch(p.name, w) for w in words)]
    return found


def ready(peer: Peer, make: Callable[[], Run | None]) -> Run | None:
    """What `make` gives, run once, so that what is compiled is; None where the mode fails."""
    try:
        run = make()
        if run is not None:
            run(1)
    except Exception as error:
        print(f"  {peer.name} is left out: {type(error).__name__}: {str(error)[:200]}", flush=True)
        return None
    return run
