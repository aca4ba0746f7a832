"""Limits on what the program of a stranger may do in a run: how many operations, how large a value; refused before the memory is taken."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

from ..errors import LimitError
from ..ops.evaluate import SPECIAL, run_code


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a program may take; see :meth:`SavedGraph.run`.

    Attributes:
        operations: How many operations may be executed, turns of loops included.
        value_bytes: How many bytes one value may have: tensors by their shape (an expanded scalar counts in full), text, lists.
        integer_bits: How many bits an integer may have.

    Example:
        >>> import nnsight_graph as nnsight
        >>> nnsight.Limits().value_bytes == 1 << 30
        True
    """

    operations: int = 1_000_000
    value_bytes: int = 1 << 30
    integer_bits: int = 4096


class Meter:
    """Executes the instructions of a run one by one, each within the limits.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sizes = _Sizes(limits.value_bytes)
        self._done = 0

    def __call__(self, code: Sequence[Any], slots: list[Any], run: Any) -> None:
        """Execute straight-line code.

        Raises:
            LimitError: it would take more than it may.
        """
        self._count(run, None)
        for instruction in code:
            self._count(run, instruction)
            kind, function, _, a, b, rest, _ = instruction
            if kind == SPECIAL:
                self._special(function, rest, run, instruction)
                continue
            values = [slots[i] for i in rest[0]] if kind == 0 else [slots[i] for i in (a, b, rest)[:kind]] if kind < 4 else []
            try:
                _check_plain(function, values, self._limits)
            except LimitError:
                run.failed = run.failed or instruction
                raise
            run.meter = None
            try:
                with self._sizes:
                    run_code((instruction,), slots, run)
            finally:
                run.meter = self

    def _special(self, function: Callable[..., Any], rest: Any, run: Any, instruction: Any) -> None:
        try:
            function(run, rest)
        except BaseException:
            run.failed = run.failed or instruction
            raise

    def _count(self, run: Any, instruction: Any) -> None:
        self._done += 1
        if self._done > self._limits.operations:
            run.failed = run.failed or instruction
            raise LimitError(f"the program executes more than {self._limits.operations} operations: Limits(operations=...)")


class _Sizes(TorchDispatchMode):
    """Refuses operations whose results would be too large: their shapes are worked out first, without memory."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = most

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._check_counts(str(function), args)
        try:
            shapes = tree_map_only(torch.Tensor, _on_meta, (args, kwargs))
            made = function(*shapes[0], **{**shapes[1], **_device(kwargs)})
        except Exception:  # what hangs on numbers is as large as its inputs, or is no tensor
            made = None
        tree_map(self._check, made)
        result = function(*args, **kwargs)
        tree_map(self._check, result)
        return result

    def _check_counts(self, name: str, args: Any) -> None:
        """Two operations whose results are as large as numbers in their arguments say."""
        given = args[0] if args else None
        if not isinstance(given, torch.Tensor) or not given.numel() or not name.startswith(("aten.bincount", "aten.repeat_interleave")):
            return
        size = (int(given.max()) + 1 if "bincount" in name else int(given.sum())) * 8
        if size > self._most:
            raise LimitError(f"a value would take {size} bytes, more than {self._most}: Limits(value_bytes=...)")

    def _check(self, value: Any) -> None:
        if isinstance(value, torch.Tensor) and value.numel() * value.element_size() > self._most:
            raise LimitError(
                f"a value of {list(value.shape)} would take {value.numel() * value.element_size()} bytes, more than {self._most}: "
                "Limits(value_bytes=...)"
            )


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _device(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"device": torch.device("meta")} if "device" in kwargs else {}


_GROWING = {operator.mul, operator.imul, operator.pow, operator.ipow, operator.lshift, operator.ilshift, operator.add, operator.iadd}


def _check_plain(function: Any, values: list[Any], limits: Limits) -> None:
    """Refuse what Python itself would make too large: integers, text, lists."""
    if function not in _GROWING or len(values) != 2:
        return
    one, other = values
    if isinstance(one, int) and isinstance(other, int):
        bits = _bits(function, one, other)
        if bits > limits.integer_bits:
            raise LimitError(f"an integer of {bits} bits, more than {limits.integer_bits}: Limits(integer_bits=...)")
        return
    if function in (operator.mul, operator.imul):
        sequence, count = (one, other) if isinstance(other, int) else (other, one)
        if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(count, int) and len(sequence) * count * 8 > limits.value_bytes:
            raise LimitError(f"{len(sequence)} items {count} times are more than {limits.value_bytes} bytes: Limits(value_bytes=...)")


def _bits(function: Any, one: int, other: int) -> int:
    if function in (operator.pow, operator.ipow):
        return one.bit_length() * max(other, 0)
    if function in (operator.lshift, operator.ilshift):
        return one.bit_length() + max(other, 0)
    if function in (operator.mul, operator.imul):
        return one.bit_length() + other.bit_length()
    return max(one.bit_length(), other.bit_length()) + 1
