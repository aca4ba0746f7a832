"""What it costs that a saved name is its value: the names of the block's frame are looked at when the run is over."""

from __future__ import annotations

import sys
import textwrap
from time import perf_counter_ns
from typing import Any, cast

import torch

import nnsight_graph as nnsight
from nnsight_graph.record.handing import hand_over

from ..measure import Budget
from .registry import Reading, figure

_LINES = """
while proxies:
    hidden = proxies.pop()
    saved = {0: hidden}
    start = now()
    hand_over(frame, None, saved, (), ())
    times.append(now() - start)
    assert type(hidden) is not nnsight.Proxy
"""
_FUNCTION = """
def block(proxies, now, hand_over, times, big, model):
    frame, saved, start, hidden = sys._getframe(), {}, 0, None
""" + textwrap.indent(_LINES, "    ")


def _microseconds(source: str, call: str, count: int, **names: Any) -> float:
    times: list[int] = []
    namespace = {"sys": sys, "nnsight": nnsight, "now": perf_counter_ns, "hand_over": hand_over, "times": times, **names}
    proxies = [nnsight.Proxy(cast(Any, None), 0, torch.ones(1)) for _ in range(count)]  # as after a run
    namespace.update(proxies=proxies, big=names.get("big"), model=names.get("model"))
    exec(compile("frame = sys._getframe()\n" + source + call, "<names>", "exec"), namespace)
    return sorted(times)[len(times) // 2] / 1000


@figure("saved names")
def saved_names(_budget: Budget) -> list[Reading]:
    """Microseconds for one saved tensor, by what else the frame holds; the median of runs one after the other."""
    layers = [torch.nn.Linear(4, 4) for _ in range(50)]
    call, count = "block(proxies, now, hand_over, times, big, model)", 500
    plain = _microseconds(_FUNCTION, call, count)
    beside = {
        "beside a list of a million numbers": _microseconds(_FUNCTION, call, count, big=[0.5] * 1_000_000),
        "beside a model": _microseconds(_FUNCTION, call, count, model=nnsight.NNsight(torch.nn.Sequential(*layers))),
        "in a notebook of 500 names": _microseconds("", _LINES, count, **{f"name_{place}": place for place in range(500)}),
    }
    more = [Reading(f"exchange of one saved name {where}, more", value - plain, "µs", 5.0) for where, value in beside.items()]
    return [Reading("exchange of one saved name in a function of ten", plain, "µs", 2.0), *more]
