"""Fakes that go on where a size depends on data: for scans that only ask which dimensions grow with the number of rows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from .fakes import Fakes, Number

_MOST = 50_000
"""Operations that such a scan may have: it is worth seconds, not minutes."""

_MOST_QUESTIONS = 300


_aten = torch.ops.aten


class Guesses(Fakes):
    """Gives a size that depends on data as twice the most that it can be: it grows with the rows, but never as their number does.

    Args:
        number: As for :class:`~.fakes.Fakes`; which module of a list is called is answered with the first.
        truth: The answer to all questions that are answered by yes or no.
        times: What such a size is a multiple of, in place of twice.

    Attributes:
        asked: How many such questions there were.
    """

    def __init__(self, number: Number | None = None, truth: bool = False, times: int = 2) -> None:
        super().__init__(self._told)
        self.times = times
        self._known, self._truth, self._left, self.asked = number, truth, _MOST, 0

    def _told(self, tensor: torch.Tensor) -> bool | int | float | None:
        told = None if self._known is None else self._known(tensor)
        if told is not None or tensor.dtype is not torch.bool:
            return _first_of_list() if told is None else told
        self.asked += 1
        return self._truth if self.asked < _MOST_QUESTIONS else None  # a loop may wait for the other answer

    def _dispatch_impl(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise NotImplementedError(f"a scan of more than {_MOST} operations")
        stand_in = _STAND_INS.get(func)
        found = stand_in(self, func, args, kwargs or {}) if stand_in is not None else None
        return super()._dispatch_impl(func, types, args, kwargs) if found is None else found

    def new(self, shape: tuple[int, ...], like: torch.Tensor, dtype: torch.dtype = torch.long) -> torch.Tensor:
        """A fake of a shape, where another one lies."""
        with self:
            return torch.empty(shape, dtype=dtype, device=like.device)


class WrittenNumbers(TorchFunctionMode):
    """Asks for the number where a fake is written into a text, ``self[f"expert_{index}"]``: fakes themselves write what they are."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is torch.Tensor.__format__ and isinstance(args[0], FakeTensor) and args[0].dim() == 0:
            return _written(*args)
        return func(*args, **kwargs or {})


def _written(tensor: torch.Tensor, form: str) -> str:
    return format(tensor.item(), form)


_BY_PLACE = ("__getitem__", "_get_item_by_idx", "_get_abs_string_index")


def _first_of_list() -> int | None:
    """Where a list of modules asks which of them is meant, or the number is written into a name of one."""
    frame = sys._getframe(2)
    for _ in range(24):  # through the layers of torch, too
        code = frame.f_code
        if code is _written.__code__ or (code.co_name in _BY_PLACE and code.co_filename.endswith("nn/modules/container.py")):
            return 0
        if frame.f_back is None:
            break
        frame = frame.f_back
    return None


def _nonzero(mode: Guesses, _func: Any, args: Any, _kwargs: Any) -> Any:
    mask = args[0]
    return mode.new((mode.times * mask.numel(), mask.dim()), mask)


def _picked(mode: Guesses, func: Any, args: Any, kwargs: Any) -> Any:
    """An index with masks, as one with the places where they hold."""
    target, indices, *rest = args
    if not any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices):
        return None
    places: list[Any] = []
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
            places += [mode.new((mode.times * index.numel(),), index) for _ in range(index.dim())]
        else:
            places.append(index)
    with mode:
        return func(target, places, *rest, **kwargs)


def _selected(mode: Guesses, _func: Any, args: Any, _kwargs: Any) -> Any:
    shape = torch.broadcast_shapes(args[0].shape, args[1].shape)
    return mode.new((mode.times * shape.numel(),), args[0], args[0].dtype)


def _unique(mode: Guesses, _func: Any, args: Any, _kwargs: Any) -> Any:
    count = mode.times * args[0].numel()
    return mode.new((count,), args[0], args[0].dtype), mode.new(tuple(args[0].shape), args[0]), mode.new((count,), args[0])


def _repeated(mode: Guesses, _func: Any, args: Any, kwargs: Any) -> Any:
    known = kwargs.get("output_size")
    return mode.new((mode.times * args[0].numel() if known is None else known,), args[0]) if isinstance(args[0], FakeTensor) else None


_STAND_INS: dict[Any, Callable[[Guesses, Any, Any, Any], Any]] = {
    _aten.nonzero.default: _nonzero,
    _aten.index.Tensor: _picked,
    _aten.index_put.default: _picked,
    _aten.index_put_.default: _picked,
    _aten.masked_select.default: _selected,
    _aten._unique2.default: _unique,
    _aten.unique_consecutive.default: _unique,
    _aten.repeat_interleave.Tensor: _repeated,
}
