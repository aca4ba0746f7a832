"""The words and references that stand among the operands of structural kinds, and how many operands an operation has at least."""

from __future__ import annotations

import re

from .nodes import Group, Literal, Node, Ref

_TURNS = 10_000
"""Turns of a bounded loop over steps: its body is analysed for each."""

_STEPS = re.compile(r"(-?[0-9]{1,9}):(-?[0-9]{1,9}|None):([1-9][0-9]{0,8})|([0-9]{1,9}(,[0-9]{1,9})*)?")
_WORDS: dict[str, tuple[int, re.Pattern[str]]] = {
    "steps": (0, _STEPS),
    "invoke": (0, re.compile(r"[a-z]+:[0-9]{1,6}")),
    "backward": (0, re.compile(r"[0-9]{1,6}")),
    "result": (1, re.compile(r"[0-9]{1,6}")),
    "param": (1, re.compile(r"item|[0-9]{1,6}")),
    **dict.fromkeys(("under", "replace", "named", "trace"), (0, re.compile(r"(?s).*"))),
}
_VALUES = frozenset(("save", "grad", "result", "param"))

_TWO = """
 getitem add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift lt le gt ge eq ne is_ is_not contains delitem divmod
 iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift""".split()
_LEAST = {"setitem": 3, "backward": 2, **dict.fromkeys(_TWO, 2), **dict.fromkeys(("neg", "pos", "invert", "not_", "truth", "steps"), 1)}


def misshapen(node: Node) -> str | None:
    """What is wrong with the operands of a node, whatever they refer to; ``None`` where nothing is.

    >>> misshapen(Node(0, "save", (Literal("x"),))), misshapen(Node(0, "add", (Ref(0), Ref(0)))), misshapen(Node(0, "add", ()))
    ('takes a value', None, 'takes 2 operands or more, has 0')
    """
    target, given = node.target, node.operands
    least = _LEAST.get(target, 1 if target[:1] in (".", "@") else 0)
    if len(given) < least:
        return f"takes {least} operands or more, has {len(given)}"
    if target in _VALUES and type(given[0]) is not Ref:
        return "takes a value"
    if target not in _WORDS:
        return None
    place, pattern = _WORDS[target]
    word = given[place] if place < len(given) else None
    if target == "param" and type(word) is Group:
        return None
    if type(word) is not Literal or not pattern.fullmatch(word.name):
        return f"takes a word as its operand {place}, and not this one"
    return _many_turns(word.name) if target == "steps" else None


def _many_turns(word: str) -> str | None:
    start, colon, rest = word.partition(":")
    stop, _, step = rest.partition(":")
    if colon and stop != "None" and (int(stop) - int(start)) // int(step) > _TURNS:
        return f"names more than {_TURNS} steps"
    return None
