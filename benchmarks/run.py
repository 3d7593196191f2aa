"""Measures cnncore beside the machine's ceiling and beside other libraries.

    .venv/bin/python benchmarks/run.py kernels --only "conv 3x3"
    .venv/bin/python benchmarks/run.py steps --json steps.json
    .venv/bin/python benchmarks/run.py compare before.json after.json

Run it as a file: `-m` would import the source folder, which has no compiled module."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from suite import machine

SUITES = {
    "kernels": "single kernels: products, convolutions, and what moves bytes",
    "winograd": "convolutions at stride 1 by Winograd's algorithm and directly",
    "steps": "whole training steps",
    "scaling": "threads, batch sizes, and a busy neighbour",
    "memory": "resident memory of a step",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in SUITES.items():
        _options(commands.add_parser(name, help=text))
    child = commands.add_parser("memory-of")  # what `memory` starts
    child.add_argument("name")
    _options(child)
    compare = commands.add_parser("compare", help="two records, row by row")
    compare.add_argument("first")
    compare.add_argument("second")
    commands.add_parser("chart", help="bars, with matplotlib").add_argument("file")
    return parser.parse_args()


def _options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--only", default="", metavar="WORDS", help="rows with all these words")
    command.add_argument("--rounds", type=int, default=7, help="turns of each (default: 7)")
    command.add_argument("--threads", type=int, help="default: one for each processor")
    command.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    command.add_argument("--isa", help="instruction set (default: the best there is)")
    command.add_argument(
        "--peers", default="all", metavar="NAMES",
        help='"all" that are installed (default), "none", or some: torch*,jax,numpy,sklearn',
    )  # fmt: skip
    command.add_argument("--json", metavar="FILE", help="also write a record")


def main() -> None:
    options = arguments()
    if options.command in ("compare", "chart"):
        from suite import report

        if options.command == "compare":
            report.compare(options.first, options.second)
        else:
            report.chart(options.file)
        return
    options.threads = machine.limit(options.threads)
    measure(options)


def measure(options: argparse.Namespace) -> None:
    from suite import kernels, peers, report, resident, scaling, steps, winograd

    from cnncore import ceiling, levels, set_num_threads

    set_num_threads(options.threads)
    isa = levels.choose(options.isa)
    if options.command == "memory-of":
        resident.child(options.name, options.only, options.dtype, options.threads)
        return
    others = peers.chosen(options.peers)
    rows: list[dict[str, Any]] = []
    record = {"suite": options.command, "isa": isa, "dtype": options.dtype} | {
        "threads": options.threads, "machine": machine.describe(), "rows": rows,
    }  # fmt: skip
    if options.command == "memory":
        rows += resident.run(options.only, others, options.dtype, options.threads)
    else:
        best = ceiling.measure(options.dtype, isa, options.threads)
        record["ceiling"] = vars(best)
        print(best)
        if options.command == "winograd":
            rows += winograd.run(options.only, others, best, options.rounds)
            write(options.json, record)
            return
        table = report.Table(best.flops)
        suites = {"kernels": kernels, "steps": steps, "scaling": scaling}
        if options.command != "scaling":
            print(report.LEGEND)
        for row in suites[options.command].run(
            options.only, others, best, options.rounds, table.show
        ):
            rows.append(row)
        if not rows:
            raise SystemExit(f"no row has all the words of {options.only!r}")
        report.summarize(rows)
    write(options.json, record)


def write(path: str | None, record: dict[str, Any]) -> None:
    if path:
        from suite import report

        report.write(path, record)


if __name__ == "__main__":
    main()
