"""Memory that operations take where no shape says so: results and workspaces that are as large as values among their arguments say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from ..ops.portable import may_trap

VIEW = 768
"""How many bytes a view takes, beside what it shows."""

_WORD = 8
_ROWS_OF_A_THREAD = 200
"""From so many rows on, a thread more counts into a histogram of its own."""


def made_bytes(kind: str, args: Any, kwargs: dict[str, Any]) -> int:
    """How many bytes an operation of aten takes, where only its arguments' values, or its workspace, say so; 0 for the others.

    >>> made_bytes("bincount", (torch.tensor([9]),), {}), made_bytes("split", (torch.ones(10), 5), {})
    (80, 1536)
    """
    given = args[0] if args else None
    if not isinstance(given, torch.Tensor):
        return 0
    if kind == "convolution":
        return _columns(*args[:9]) * given.element_size()
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
    if kind in ("masked_select", "binomial"):
        return _broadcast(given.shape, args[1].shape) * _WORD
    if kind == "linalg_lstsq":
        columns = args[1].shape[-1] if args[1].dim() == given.dim() else 1
        return _broadcast(given.shape[:-2], args[1].shape[: given.dim() - 2]) * given.shape[-1] * columns * given.element_size()
    if kind in ("mvlgamma", "mvlgamma_"):
        return max(given.numel(), 1) * max(int(args[1]), 0) * _WORD
    if kind.startswith(("histogram", "_histogramdd", "histc")):
        return _bins(args[1] if len(args) > 1 else kwargs.get("bins", 0)) * _WORD * _histograms(given)
    if kind.startswith(("matrix_power", "linalg_matrix_power")):
        return 1 << 62 if args[1] == -(1 << 63) else 0  # which torch cannot negate: it would not end
    return 0


def ends_the_process(kind: str, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether an operation divides the smallest integer by -1: a trap of the processor, which torch does not catch.

    >>> least = torch.tensor([torch.iinfo(torch.int32).min], dtype=torch.int32)
    >>> ends_the_process("div", (least, -1), {"rounding_mode": "trunc"}), ends_the_process("lcm", (least, least + 6), {})
    (True, True)
    """
    if not may_trap(kind):
        return False
    one, other = (value if isinstance(value, torch.Tensor) else torch.tensor(value) for value in args[:2])
    if any(value.is_floating_point() or value.is_complex() or not value.numel() for value in (one, other)):
        return False
    if kind.startswith("div"):
        return "trunc" in (kwargs.get("rounding_mode"), *args[2:3]) and bool((other == -1).any()) and _has_least(one)
    return _has_least(one) or _has_least(other)  # it has no absolute value


def _has_least(value: torch.Tensor) -> bool:
    if value.dtype not in (torch.int32, torch.int64):  # smaller ones are widened, and others have no sign
        return False
    return int(value.min()) in (torch.iinfo(torch.int32).min, torch.iinfo(torch.int64).min)


def _columns(
    given: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any, groups: int
) -> int:
    """How many numbers a convolution lays out in columns before it multiplies, with the kernels of torch that do so."""
    if weight.dim() != given.dim() or weight.dim() < 3 or weight[0, 0].numel() < 2 or min(groups, *stride, *dilation) < 1:
        return 0
    shape = None if bias is None else bias.shape
    try:
        chosen = torch._C._select_conv_backend(given, weight, bias, stride, padding, dilation, transposed, output_padding, groups, shape)
    except (RuntimeError, TypeError):  # arguments that it does not take
        return 0
    name = str(getattr(chosen, "name", chosen)).rpartition(".")[2]
    if not name.startswith("Slow"):
        return 0
    count = given.shape[0] if name in ("Slow2d", "Slow3d") else 1  # the others go through the batch one by one
    places = [int(size) for size in given.shape[2:]]
    if not transposed:
        numbers = zip(places, weight.shape[2:], *(_each(one, weight) for one in (padding, stride, dilation)), strict=True)
        places = [max(0, (size + 2 * pad - far * (width - 1) - 1) // step + 1) for size, width, pad, step, far in numbers]
    return int(count * math.prod(weight.shape[1:]) * math.prod(places))


def _each(numbers: Sequence[int], weight: torch.Tensor) -> Sequence[int]:
    return numbers if len(numbers) == weight.dim() - 2 else [numbers[0]] * (weight.dim() - 2)


def _broadcast(one: Sequence[int], other: Sequence[int]) -> int:
    """How many numbers two tensors have that broadcast together; 0 where they do not."""
    sizes = zip(reversed(one), reversed(other), strict=False)
    if any(size != wide and 1 not in (size, wide) for size, wide in sizes):
        return 0
    return math.prod(torch.broadcast_shapes(tuple(one), tuple(other)))


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
    if isinstance(bins, torch.Tensor):
        return bins.numel()
    if not isinstance(bins, (list, tuple)):
        return 0
    return math.prod(max(count, 0) if isinstance(count, int) else count.numel() for count in bins)


def _histograms(given: torch.Tensor) -> int:
    rows = given.numel() // max(given.shape[-1], 1) if given.dim() else 1
    return 1 + min(torch.get_num_threads(), rows // _ROWS_OF_A_THREAD)
