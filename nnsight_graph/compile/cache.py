"""Plans by the structure of their graph: the same program with other numbers is compiled once."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from ..graph import Graph, verify
from .lower import lower
from .plan import Plan

_LIMIT = 512
_plans: dict[Hashable, Plan] = {}


def cached_plan(key: Hashable, graph: Callable[[], Graph], bound: int = 1, by_calls: bool = False) -> Plan:
    """The plan for ``key`` and runs of ``bound`` steps; on a miss ``graph()`` is verified and compiled, and the oldest makes room.

    With ``by_calls`` the steps of a module are its calls.
    """
    if bound != 1 or not by_calls:
        key = (key, bound, by_calls)
    plan = _plans.get(key)
    if plan is None:
        made = graph()
        verify(made)
        plan = lower(made, bound, by_calls)
        if len(_plans) >= _LIMIT:
            _plans.pop(next(iter(_plans)), None)
        _plans[key] = plan
    return plan
