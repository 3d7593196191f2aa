"""The documentation's promises: its examples run and assert, its links lead somewhere, and every
public layer, loss and update rule has a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import cnncore as cnn
from cnncore import losses, updates

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks():
    for page in PAGES:
        for number, code in enumerate(
            re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M), 1
        ):
            yield pytest.param(page, number, code, id=f"{page.stem}-{number}")


@pytest.mark.parametrize(("page", "number", "code"), list(blocks()))
def test_an_example_runs(page, number, code, tmp_path, monkeypatch):
    assert "assert " in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{page.name}[{number}]", "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_relative_links_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    assert [p.name for p in PAGES if p.name != "README.md" and f"({p.name})" not in index] == []


def declared(base):
    return {c.__name__ for c in vars(cnn).values() if isinstance(c, type) and issubclass(c, base)}


def test_every_layer_loss_and_update_rule_is_on_a_page():
    names = set(cnn.layers.__all__) - {"Layer"} | declared(losses.Loss) | declared(updates.Update)
    text = "\n".join(page.read_text() for page in PAGES)
    assert len(names) > 25
    assert sorted(n for n in names if not re.search(rf"`(cnn\.)?{n}\b", text)) == []


def test_lines_are_short():
    for page in PAGES:
        long = [line for line in page.read_text().splitlines() if len(line) > 120]
        assert long == [], page.name
