"""What an operation would give, without its memory; and which operations may run although torch cannot tell."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import LimitError

_NOT_LARGER = frozenset(""" """.split())
"""Results hang on numbers in the tensors, and are no larger than these (or are measured: ``counts.py``), or are no tensors."""


def shapes_of(function: Any, kind: str, args: Any, kwargs: dict[str, Any], most: int) -> Any:
    """What an operation of aten gives, without memory; ``None`` where torch does not know, and it is no larger than it takes.

    Args:
        function: The operation.
        kind: Its name; empty for one of a model, which may run in any case.
        args: Its arguments.
        kwargs: Those by name.
        most: How many bytes it may make.

    Raises:
        LimitError: how large it would be cannot be known.
        Exception: it would fail.
    """
    try:
        shapes = tree_map_only(torch.Tensor, _on_meta, (args, kwargs))
        return function(*shapes[0], **{**shapes[1], **({"device": torch.device("meta")} if _takes_device(function) else {})})
    except Exception as error:
        if not kind or kind in _NOT_LARGER:
            return None
        if _has_no_shapes(error):
            raise LimitError(f"how large the result of torch's {kind} would be cannot be known before: it may not stand in a file") from None
        numbers = [abs(int(value)) for value in tree_leaves((args, kwargs)) if isinstance(value, (int, float)) and math.isfinite(value)]
        if math.prod(number for number in numbers if number > 1) * 16 > most:
            raise
        return None  # it will fail in the same way, or better


@lru_cache(4096)
def _takes_device(function: Any) -> bool:
    return any(argument.name == "device" for argument in function._schema.arguments)


def _has_no_shapes(error: Exception) -> bool:
    return isinstance(error, NotImplementedError)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
