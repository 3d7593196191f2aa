"""Times by turns: A B A B, so that a change of the machine's mood meets everybody."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import Any

# Runs something so many times; returns the seconds that one took.
Run = Callable[[int], float]
MOST_REPEATS = 20_000


def calls(function: Callable[[], Any], finish: Callable[[Any], Any] | None = None) -> Run:
    """A Run of a Python call; `finish` waits for the last result of one that returns early."""

    def run(repeats: int) -> float:
        result = None
        start = time.perf_counter()
        for _ in range(repeats):
            result = function()
        if finish is not None:
            finish(result)
        return (time.perf_counter() - start) / repeats

    return run


def rest(most: float = 0.5) -> None:
    """Waits until this process uses no processor: some libraries' threads look out for work for a
    tenth of a second after their turn, on the cores of the next."""
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(0.005)
        if time.process_time() - before < 0.001:
            return


def alternate(
    runs: Mapping[str, Run], rounds: int, seconds: float = 0.03, warm_up: int = 2
) -> dict[str, list[float]]:
    """Seconds of each, one value a round, after a warm-up; a turn lasts about `seconds`, or one
    repeat if that is longer, and begins when the threads of the one before have come to rest."""
    repeats = {}
    for name, run in runs.items():
        rest()
        for _ in range(warm_up):
            run(1)
        once = min(run(1) for _ in range(2))
        few = min(max(1, int(seconds / 10 / max(once, 1e-7))), MOST_REPEATS)
        once = min(once, run(few))
        repeats[name] = min(max(1, round(seconds / max(once, 1e-7))), MOST_REPEATS)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            rest()
            if repeats[name] > 1:
                run(1)  # wakes its threads and brings its data back
            times[name].append(run(repeats[name]))
    return times


def summary(times: list[float]) -> dict[str, Any]:
    """Median, minimum, and spread: the middle half of the rounds, relative to the median. `fastest`
    is the best there is to compare with a ceiling: here a round, for a kernel a single step."""
    middle = median(times)
    quarters = quantiles(times, n=4, method="inclusive") if len(times) > 1 else [middle] * 3
    return {
        "median": middle,
        "minimum": min(times),
        "fastest": min(times),
        "spread": (quarters[2] - quarters[0]) / middle,
        "rounds": times,
    }
