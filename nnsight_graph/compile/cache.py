"""Plans by the structure of their graph: the same program with other numbers is compiled once."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from ..graph import Graph, verify
from .lower import lower
from .plan import Plan

_LIMIT = 512
_plans: dict[Hashable, Plan] = {}


def cached_plan(key: Hashable, graph: Callable[[], Graph]) -> Plan:
    """The plan for ``key``; on a miss ``graph()`` is verified and compiled, and the oldest plan makes room."""
    plan = _plans.get(key)
    if plan is None:
        made = graph()
        verify(made)
        plan = lower(made)
        if len(_plans) >= _LIMIT:
            _plans.pop(next(iter(_plans)), None)
        _plans[key] = plan
    return plan
