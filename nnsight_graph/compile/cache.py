"""Plans by the structure of their graph: the same program with other numbers is compiled once."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from ..graph import Graph, verify
from .lower import lower
from .plan import Plan

_LIMIT = 512
_plans: dict[Hashable, Plan] = {}


def cached_plan(key: Hashable, graph: Callable[[], Graph], bound: int = 1) -> Plan:
    """The plan for ``key`` and runs of ``bound`` steps; on a miss ``graph()`` is verified and compiled, and the oldest makes room."""
    if bound != 1:
        key = (key, bound)
    plan = _plans.get(key)
    if plan is None:
        made = graph()
        verify(made)
        plan = lower(made, bound)
        if len(_plans) >= _LIMIT:
            _plans.pop(next(iter(_plans)), None)
        _plans[key] = plan
    return plan
