"""A progress line on stderr: only where somebody sees it, and only for what takes a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

PATIENCE = 2.0  # seconds before the first line
INTERVAL = 0.2


class Progress:
    """Shows training as it goes. verbose: True always, False never, None in a terminal or
    notebook once training has taken two seconds."""

    def __init__(self, first: int, total: int, verbose: bool | None) -> None:
        self.first, self.total = first, total
        self.shown = False
        self.start = time.monotonic()
        self.next = self.start + (0.0 if verbose else PATIENCE)
        self.wanted = sys.stderr is not None and (_is_watched() if verbose is None else verbose)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.shown:
            sys.stderr.write("\n")
            sys.stderr.flush()

    def show(self, step: Any, history: Mapping[str, Sequence[float]]) -> None:
        now = time.monotonic()
        if not self.wanted or (now < self.next and step.iteration < self.total):
            return
        if now < self.next and not self.shown:
            return
        self.next = now + INTERVAL
        share = step.iteration / self.total
        bar = "#" * round(20 * share)
        accuracy = history["validation_accuracy"] or history["train_accuracy"]
        done = step.iteration - self.first
        left = (now - self.start) * (self.total - step.iteration) / max(done, 1)
        line = (
            f"\r[{bar:<20}] {step.iteration}/{self.total}  epoch {step.epoch}  "
            f"loss {step.loss:.4f}  accuracy {accuracy[-1] if accuracy else 0.0:.4f}  "
            f"{left:.0f} s left "
        )
        sys.stderr.write(line)
        sys.stderr.flush()
        self.shown = True


def _is_watched() -> bool:
    if hasattr(sys.stderr, "isatty") and sys.stderr.isatty():
        return True
    ipython: Any = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return "IPKernelApp" in getattr(shell, "config", {})
