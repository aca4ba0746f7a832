"""What a scan costs, and a check of a trace on fakes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import nnsight_graph as nnsight
from nnsight_graph.compile import cache
from nnsight_graph.run import scan as scans

from .. import models
from ..measure import Budget
from .registry import Reading, figure


def median_seconds(budget: Budget, call: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """The median of several calls, the first left out."""
    call()
    end, taken = time.perf_counter() + budget.seconds / 3, []
    while len(taken) < 5 or (time.perf_counter() < end and len(taken) < budget.rounds):
        before()
        start = budget.clock()
        call()
        taken.append(budget.clock() - start)
    return statistics.median(taken)


@figure("scan of small")
def scan_of_small(budget: Budget) -> list[Reading]:
    """A scan that is not known, a check of 20 lines, and a checked trace beside one that is not."""
    model, tokens = nnsight.NNsight(models.small()), models.tokens()

    def scanned() -> None:
        with model.scan(tokens):
            pass

    def traced(validate: bool) -> None:
        with model.trace(tokens, validate=validate):
            hidden = model.transformer.h[1].output
            for _ in range(18):
                hidden = hidden * 1.01
            hidden.save()

    def forget() -> None:
        scans._known.clear()

    def unchecked() -> None:
        for plan in cache._plans.values():
            plan.checked.clear()

    scan_seconds = median_seconds(budget, scanned, forget)
    plain = median_seconds(budget, lambda: traced(False))
    first = median_seconds(budget, lambda: traced(True), unchecked)
    again = median_seconds(budget, lambda: traced(True))
    return [
        Reading("a scan, uncached", scan_seconds * 1000, "ms", 20),
        Reading("a check of 20 lines where the input was scanned", (first - plain) * 1000, "ms", 3),
        Reading("a trace that was checked before, over one that is not checked", again / plain, "×", 1.3),
    ]
