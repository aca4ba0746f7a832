"""Operations whose results, or whose work, are as large as numbers among their arguments say: torch does not tell before it runs them."""

from __future__ import annotations

from typing import Any

import torch

VIEW = 768
"""How many bytes a view takes, beside what it shows."""

_WORD = 8


def made_bytes(name: str, args: Any, kwargs: dict[str, Any]) -> int:
    """How many bytes an operation of torch takes, where only its arguments' values say so; 0 for the others.

    >>> made_bytes("aten.bincount.default", (torch.tensor([9]),), {}), made_bytes("aten.split.Tensor", (torch.ones(10), 5), {})
    (80, 1536)
    """
    kind = name.split(".")[1] if name.count(".") else name
    given = args[0] if args else None
    if not isinstance(given, torch.Tensor):
        return 0
    if kind == "bincount":
        least = kwargs.get("minlength", args[2] if len(args) > 2 else 0)
        return max(int(given.max()) + 1 if given.numel() else 0, int(least)) * _WORD
    if kind == "repeat_interleave":
        return int(given.sum()) * _WORD if given.numel() and len(args) < 2 else 0
    if kind in ("unbind", "unbind_copy", "split", "split_copy", "unsafe_split"):
        return _parts(kind, given, args, kwargs) * VIEW
    if kind in ("split_with_sizes", "split_with_sizes_copy"):
        return len(args[1]) * VIEW
    if kind == "nonzero":
        return int(torch.count_nonzero(given)) * given.dim() * _WORD
    if kind in ("mvlgamma", "mvlgamma_"):
        return given.numel() * max(int(args[1]), 0) * _WORD
    if kind.startswith(("histogram", "_histogramdd", "histc")):
        return _bins(args[1] if len(args) > 1 else kwargs.get("bins", 0)) * _WORD
    if kind.startswith(("matrix_power", "linalg_matrix_power")):
        return 1 << 62 if args[1] == -(1 << 63) else 0  # which torch cannot negate: it would not end
    return 0


def ends_the_process(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a division is one of the smallest integer by -1, cut off: a trap of the processor, which torch does not catch.

    >>> least = torch.tensor([torch.iinfo(torch.int32).min], dtype=torch.int32)
    >>> ends_the_process("aten.div.Scalar_mode", (least, -1), {"rounding_mode": "trunc"})
    True
    """
    if not name.startswith(("aten.div", "aten.divide")) or "trunc" not in (kwargs.get("rounding_mode"), *args[2:3]):
        return False
    top, bottom = (one if isinstance(one, torch.Tensor) else torch.tensor(one) for one in args[:2])
    if top.is_floating_point() or bottom.is_floating_point() or not top.numel() or not bottom.numel():
        return False
    return bool((bottom == -1).any()) and int(top.min()) in (torch.iinfo(torch.int32).min, torch.iinfo(torch.int64).min)


def work(name: str, args: Any) -> float:
    """How many operations' worth of work an operation of torch is, beyond the one that it is."""
    if "_polynomial_" not in name:
        return 0
    sizes = [arg.numel() for arg in args if isinstance(arg, torch.Tensor)]
    degree = args[1]
    if isinstance(degree, torch.Tensor):
        degree = float(degree.abs().nan_to_num().max()) if degree.numel() else 0
    return max(sizes, default=1) * float(degree) / 10_000  # each is computed from those of lower degree


def _parts(kind: str, given: torch.Tensor, args: Any, kwargs: dict[str, Any]) -> int:
    place = 1 if kind.startswith("unbind") else 2
    dim = kwargs.get("dim", args[place] if len(args) > place else 0)
    if not -given.dim() <= dim < given.dim():
        return 0
    size = int(given.shape[dim])
    return size if place == 1 else -(-size // max(int(args[1]), 1))


def _bins(bins: Any) -> int:
    if isinstance(bins, int):
        return bins
    if not isinstance(bins, (list, tuple)) or not all(isinstance(count, int) for count in bins):
        return 0
    total = 1
    for count in bins:
        total *= max(count, 0)
    return total
