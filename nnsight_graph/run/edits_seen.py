"""Which line of a trace has edited, in place, a tensor that autograd still needed.

Torch tells the shape of the tensor, the version it had and the one it has; every edit of a trace with a backward is noted with those.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from ..ops.nested import storage_of

_TORCH = re.compile(r"modified by an inplace operation: \[\S+ \[([\d, ]*)\]\].*? is at version (\d+); expected version (\d+)", re.S)
Edit = tuple[int, int, int, int]
"""Node, address of the storage, version afterwards, how many numbers share it."""


def edit_of(node: int, value: Any) -> Edit | None:
    """What is noted of an edit of ``value``; ``None`` if autograd has nothing to do with it."""
    if not isinstance(value, torch.Tensor) or value.is_inference():
        return None
    base = value._base
    return node, storage_of(value), value._version, value.numel() if base is None else base.numel()


def line_at_fault(error: BaseException, edits: list[Edit]) -> int:
    """The node that has edited what a backward needed; -1 if that was none of these, or the error is another one.

    >>> text = "modified by an inplace operation: [torch.FloatTensor [2, 4]], which is output 0, is at version 2; expected version 1"
    >>> line_at_fault(RuntimeError(text), [(3, 0, 1, 8), (5, 0, 2, 8), (7, 0, 2, 4)])
    5
    """
    found = _TORCH.search(str(error)) if edits and isinstance(error, RuntimeError) else None
    if found is None:
        return -1
    sizes, now, before = found.groups()
    count = 1
    for size in sizes.split(",") if sizes else ():
        count *= int(size)
    late = [edit for edit in edits if int(before) < edit[2] <= int(now) and count <= edit[3]]
    exact = [edit for edit in late if count == edit[3]]
    return min(exact or late, key=lambda edit: edit[2], default=(-1,))[0]
