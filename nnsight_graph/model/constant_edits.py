"""Whether a program may write into its constants: of a file, what it says of itself is not to be relied on."""

from __future__ import annotations

from ..graph import Const, Graph, Operand, Ref, walk
from ..graph.laws import LAWS
from ..graph.walk import leaves_of
from ..ops.effect import OPAQUE, parse, shared, written
from ..ops.table import effect_of

_PURE = parse("pure")
_EFFECTS = {
    "setattr": parse("mutates:0 maybe:2"), "bound": parse("maybe:0"), "unpack": parse("view:0"), "named": parse("view:1"),
    "arranged": parse("maybe:0,1"), **dict.fromkeys(("merge", "for", "while", "steps", "param", "result", "module", "listening"), OPAQUE),
}  # fmt: skip


def edits_constants(graph: Graph) -> bool:
    """Whether some line may write into a constant, or into what may lie on one's storage.

    >>> from nnsight_graph.graph import build_graph
    >>> entries = [("getitem", float, int), (".add_", 0, int)]
    >>> edits_constants(build_graph(entries, [0, 1, 2], [1.0, 0, 2])), edits_constants(build_graph(entries[:1], [0, 1], [1.0, 0]))
    (True, False)
    """
    held: set[int] = set()
    carried = {node.number: [operand for region in node.regions for operand in region.results] for node in walk(graph.body)}
    for _ in range(2):  # what a loop hands on reaches its own parameters
        for node in walk(graph.body):
            operands = [*node.operands, *carried[node.number]]
            effect = _EFFECTS.get(node.target) or (_PURE if node.target in LAWS else effect_of(node.target))
            named = dict(node.keywords)
            if any(_is_held(one, held) for one in written(effect, operands, named)):
                return True
            if any(_is_held(one, held) for one in shared(effect, operands, named)):
                held.add(node.number)
    return False


def _is_held(operand: Operand, held: set[int]) -> bool:
    return any(type(one) is Const or (type(one) is Ref and one.node in held) for one in leaves_of(operand))
