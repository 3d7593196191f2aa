"""Results as lines to read and as JSON to keep."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from math import exp, log
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FORMAT = 1
DISTURBED = 0.9  # of the ceiling, by a row's own probe

LEGEND = """\
ms: median; spread: the middle half of the rounds, relative to the median; limit: share of the
limit that the fastest step reached (B: bytes set it, otherwise FLOPs), and the share to reach;
then each peer's median time divided by ours: above 1 we are faster.
* something else was at work during this row: the probe of multiply-adds was slow, too."""


def share(row: Row) -> float:
    """Of the limit, by the fastest step: the ceiling, too, is the best that was seen."""
    return float(row["limit"] / row["times"]["cnncore"]["fastest"])


def ratios(row: Row) -> dict[str, float]:
    """Each peer's median time over ours."""
    ours = row["times"]["cnncore"]["median"]
    return {name: t["median"] / ours for name, t in row["times"].items() if name != "cnncore"}


def best_ratio(row: Row) -> float | None:
    """The best peer's time over ours."""
    return min(ratios(row).values(), default=None)


class Table:
    """Prints rows as they come."""

    def __init__(self, flops_ceiling: float) -> None:
        self.flops_ceiling = flops_ceiling
        self.group = ""

    def show(self, row: Row) -> None:
        if row["group"] != self.group:
            self.group = row["group"]
            print(f"\n{self.group}\n{'':<58}{'ms':>9} {'spread':>6} {'rate':>13} {'limit':>6}")
        print(self.line(row), flush=True)

    def line(self, row: Row) -> str:
        ours = row["times"]["cnncore"]
        by_bytes = row["flops"] / self.flops_ceiling < row["limit"] * 0.999
        rate = (
            f"{row['bytes'] / ours['minimum'] / 1e9:7.1f} GB/s"
            if by_bytes and row["bytes"]
            else f"{row['flops'] / ours['minimum'] / 1e9:7.1f} GFLOP"
        )
        reached = f"{share(row):.0%}" + ("B" if by_bytes and row["bytes"] else " ")
        cells = [
            f"{row['name'][:57]:<58}{ours['median'] * 1e3:9.3f} {ours['spread']:6.0%} {rate:>13} "
            f"{reached:>6}",
            _verdict(row),
            "*" if row.get("probe", 1) < DISTURBED else " ",
            *(f"{name} {ratio:.2f}" for name, ratio in ratios(row).items()),
        ]
        if row["name"].startswith("dropout"):
            of_a_core = ours["median"] * row["threads"] / row["elements"]
            cells.append(f"{of_a_core * 1e9:.3f} ns of a core/element")
        return " ".join(cells).rstrip()


def _verdict(row: Row) -> str:
    if row["target"] is None:
        return " " * 7
    met = share(row) * 100 >= row["target"]
    return f"{'ok  ' if met else 'miss'}{row['target']:3.0f}"


def geometric_mean(values: Sequence[float]) -> float:
    return exp(sum(map(log, values)) / len(values))


def summarize(rows: Sequence[Row]) -> None:
    """What all rows come to."""
    timed = [row for row in rows if "cnncore" in row.get("times", {})]
    found = [ratio for row in timed if (ratio := best_ratio(row)) is not None]
    if found:
        worst = min((row for row in timed if ratios(row)), key=lambda row: best_ratio(row) or 0)
        print(
            f"\nbest peer's time over ours: geometric mean {geometric_mean(found):.2f}, "
            f"worst {best_ratio(worst):.2f} ({worst['name']})"
        )
    above = max((row.get("probe_best", 1) for row in rows), default=1)
    if above > 1.03:
        print(
            f"the machine was disturbed while its ceiling was measured: later the probe reached "
            f"{above:.0%} of it. Shares are too high by as much; run again"
        )
    missed = [row for row in timed if row["target"] and share(row) * 100 < row["target"]]
    aimed = sum(bool(row["target"]) for row in timed)
    if aimed:
        print(f"{aimed - len(missed)} of {aimed} targets reached; furthest from theirs:")
        for row in sorted(missed, key=lambda row: share(row) * 100 / row["target"])[:10]:
            print(f"  {share(row):5.0%} of {row['target']:.0f}%  {row['name']}")


def write(path: str, record: dict[str, Any]) -> None:
    text = json.dumps({"format": FORMAT, "command": sys.argv[1:]} | record, indent=1)
    Path(path).write_text(text + "\n")


def read(path: str) -> dict[str, Any]:
    record = json.loads(Path(path).read_text())
    if record.get("format") != FORMAT:
        raise SystemExit(f"{path}: not a record of this suite")
    return dict(record)


def compare(first: str, second: str) -> None:
    """What changed from one record to another, row by row, worst first."""
    old, new = read(first), read(second)
    for what in ("isa", "dtype", "threads"):
        if old[what] != new[what]:
            print(f"different {what}: {old[what]} and {new[what]}")
    before = {(r["suite"], r["name"]): r for r in old["rows"] if "times" in r}
    both = [
        (before[key], row)
        for row in new["rows"]
        if "times" in row and (key := (row["suite"], row["name"])) in before
    ]
    if not both:
        raise SystemExit("the two records have no row in common")
    speed = [_minimum(a) / _minimum(b) for a, b in both]
    print(f"{'':<58}{'before':>10}{'after':>10}{'faster':>8}   share of limit")
    for factor, (a, b) in sorted(zip(speed, both, strict=True), key=lambda pair: pair[0]):
        print(
            f"{b['name'][:57]:<58}{_minimum(a) * 1e3:10.3f}{_minimum(b) * 1e3:10.3f}"
            f"{factor:7.2f}x{share(a):10.0%} -> {share(b):.0%}"
        )
    print(
        f"{len(both)} rows, times of the fastest round in ms; {geometric_mean(speed):.3f} times "
        f"as fast in the geometric mean"
    )


def _minimum(row: Row) -> float:
    return float(row["times"]["cnncore"]["minimum"])


def chart(path: str) -> None:
    """Bars beside the JSON file: ratios to the peers where there are any, shares otherwise."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("chart needs matplotlib: see benchmarks/README.md") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in read(path)["rows"] if "times" in row]
    peers = sorted({name for row in rows for name in ratios(row)})
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.3 * len(rows) * max(1, len(peers) / 2)))
    height = 0.8 / max(1, len(peers))
    for i, name in enumerate(peers or ["share of the limit"]):
        places = [j + i * height for j in range(len(rows))]
        values = [ratios(row).get(name, 0) if peers else share(row) for row in rows]
        axes.barh(places, values, height, label=name)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks([j + 0.4 - height / 2 for j in range(len(rows))], [r["name"] for r in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time of the peer / ours: right of 1 we are faster" if peers else "share")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    figure.tight_layout()
    target = Path(path).with_suffix(".png")
    figure.savefig(target, dpi=150)
    print(target)
