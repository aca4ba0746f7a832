"""What an operation would give, without its memory; and which operations may run although torch cannot tell."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import LimitError

_NOT_LARGER = frozenset("""
 equal is_set_to _local_scalar_dense nonzero _unique _unique2 unique_dim unique_consecutive unique_dim_consecutive _aminmax geqrf
 _cummax_helper _cummin_helper _logcumsumexp _sample_dirichlet bincount repeat_interleave masked_select binomial
 histogram _histogramdd_bin_edges _histogramdd_from_bin_cts _histogramdd_from_bin_tensors linalg_lstsq mvlgamma""".split())
"""Results hang on numbers in the tensors, and are no larger than these (or are measured: ``counts.py``), or are no tensors."""
_PUTS = ("index_put", "index_put_", "_unsafe_index_put", "_index_put_impl_")
_INDEXING = ("index", "_unsafe_index", *_PUTS)


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
        if kind in _INDEXING:
            args = (args[0], _places(args[1]), *args[2:])
        shapes = tree_map_only(torch.Tensor, _on_meta, (args, kwargs))
        return function(*shapes[0], **{**shapes[1], **({"device": torch.device("meta")} if _takes_device(function) else {})})
    except Exception as error:
        if not kind or kind in _NOT_LARGER:
            return None
        if _has_no_shapes(error):
            raise LimitError(f"how large the result of torch's {kind} will be cannot be known before it runs: use another") from None
        numbers = [abs(int(value)) for value in tree_leaves((args, kwargs)) if isinstance(value, (int, float)) and math.isfinite(value)]
        if math.prod(number for number in numbers if number > 1) * 16 > most:
            raise
        return None  # it will fail in the same way, or better


@lru_cache(4096)
def _takes_device(function: Any) -> bool:
    return any(argument.name == "device" for argument in function._schema.arguments)


def _has_no_shapes(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) and "not implemented for '" not in str(error)  # which is about a dtype


def written(kind: str, args: Any) -> int:
    """How many numbers an operation writes by indices: places may come again and again, so it is no shape of a result.

    >>> written("index_put_", (torch.ones(1, 3), [torch.zeros(50, dtype=torch.int64)], torch.ones(())))
    150
    """
    if kind not in _PUTS:
        return 0
    try:
        indices = tree_map_only(torch.Tensor, _on_meta, _places(args[1]))
        return int(torch.ops.aten.index.Tensor(_on_meta(args[0]), indices).numel())
    except Exception:  # it will fail
        return 0


def _places(indices: Any) -> list[Any]:
    """Indices with what a mask stands for in its place: as many places as there are true ones, in each of its dimensions."""
    found: list[Any] = []
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
            found += [torch.empty(int(torch.count_nonzero(index)), dtype=torch.int64, device="meta")] * index.dim()
        else:
            found.append(index)
    return found


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
