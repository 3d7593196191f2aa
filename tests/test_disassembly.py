"""The hot loops as the compiler made them: fused multiply-adds from registers, no spills."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from cnncore import _core

pytestmark = pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")

# Multiply-adds of the largest tile's loop for each width of a panel: with AVX2 two steps a turn.
TILES = {
    "avx512": {"panel_4": 24, "panel_3": 24, "panel_2": 24, "panel_1": 24},
    "avx2": {"panel_2": 24, "panel_1": 24, "panel_2_asks": 24, "panel_1_asks": 24},
}
REGISTER = {"avx512": "zmm", "avx2": "ymm"}


@pytest.fixture(scope="module")
def listing() -> str:
    command = ["objdump", "-d", "--no-show-raw-insn", _core.__file__]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def functions(listing: str, name: str) -> list[str]:
    """Bodies of all functions of that name: one for each dtype and instruction set."""
    return re.findall(rf"^[0-9a-f]+ <{name}>:\n(.*?)\n\n", listing, re.M | re.S)


def loops(body: str) -> list[list[str]]:
    """Innermost loops: instructions from a backward jump's target to the jump."""
    lines = re.findall(r"^ *([0-9a-f]+):\t(.*)$", body, re.M)
    places = {address: i for i, (address, _) in enumerate(lines)}
    spans = []
    for i, (_, text) in enumerate(lines):
        jump = re.match(r"j\w+ +([0-9a-f]+)", text)
        if jump and places.get(jump[1], i) < i:
            spans.append((places[jump[1]], i))

    def holds_another(a: int, b: int) -> bool:
        return any(a <= c and d <= b and (a, b) != (c, d) for c, d in spans)

    innermost = [span for span in spans if not holds_another(*span)]
    return [[text for _, text in lines[a : b + 1]] for a, b in innermost]


def multiply_adds(loop: list[str], dtype: str, register: str) -> int:
    return sum(re.match(rf"vfmadd\w+{dtype} .*{register}", text) is not None for text in loop)


@pytest.mark.parametrize("isa", sorted(set(TILES) & set(_core.compiled_isas())))
def test_the_micro_kernel_stays_in_registers(listing, isa):
    for name, count in TILES[isa].items():
        mine = [b for b in functions(listing, name) if REGISTER[isa] in b]
        assert mine, f"{name} for {isa} is not in the listing"
        for dtype in ("ps", "pd"):
            inner = [loop for body in mine for loop in loops(body)]
            hot = [loop for loop in inner if multiply_adds(loop, dtype, REGISTER[isa]) == count]
            assert hot, f"{name} {isa} {dtype}: no loop of {count} fused multiply-adds"
            for loop in hot:
                assert not any(re.search(r"\((%rsp|%rbp)", t) for t in loop), (name, dtype, loop)


@pytest.mark.parametrize("isa", sorted(set(TILES) & set(_core.compiled_isas())))
def test_the_probe_of_multiply_adds_does_nothing_else(listing, isa):
    """Twelve chains, and beside them no more than the loop's own counter, test and jump."""
    mine = [b for b in functions(listing, "fma_run") if REGISTER[isa] in b]
    for dtype in ("ps", "pd"):
        hot = [
            loop
            for body in mine
            for loop in loops(body)
            if multiply_adds(loop, dtype, REGISTER[isa]) == 12
        ]
        assert hot, f"{isa} {dtype}: no loop of 12 multiply-adds"
        assert all(len(loop) <= 12 + 3 for loop in hot), hot


def test_wide_registers_are_used_only_behind_the_dispatch(listing):
    """The baseline variant must run on a processor without AVX."""
    for name in ("cn_tape_run", "cn_meet", "cn_find"):
        for body in functions(listing, name):
            assert "ymm" not in body
            assert "zmm" not in body
