"""Ctrl-C at the right moment: between steps, never between a step and its bookkeeping."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

# Without the conversions to enums, which take ten times as long as the calls: a step of a tiny net
# takes no longer than they do.
_get: Any = getattr(signal.getsignal, "__wrapped__", signal.getsignal)
_set: Any = getattr(signal.signal, "__wrapped__", signal.signal)


class Uninterrupted:
    """While in it, SIGINT waits; on leaving, the handler that was in force gets it.

    Only the main thread runs signal handlers, so elsewhere there is nothing to hold back."""

    __slots__ = ("_arrived", "_before")

    def __enter__(self) -> None:
        self._arrived: tuple[int, FrameType | None] | None = None
        self._before: Any = None
        if threading.current_thread() is threading.main_thread():
            before = _get(signal.SIGINT)
            if callable(before):
                self._before = before
                _set(signal.SIGINT, self._hold)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        self._arrived = number, frame

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            _set(signal.SIGINT, self._before)
            if self._arrived is not None:
                self._before(*self._arrived)
