"""Ctrl-C at the right moment: between steps, never between a step and its bookkeeping."""

from __future__ import annotations

import importlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# `signal` converts to enums and back, which takes ten times as long as the calls themselves and
# twice as long as a step of a tiny net. CPython has the plain functions in a module beneath it.
_plain: Any
try:
    _plain = importlib.import_module("_signal")
except ImportError:
    _plain = signal
_SIGINT = int(signal.SIGINT)


class Uninterrupted:
    """While in it, SIGINT waits; on leaving, the handler that was in force gets it.

    Only the main thread runs signal handlers, so elsewhere there is nothing to hold back."""

    __slots__ = ("_arrived", "_before")

    def __enter__(self) -> None:
        self._arrived: tuple[int, FrameType | None] | None = None
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            before = _plain.getsignal(_SIGINT)
            if callable(before):
                self._before = before
                _plain.signal(_SIGINT, self._hold)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._arrived = number, frame

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            _plain.signal(_SIGINT, self._before)
            if self._arrived is not None:
                self._before(*self._arrived)
