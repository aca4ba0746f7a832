"""What may stand in a file: the kinds of nodes, the operations of the table, and plain attributes."""

from __future__ import annotations

from ..graph.laws import LAWS
from ..ops.table import names

_NOT = frozenset(("call", "cache"))


def is_portable(target: str) -> bool:
    """Whether a node of this kind may stand in a file.

    >>> is_portable("torch.relu"), is_portable("@logits"), is_portable("@__globals__"), is_portable("torch.load"), is_portable("call")
    (True, True, False, False, False)
    """
    if target in LAWS:
        return target not in _NOT
    if target[:1] == "@":
        return target[1:].isidentifier() and target[1] != "_"
    return target in names()
