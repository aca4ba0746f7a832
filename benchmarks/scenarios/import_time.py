"""How long the import takes where torch is imported already."""

from __future__ import annotations

import subprocess
import sys
import time

from ..measure import Budget
from .registry import Reading, figure

_PROGRAM = """
import time, torch
start = time.{clock}()
import nnsight_graph
nnsight_graph.NNsight
print(time.{clock}() - start)
"""


def import_seconds(clock: str) -> float:
    """Seconds of one import in a fresh process."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM.format(clock=clock)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@figure("import, over import torch")
def import_time(budget: Budget) -> list[Reading]:
    """The best of several processes; a process costs seconds itself."""
    clock = "perf_counter" if budget.clock is time.perf_counter else "process_time"
    import_seconds(clock)  # the first one may have to write bytecode
    end, best = time.perf_counter() + budget.seconds, import_seconds(clock)
    for _ in range(min(budget.rounds, 15) - 1):
        if time.perf_counter() > end:
            break
        best = min(best, import_seconds(clock))
    return [Reading("import and touch NNsight, over import torch", best, "s", 0.1)]
