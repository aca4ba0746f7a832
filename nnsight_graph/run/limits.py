"""Limits on what the program of a stranger may do in a run: how many operations, how large a value; refused before the memory is taken."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import msgspec
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..errors import LimitError
from ..ops.evaluate import SPECIAL, run_code


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a program may take; see :meth:`SavedGraph.run`.

    Attributes:
        operations: How many operations may be executed, turns of loops included; in a session by all of its traces and lines together.
        value_bytes: How many bytes one value may have: tensors by their shape (an expanded scalar counts in full), text, lists. In a
            session, whose inputs are part of the program, the model's own activations count, too.
        integer_bits: How many bits an integer may have.
        forwards: How many forwards of the models may be run: each step of a generation is one.

    Example:
        >>> import nnsight_graph as nnsight
        >>> nnsight.Limits().value_bytes == 1 << 30
        True
    """

    operations: int = 1_000_000
    value_bytes: int = 1 << 30
    integer_bits: int = 4096
    forwards: int = 10_000


class Meter:
    """Executes the instructions of a run one by one, each within the limits.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sizes, self._models = _Sizes(limits.value_bytes), _Sizes(limits.value_bytes, True)
        self._done = self._forwards = 0

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

    def evaluate(self, function: Callable[..., Any], operands: list[Any], named: dict[str, Any]) -> Any:
        """Call one function, within the limits.

        Raises:
            LimitError: it would take more than it may.
        """
        self.count()
        _check_plain(function, operands, self._limits)
        with self._sizes:
            return function(*operands, **named)

    def items(self, source: Any) -> Iterator[Any]:
        """What a loop goes through, if that is no more than it may have turns.

        Raises:
            LimitError: it is more: tensors give all of their rows at once.
        """
        if isinstance(source, torch.Tensor) and source.dim() and len(source) > self._limits.operations - self._done:
            raise self._too_many()
        return iter(source)

    def count(self) -> None:
        """One operation more, or one turn.

        Raises:
            LimitError: that is too many.
        """
        self._done += 1
        if self._done > self._limits.operations:
            raise self._too_many()

    @contextmanager
    def around(self, root: torch.nn.Module, whole: bool) -> Iterator[None]:
        """Count the forwards of a model; with ``whole``, its own operations are kept within the limits, too."""

        def forward(_module: torch.nn.Module, _args: Any) -> None:
            self._forwards += 1
            if self._forwards > self._limits.forwards:
                raise LimitError(f"the program runs more than {self._limits.forwards} forwards: Limits(forwards=...)")

        hook = root.register_forward_pre_hook(forward)
        try:
            with self._models if whole else nullcontext():
                yield
        finally:
            hook.remove()

    def _too_many(self) -> LimitError:
        return LimitError(f"the program executes more than {self._limits.operations} operations: Limits(operations=...)")

    def _special(self, function: Callable[..., Any], rest: Any, run: Any, instruction: Any) -> None:
        try:
            function(run, rest)
        except BaseException:
            run.failed = run.failed or instruction
            raise

    def _count(self, run: Any, instruction: Any) -> None:
        try:
            self.count()
        except LimitError:
            run.failed = run.failed or instruction
            raise


class _Sizes(TorchDispatchMode):
    """Refuses operations whose results would be too large: their shapes are worked out first, without memory.

    Args:
        most: The limit, in bytes.
        growing: Whether results that are no larger than an argument may be larger than that: the weights of a model may be, too.
    """

    def __init__(self, most: int, growing: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most, self._growing = most, growing

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        most = self._most
        if self._growing:
            most = max([most, *(_bytes(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor))])
        check = partial(_check, most)
        self._check_counts(str(function), args)
        try:
            shapes = tree_map_only(torch.Tensor, _on_meta, (args, kwargs))
            made = function(*shapes[0], **{**shapes[1], **_device(kwargs)})
        except Exception:  # what hangs on numbers is as large as its inputs, or is no tensor
            made = None
        tree_map(check, made)
        result = function(*args, **kwargs)
        tree_map(check, result)
        return result

    def _check_counts(self, name: str, args: Any) -> None:
        """Two operations whose results are as large as numbers in their arguments say."""
        given = args[0] if args else None
        if not isinstance(given, torch.Tensor) or not given.numel() or not name.startswith(("aten.bincount", "aten.repeat_interleave")):
            return
        size = (int(given.max()) + 1 if "bincount" in name else int(given.sum())) * 8
        if size > self._most:
            raise LimitError(f"a value would take {size} bytes, more than {self._most}: Limits(value_bytes=...)")


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check(most: int, value: Any) -> None:
    if isinstance(value, torch.Tensor) and _bytes(value) > most:
        raise LimitError(f"a value of {list(value.shape)} would take {_bytes(value)} bytes, more than {most}: Limits(value_bytes=...)")


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
