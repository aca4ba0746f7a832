"""How long an operation of torch goes on: what counts as more than one operation, because its arguments make it work for long."""

from __future__ import annotations

import math
from typing import Any

import torch

from .held import tensors_of
from .shapes import written

_NUMBERS = 10_000_000
_STEPS = 1_000_000
_PRODUCTS = 1_000_000_000
"""How many numbers are handled, steps taken, or floats multiplied in matrices, for the price of one operation: at most some 10 ms."""

_MATRICES = frozenset("mm addmm bmm baddbmm addbmm mv addmv dot vdot linear _int_mm _addmm_activation".split())
_SOLVERS = ("linalg_", "_linalg_", "cholesky", "lu_", "triangular_solve", "geqrf", "orgqr", "ormqr", "_lu", "matrix_exp", "inverse")


def work(kind: str, args: Any, made: Any) -> int:
    """How many operations' worth of work an operation of aten is, beyond the one that it is.

    Args:
        kind: Its name.
        args: Its arguments.
        made: What it gives, as far as that is known: shapes alone.

    >>> work("max_pool2d_with_indices", (torch.ones(1, 1, 300, 300), [200, 200], [1, 1]), torch.ones(1, 1, 101, 101))
    408
    """
    given = [arg for arg in args if isinstance(arg, torch.Tensor)]
    results = tensors_of(made)
    outputs = results[0].numel() if results else max([arg.numel() for arg in given], default=0)
    count = sum(arg.numel() for arg in [*given, *results]) // _NUMBERS
    if isinstance(made, (list, tuple)):
        count += len(made) // 4  # views by the thousand
    count += written(kind, args) // _STEPS
    if "_polynomial_" in kind:
        return count + _degrees(args, given)
    if kind == "convolution":
        moved = given[0].numel() if args[6] else outputs
        return count + _products(moved * math.prod(given[1].shape[1:]), given[0])
    if "pool" in kind and "adaptive" not in kind and "unpool" not in kind and len(args) > 1:
        return count + outputs * _kernel(args[1], kind) // _STEPS
    if kind == "_cdist_forward":
        return count + outputs * given[0].shape[-1] // _STEPS
    if kind == "_pdist_forward":
        return count + given[0].numel() * given[0].shape[0] // _STEPS
    return count + _multiplied(kind, given)


def _multiplied(kind: str, given: list[torch.Tensor]) -> int:
    if kind in _MATRICES and len(given) > 1:
        one, other = given[1:3] if len(given) > 2 and kind != "linear" else given[:2]
        return _products(one.numel() * (other.shape[0 if kind == "linear" else -1] if other.dim() > 1 else 1), one)
    if kind == "conv_tbc" or kind == "_trilinear":
        return _products(given[0].numel() * given[1].numel(), given[0])
    if "scaled_dot_product" in kind and len(given) > 2:
        return _products(given[0].numel() * given[1].shape[-2] * 2, given[0])
    if kind.startswith(_SOLVERS):
        return max([arg.numel() * max(arg.shape[-2:]) for arg in given if arg.dim() > 1], default=0) // _NUMBERS
    return 0


def _products(count: int, one: torch.Tensor) -> int:
    if one.is_floating_point() or one.is_complex():
        return count // (_PRODUCTS if one.element_size() > 2 or one.device.type != "cpu" else _PRODUCTS // 10)
    return count // _NUMBERS


def _kernel(size: Any, kind: str) -> int:
    dims = next((int(letter) for letter in kind if letter.isdigit()), 1)
    sizes = [size] if isinstance(size, int) else list(size)
    return math.prod(sizes * dims if len(sizes) == 1 else sizes)


def _degrees(args: Any, given: list[torch.Tensor]) -> int:
    """Each polynomial is computed from those of lower degree."""
    degree = args[1]
    if isinstance(degree, torch.Tensor):
        degree = float(degree.abs().nan_to_num().max()) if degree.numel() else 0
    return int(min(max([arg.numel() for arg in given], default=1) * float(degree) / 10_000, 1e15))
