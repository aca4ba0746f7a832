"""What a node does: its function, and what that may write into or share storage with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ..graph import Const, Group, Literal, Node, Operand, Ref
from ..ops.ambient import under
from ..ops.control import assigned, raise_error, select, take_result
from ..ops.data import bound
from ..ops.effect import OPAQUE, Effect, parse
from ..ops.evaluate import arranged, assign_attribute, assume, call_opaque, log, set_item, unpack
from ..ops.running import call_listening, call_module
from ..ops.table import effect_of, function_of
from .storage import Value

VIEW, _PUT_IN = parse("view:0"), parse("mutates:0 maybe:1")


def _second(_name: Any, value: Any) -> Any:
    return value


_STRUCTURAL: dict[str, tuple[Callable[..., Any], Effect]] = {
    "bound": (bound, parse("maybe:0")),
    "unpack": (unpack, VIEW),
    "arranged": (arranged, parse("maybe:0,1")),
    "setattr": (assign_attribute, parse("mutates:0")),
    "log": (log, parse("pure")),
    "named": (_second, parse("view:1")),
    "assigned": (assigned, VIEW),
    "merge": (select, parse("maybe:1,2")),
    "result": (take_result, parse("maybe:0")),
    "raise": (raise_error, parse("pure")),
    "assume": (assume, parse("pure")),
}


class Meaning:
    """The part of the analysis that knows operations."""

    sets: set[int]
    modes: str
    values: dict[int, Value]
    constant: Callable[[int], Value]

    def meaning(self, node: Node) -> tuple[Callable[..., Any] | None, Effect]:
        """Function and effect of a node, in the modes it stands in."""
        function, effect = self._meaning(node)
        return (under(self.modes, function) if self.modes and function is not None else function), effect

    def _meaning(self, node: Node) -> tuple[Callable[..., Any] | None, Effect]:
        target = node.target
        if target in _STRUCTURAL:
            return _STRUCTURAL[target]
        if target == ".add" and self._is_set(node.operands[0]):  # of a tensor it gives a new one
            return function_of(target), _PUT_IN
        if target == "call":
            mutates = node.operands[1]
            assert type(mutates) is Literal
            places = [int(place) + 2 for place in mutates.name.removeprefix("mutates:").split(",") if place]
            return call_opaque, OPAQUE if not places else msgspec.structs.replace(OPAQUE, writes=tuple(("", place) for place in places))
        if target in ("module", "listening"):
            return (call_module if target == "module" else call_listening), OPAQUE
        if target == "getitem" and self._plain_index(node.operands[1]):
            return function_of(target), VIEW
        if target in ("add", "mul") and any(type(operand) is Group for operand in node.operands):
            return function_of(target), OPAQUE  # a tuple made of other tuples' items
        return (set_item if target == "setitem" else function_of(target)), effect_of(target)

    def _is_set(self, operand: Operand) -> bool:
        return type(operand) is Ref and operand.node in self.sets

    def _plain_index(self, operand: Operand) -> bool:
        """Whether indexing by ``operand`` gives a view (of a tensor) or an element (of a container)."""
        if type(operand) is Group:
            return operand.kind != "list" and all(map(self._plain_index, operand.items))
        if type(operand) is Const:
            return self.constant(operand.index).plain
        if type(operand) is Ref:
            return operand.node in self.values and self.values[operand.node].plain
        return type(operand) is Literal and operand.name not in ("True", "False")
