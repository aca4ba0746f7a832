"""Values of one turn of a loop that is recorded once: below it nobody may use them, since which turn is meant is unknown."""

from __future__ import annotations

from ..graph import Literal, Node, Ref, Region, references_of, walk
from ..graph.walk import references_in
from .edits import refused

_IN_PLACE = frozenset("iadd isub imul itruediv ifloordiv imod ipow iand ior ixor ilshift irshift".split())
_WHY = (
    "uses a value of one turn of the loop above, which is recorded once: in a function that the block calls, what a loop binds is not "
    "known below it. Collect the values in nnsight_graph.list(), or write the loop in the block itself"
)


def refuse_turns(region: Region, turns: dict[int, int] | None = None) -> None:
    """Refuse lines below a loop that use what a turn of it has made.

    Raises:
        RecordError: the first such line; it has a ``node``.
    """
    turns = {} if turns is None else turns  # what turns of closed loops have made; with what it lies on, if it is an edit in place
    for node in region.nodes:
        for reference in references_of(node):
            _check(node, reference, turns)
        for inner in node.regions:
            refuse_turns(inner, turns)
            for result in inner.results:
                for reference in references_in(result):
                    _check(node, reference, turns)
        if _is_recorded_once(node):
            saved = {line.operands[0].node for line in walk(node.regions[0]) if line.target == "save" and type(line.operands[0]) is Ref}
            turns.update({line.number: _base(line, node) for line in walk(node.regions[0]) if line.number not in saved})


def _check(node: Node, reference: int, turns: dict[int, int]) -> None:
    while turns.get(reference, -1) >= 0:
        reference = turns[reference]
    if reference in turns and node.target != "copied":  # a parameter that an edit of every step has replaced is one and the same
        raise refused(node.number, _WHY)


def _base(line: Node, loop: Node) -> int:
    """What an edit in place, in a loop over steps, lies on; -1 for everything else."""
    first = line.operands[0] if line.operands else None
    return first.node if loop.target == "steps" and line.target in _IN_PLACE and type(first) is Ref else -1


def _is_recorded_once(node: Node) -> bool:
    if node.target != "steps":
        return node.target in ("for", "while")
    return isinstance(node.operands[0], Literal) and ":None:" in node.operands[0].name
