"""An invoke's rows of a batch: views of them, and putting them back."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from ..errors import NNsightError
from .evaluate import first_argument
from .nested import map_tensors


class Rows(NamedTuple):
    """Which rows of a batch are meant.

    Attributes:
        start, stop: The rows, as a range.
        size: Rows in the whole batch.
        length: Tokens in a row (padded), where that is known: some models fold them into the first dimension.
        multiples: How many rows one row of the batch may become: beams, or sequences that are returned for it.
    """

    start: int
    stop: int
    size: int
    length: int = 0
    multiples: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether these are all rows."""
        return self.start == 0 and self.stop == self.size

    def times(self, tensor: torch.Tensor) -> int:
        """How many rows of ``tensor`` one row of the batch has; 0 for a tensor that has no batch dimension.

        A first dimension of the batch's size is the batch. A multiple of it is the batch with heads folded in (three
        dimensions or more), or with its tokens folded in (exactly as many as there are).
        """
        if tensor.dim() == 0:
            return 0
        count = tensor.shape[0]
        if count == self.size:
            return 1
        if self.multiples and count % self.size == 0 and count // self.size in self.multiples:
            return count // self.size
        if count == 0 or count % self.size or (tensor.dim() < 3 and count != self.size * self.length):
            return 0
        return count // self.size


def rows_of(value: Any, rows: Rows) -> Any:
    """The rows' views in every tensor of ``value`` that has a batch dimension; other tensors as they are."""
    if rows.whole:
        return value

    def narrow(tensor: torch.Tensor) -> torch.Tensor:
        times = rows.times(tensor)
        return tensor.narrow(0, rows.start * times, (rows.stop - rows.start) * times) if times else tensor

    return narrow(value) if type(value) is torch.Tensor else map_tensors(value, narrow)


def rows_of_first(call: Any, rows: Rows) -> Any:
    """The rows of a call's first argument."""
    return rows_of(first_argument(call), rows)


def join_rows(value: Any, *pieces: Any) -> Any:
    """``value`` with rows replaced: ``pieces`` are ``rows, replacement`` in turn.

    Raises:
        NNsightError: a replacement has other rows, another dtype or another structure than what it replaces.
    """
    placed = sorted(zip(pieces[::2], pieces[1::2], strict=True), key=lambda piece: piece[0].start)
    return placed[0][1] if len(placed) == 1 and placed[0][0].whole else _joined(value, placed)


def _joined(value: Any, placed: list[tuple[Rows, Any]]) -> Any:
    if isinstance(value, torch.Tensor):
        return _joined_tensor(value, placed)
    if isinstance(value, dict):
        items = {key: _joined(item, [(rows, piece[key]) for rows, piece in placed]) for key, item in value.items()}
        return type(value)(**items) if type(value) is not dict else items
    if isinstance(value, (tuple, list)):
        if any(len(piece) != len(value) for _, piece in placed):
            raise NNsightError(f"an invoke puts {[len(piece) for _, piece in placed]} items where the others have {len(value)}")
        parts = [_joined(item, [(rows, piece[place]) for rows, piece in placed]) for place, item in enumerate(value)]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        changes = {name: _joined(getattr(value, name), [(rows, getattr(piece, name)) for rows, piece in placed]) for name in names}
        return dataclasses.replace(value, **changes)
    return value


def _joined_tensor(value: torch.Tensor, placed: list[tuple[Rows, Any]]) -> torch.Tensor:
    times = placed[0][0].times(value)
    if not times:
        if all(piece is value or (isinstance(piece, torch.Tensor) and torch.equal(piece, value)) for _, piece in placed):
            return value
        raise NNsightError(f"this value has no row per input (its shape is {list(value.shape)}): one invoke alone cannot replace it")
    placed = [(rows, piece) for rows, piece in placed if not is_in_place(value, piece, rows.start * times)]
    if not placed:  # edited in place: the rows are in the batch already
        return value
    parts, at = [], 0
    for rows, piece in placed:
        expected = (rows.stop - rows.start) * times
        _check_piece(piece, value, expected)
        parts += [value[at : rows.start * times], piece]
        at = rows.stop * times
    return torch.cat([part for part in (*parts, value[at:]) if part.shape[0]])


def is_in_place(value: torch.Tensor, piece: Any, start: int) -> bool:
    """Whether ``piece`` is the view of the rows from ``start`` on."""
    if type(piece) is not torch.Tensor or piece.stride() != value.stride() or piece.shape[1:] != value.shape[1:]:
        return False
    return piece.device == value.device and piece.data_ptr() == value.data_ptr() + start * value.stride(0) * value.element_size() != 0


def _check_piece(piece: Any, value: torch.Tensor, rows: int) -> None:
    if not isinstance(piece, torch.Tensor):
        raise NNsightError(f"a {type(piece).__name__} cannot stand where a tensor of {rows} rows passes")
    if piece.dim() == 0 or piece.shape[0] != rows or piece.shape[1:] != value.shape[1:]:
        raise NNsightError(f"the rows of this invoke are {[rows, *value.shape[1:]]}; what is put there is {list(piece.shape)}")
    if piece.dtype != value.dtype:
        raise NNsightError(f"the model passes {value.dtype} here; what is put there is {piece.dtype}: convert it with .to({value.dtype})")
