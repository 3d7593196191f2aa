"""What several tests share; see also `small_files.py`."""

from __future__ import annotations

import signal

import pytest

import small_files
from cnncore.data import _cifar

# A shell that starts tests in the background lets them ignore Ctrl-C; some send it to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch of CIFAR-10 have 10 records, not 10,000, and its files be as small."""
    monkeypatch.setattr(_cifar, "_RECORDS", small_files.RECORDS)
    monkeypatch.setattr(_cifar, "_MOST_BYTES", 1 << 20)
