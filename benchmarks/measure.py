"""Timing on a machine that does other things too: variants take turns, and only what ran side by side is compared."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Call = Callable[[], Any]
Clock = Callable[[], float]

CLOCKS: dict[str, Clock] = {"cpu": time.thread_time, "wall": time.perf_counter}
"""``cpu`` does not count the time in which other processes had the core; it is for work on the calling thread alone."""


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes:
        rounds: At most so many; in each, every variant is timed once.
        seconds: At most so long, by the wall; three rounds are always done.
        clock: What times a sample.
        sample: Short calls are repeated until a sample takes about so many seconds.
    """

    rounds: int = 3000
    seconds: float = 6.0
    clock: Clock = time.thread_time
    sample: float = 0.0005


@dataclass(frozen=True)
class Estimate:
    """A median of paired values, with the ends of its 95 % interval."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """For a ratio that should be one: how far from it the interval reaches."""
        return max(abs(self.low - 1), abs(self.high - 1))


def estimate(values: Sequence[float]) -> Estimate:
    """Median and its 95 % interval by order statistics (ranks n/2 ± 0.98 sqrt(n)), whatever the distribution.

    Source: W. J. Conover, Practical Nonparametric Statistics, 3rd edition (1999), section 3.2.
    """
    ordered, count = sorted(values), len(values)
    reach = 0.98 * math.sqrt(count)
    low, high = max(0, math.floor(count / 2 - reach)), min(count - 1, math.ceil(count / 2 + reach))
    return Estimate(statistics.median(ordered), ordered[low], ordered[high])


def paired(of: Sequence[float], over: Sequence[float]) -> Estimate:
    """The ratio of two variants, round by round."""
    return estimate([one / other for one, other in zip(of, over, strict=True)])


def interleave(variants: Mapping[str, Call], budget: Budget) -> dict[str, list[float]]:
    """Seconds per call of each variant, a value for every round; the order within a round is drawn anew each time."""
    repeats = {name: _repeats(call, budget) for name, call in variants.items()}
    taken: dict[str, list[float]] = {name: [] for name in variants}
    order, draw = list(variants), random.Random(0)
    end = time.perf_counter() + budget.seconds
    with _quiet_collector():
        for done in range(max(budget.rounds, 1)):
            if done >= min(3, budget.rounds) and time.perf_counter() > end:
                break
            draw.shuffle(order)
            for name in order:
                taken[name].append(_sample(variants[name], repeats[name], budget.clock))
    return taken


def _sample(call: Call, repeats: int, clock: Clock) -> float:
    turns = range(repeats)
    start = clock()
    for _ in turns:
        call()
    return (clock() - start) / repeats


def _repeats(call: Call, budget: Budget) -> int:
    call()  # the first call fills caches
    fastest = min(_sample(call, 1, budget.clock) for _ in range(3))
    return max(1, round(budget.sample / max(fastest, 1e-7)))


@contextmanager
def _quiet_collector() -> Iterator[None]:
    """What lives already is not looked through again; what a call leaves behind still is, and counts."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
