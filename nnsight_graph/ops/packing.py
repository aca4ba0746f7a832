"""How a model that packs the tokens of all rows into one dimension says where each row's lie: ``cu_seqlens``, or a grid of patches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch

from .saved_values import SavedTensor

_MODULE = torch.nn.modules.module.__file__
_ENDS = ("cu_seqlens", "cu_seq_lens", "cu_seqlens_q", "cu_seq_lens_q")
_GRIDS = ("grid_thw", "image_grid_thw")


def packed_along(tensor: torch.Tensor, rows: int) -> tuple[int, list[int]] | None:
    """The dimension of ``tensor`` in which rows are packed, and where they begin, with the end of the last.

    The calls of modules that go on are asked, the innermost first: what they were given under the names that models use for it.
    """
    for name, value in _given():
        ends = _ends(name, value, rows)
        dims = [] if ends is None else [dim for dim, size in enumerate(tensor.shape) if _scale(ends, size)]
        if ends is not None and len(dims) == 1:
            scale = _scale(ends, tensor.shape[dims[0]])
            return dims[0], [end // scale for end in ends]
    return None


def _given() -> Iterator[tuple[str, Any]]:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename == _MODULE and frame.f_code.co_name == "_call_impl":
            named = frame.f_locals.get("kwargs") or {}
            yield from ((name, named[name]) for name in (*_ENDS, *_GRIDS) if named.get(name) is not None)
        frame = frame.f_back  # type: ignore[assignment]


def _ends(name: str, value: Any, rows: int) -> list[int] | None:
    """Where rows begin, with the end of the last; ``None`` if it is not said of so many."""
    if type(value) not in (torch.Tensor, SavedTensor) or value.is_floating_point() or value.is_meta:
        return None
    if name in _ENDS:
        return value.tolist() if value.shape == (rows + 1,) else None
    return [0, *accumulate(value.prod(-1).tolist())] if value.shape == (rows, 3) else None


def _scale(ends: list[int], size: int) -> int:
    """How many of what was counted make one of ``size`` entries (patches that are merged); 0 if they do not fit."""
    scale = ends[-1] // size if size else 0
    return scale if scale and scale * size == ends[-1] and all(end % scale == 0 for end in ends) else 0
