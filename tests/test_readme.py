"""The README's promises: its example runs as written, its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_runs_as_written(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(example.splitlines()) <= 17
    out = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert out.returncode == 0, out.stderr
    assert float(out.stdout.split()[0]) > 0.9
    assert "gradients agree" in out.stdout
    assert (tmp_path / "digits.npz").exists()


def test_there_are_two_commands_of_one_line_each():
    commands = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert [c.rpartition("/")[2] for c in commands] == ["cnncore train", "pytest"]
