"""What the operands of each structural kind of node are in a file, as a table; and what loops may hand on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from ..graph import Const, Graph, Group, Literal, Node, Operand, Ref, Region

_KINDS = {Ref: "r", Const: "c", Literal: "w", Group: "g"}

SHAPES = {
    "read": "", "write": ".", "grad": "r", "backward": "w..*", "under": "w", "parameter": "", "copied": ".?", "replace": "w.",
    "module": ".*", "listening": ".*", "save": "r", "log": ".*", "assume": "r.", "setattr": ".c.", "named": "wc", "bound": ".w",
    "arranged": "..", "unpack": ".c",
    "trace": "w.*", "input": ".*", "stop": "r?", "skip": ".", "invoke": "w", "if": ".", "merge": "r..", "for": "..*", "while": ".*",
    "steps": "w.*", "param": "r[wg]", "check": "..*", "result": "rw", "call": ".*", "cache": ".*",
    "setitem": "...",
    **dict.fromkeys("""
 getitem add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift lt le gt ge eq ne is_ is_not contains delitem divmod
 iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift""".split(), ".."),
    **dict.fromkeys("neg pos invert not_ truth len bool abs".split(), "."),
}  # fmt: skip
"""A letter for each operand: ``r`` a value, ``c`` a constant, ``w`` a word, ``g`` a group, ``.`` any; read as a regular expression."""

_WORDS = {
    "backward": r"[0-9]{1,6}",
    "invoke": r"(rows|before):[0-9]{1,6}",
    "steps": r"[0-9]{1,6}:([0-9]{1,6}|None):[1-9][0-9]{0,5}|[0-9]{1,6}(,[0-9]{1,6}){0,9999}",
    "param": r"item|[0-9]{1,6}",
    "result": r"[0-9]{1,6}",
}
_PLACES = {"param": 1, "result": 1}
_LOOPS = {"for": 1, "while": 0, "steps": 1}
"""Loops, and how many operands come before what they carry."""

UNROLLED = 200_000
"""How many nodes a program may have when its loops over steps are written out."""


def refuse_shape(node: Node, constants: tuple[object, ...]) -> str:
    """What is wrong with the operands of a node; empty where nothing is.

    >>> refuse_shape(Node(0, "invoke", (Literal("rows:0"),)), ())
    ''
    >>> refuse_shape(Node(0, "invoke", (Literal("all"),)), ())
    "invoke may not name 'all'"
    """
    operands, target = node.operands, node.target
    if not _fits(target, "".join([_KINDS[type(operand)] for operand in operands])):
        return f"{target} does not take these operands"
    if target == "replace" and node.site is not None and ".source." in f".{node.site.path}":
        return "an operation inside a forward has no parameters to replace"
    words = _WORDS.get(target)
    if words is not None:
        word = operands[_PLACES.get(target, 0)]
        if type(word) is Literal and not re.fullmatch(words, word.name):
            return f"{target} may not name {word.name[:50]!r}"
    if target in ("setattr", "unpack"):
        value, kind = constants[operands[1].index], str if target == "setattr" else int  # type: ignore[union-attr]
        if type(value) is not kind:
            return f"{target} needs a constant of type {kind.__name__}"
    return ""


@lru_cache(4096)
def _fits(target: str, kinds: str) -> bool:
    return target not in SHAPES or re.fullmatch(SHAPES[target], kinds) is not None


def refuse_group(group: Group) -> str:
    """What is wrong with a group of operands; empty where nothing is."""
    if group.kind == "slice" and len(group.items) != 3:
        return f"a slice of {len(group.items)} operands"
    return "a dict with a key and no value" if group.kind == "dict" and len(group.items) % 2 else ""


def refuse_loops(graph: Graph) -> Iterator[tuple[int, str]]:
    """Nodes of loops and branches that do not fit each other, and what is wrong; nothing where all do."""
    nodes: dict[int, Node] = {}
    yield from _region(graph.body, None, nodes, False)
    if _unrolled(graph.body) > UNROLLED:
        yield -1, f"its loops over steps are more than {UNROLLED} nodes when they are written out"


def _region(region: Region, around: Node | None, nodes: dict[int, Node], open_range: bool) -> Iterator[tuple[int, str]]:
    checks = 0
    for node in region.nodes:
        nodes[node.number] = node
        if node.target in ("param", "result", "merge"):
            yield from _reference(node, around, nodes)
        if node.target == "check":
            checks += 1
            carried = _carried(around) if around is not None and around.target in ("for", "while") else -1
            if checks > 1 or carried != len(node.operands) - 1:
                yield node.number, "check does not fit the loop around it"
        if node.target in _LOOPS and len(node.regions[0].results) != 1 + _carried(node):
            yield node.number, "a loop hands on as many values as it carries, and whether to leave"
        if node.target not in _LOOPS and any(inner.results for inner in node.regions):
            yield node.number, "only loops hand on values"
        is_open = node.target == "steps" and ":None:" in node.operands[0].name  # type: ignore[union-attr]
        if is_open and open_range:
            yield node.number, "an open loop over steps in another"
        for inner in node.regions:
            yield from _region(inner, node, nodes, open_range or is_open)


def _reference(node: Node, around: Node | None, nodes: Mapping[int, Node]) -> Iterator[tuple[int, str]]:
    other, what = nodes.get(node.operands[0].node), node.operands[1]  # type: ignore[union-attr]
    if node.target == "merge":
        if other is None or other.target != "if":
            yield node.number, "merge does not name an if"
    elif other is None or other.target not in _LOOPS or (node.target == "param" and other is not around):
        yield node.number, f"{node.target} does not name {'the loop around it' if node.target == 'param' else 'a loop'}"
    elif type(what) is Group:
        if other.target != "steps" or what.kind != "list":
            yield node.number, "only loops over steps have a value for each turn"
    elif what.name == "item":  # type: ignore[union-attr]
        if other.target == "while":
            yield node.number, "a while has no items"
    elif int(what.name) >= _carried(other):  # type: ignore[union-attr]
        yield node.number, f"{node.target} names a value that its loop does not carry"


def _carried(loop: Node) -> int:
    return len(loop.operands) - _LOOPS[loop.target]


def _unrolled(region: Region) -> int:
    """How many nodes there are when loops over a known range of steps are written out."""
    total = 0
    for node in region.nodes:
        inside = sum(map(_unrolled, node.regions))
        total += 1 + (_turns(node.operands[0]) * max(inside, 1) if node.target == "steps" else inside)
    return total


def _turns(steps: Operand) -> int:
    assert type(steps) is Literal
    if ":" not in steps.name:
        return steps.name.count(",") + 1
    start, stop, step = steps.name.split(":")
    return 1 if stop == "None" else len(range(int(start), int(stop), int(step)))
