"""An invoke's rows of a batch: views of them, and putting them back."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..errors import NNsightError
from .evaluate import first_argument
from .layout import Answer, Answers, Held, Layout, Rows, Span, UnknownRows, map_beside, part_of, refuse, span_of, unknown_rows
from .nested import tensors_in
from .running import current

_NO_ROWS = "it does not depend on the inputs, so one invoke alone cannot change it: assign or edit it outside the invokes"


def rows_of(value: Any, rows: Rows) -> Any:
    """The rows' views in every tensor of ``value`` that has them; tensors that do not depend on the batch as they are.

    Raises:
        NNsightError: how the value depends on the batch is not known; inside a container, a :class:`UnknownRows` says so when it is used.
    """
    start, stop, size, _, layout = rows
    if start == 0 and stop == size:
        return value
    if isinstance(value, torch.Tensor):
        answers = layout.answers
        if type(answers) is Held and answers.rank == value.dim() and value.shape[answers.dim] == size and value.stride(answers.dim):
            return value.narrow(answers.dim, start, stop - start)  # the usual case
        return _taken(value, rows, layout.otherwise if type(answers) in (tuple, dict) or answers is None else answers, ())
    return map_beside(value, layout.answers, layout.otherwise, lambda tensor, answer, place: _given(tensor, rows, answer, place))


def _given(tensor: torch.Tensor, rows: Rows, answer: Any, place: tuple[Any, ...]) -> Any:
    try:
        return _taken(tensor, rows, answer, place)
    except NNsightError:
        return unknown_rows(rows.layout, tensor, rows)


def _taken(tensor: torch.Tensor, rows: Rows, answer: Any, place: tuple[Any, ...]) -> torch.Tensor:
    span = span_of(tensor, rows, answer, place)
    if span is None:
        _share(tensor, rows.layout)
        return tensor
    dim, start, count, _ = span
    if tensor.stride(dim) == 0 and tensor.shape[dim] > 1:
        _share(tensor, rows.layout)
    return tensor.narrow(dim, start, count)


def _share(tensor: torch.Tensor, layout: Layout) -> None:
    """All rows lie on the same memory: the run refuses edits of it in one invoke."""
    run = current.get()
    if run is not None:
        run.share(tensor, layout)


def rows_of_first(call: Any, rows: Rows) -> Any:
    """The rows of a call's first argument."""
    first = first_argument(call)
    return first if rows.whole else rows_of(first, rows._replace(layout=first_of(rows.layout, call)))


def first_of(layout: Layout, call: Any) -> Layout:
    """The layout of a call's first argument."""
    place, key = (0, 0) if call[0] else (1, next(iter(call[1]), None))
    return layout.of(part_of(part_of(layout.answers, place, layout.otherwise), key, layout.otherwise))


def join_rows(value: Any, *pieces: Any) -> Any:
    """``value`` with rows replaced: ``pieces`` are ``rows, replacement`` in turn.

    Raises:
        NNsightError: a replacement has other rows, another dtype or another structure than what it replaces.
    """
    placed = sorted(zip(pieces[::2], pieces[1::2], strict=True), key=lambda piece: piece[0].start)
    if len(placed) == 1 and placed[0][0].whole:
        return placed[0][1]
    layout = placed[0][0].layout
    return _joined(value, placed, layout.answers, layout.otherwise, ())


def _joined(value: Any, placed: list[tuple[Rows, Any]], answers: Answers, otherwise: Any, place: tuple[Any, ...]) -> Any:
    if isinstance(value, torch.Tensor):
        answer = otherwise if type(answers) in (tuple, dict) or answers is None else answers
        return _joined_tensor(value, placed, answer, place)
    if all(type(piece) is UnknownRows for _, piece in placed):
        return value

    def item(key: Any, old: Any, parts: list[Any]) -> Any:
        pieces = [(rows, part) for (rows, _), part in zip(placed, parts, strict=True)]
        return _joined(old, pieces, part_of(answers, key, otherwise), otherwise, (*place, key))

    if isinstance(value, dict):
        items = {key: item(key, old, [piece[key] for _, piece in placed]) for key, old in value.items()}
        return type(value)(**items) if type(value) is not dict else items
    if isinstance(value, (tuple, list)):
        if any(len(piece) != len(value) for _, piece in placed):
            raise NNsightError(f"an invoke puts {[len(piece) for _, piece in placed]} items where the others have {len(value)}")
        made = [item(key, old, [piece[key] for _, piece in placed]) for key, old in enumerate(value)]
        return type(value)(*made) if hasattr(value, "_fields") else type(value)(made)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        changes = {name: item(name, getattr(value, name), [getattr(piece, name) for _, piece in placed]) for name in names}
        return dataclasses.replace(value, **changes)
    return value


def _joined_tensor(value: torch.Tensor, placed: list[tuple[Rows, Any]], answer: Any, place: tuple[Any, ...]) -> torch.Tensor:
    placed = [(rows, piece) for rows, piece in placed if type(piece) is not UnknownRows and piece is not value]
    if not placed:
        return value
    spans = [span_of(value, rows, answer, place) for rows, _ in placed]
    if spans[0] is None:
        if all(isinstance(piece, torch.Tensor) and torch.equal(piece, value) for _, piece in placed):
            return value
        raise NNsightError(f"{placed[0][0].layout.name} has no row per input (its shape is {list(value.shape)}): {_NO_ROWS}")
    parts, at, dim = [], 0, spans[0].dim
    for span, (_, piece) in zip(spans, placed, strict=True):
        assert span is not None
        if is_in_place(value, piece, span):  # the rows are in the batch already
            continue
        _check_piece(piece, value, span)
        parts += [value.narrow(dim, at, span.start - at), piece]
        at = span.start + span.length
    if not parts:
        return value
    return torch.cat([part for part in (*parts, value.narrow(dim, at, value.shape[dim] - at)) if part.shape[dim]], dim)


def is_in_place(value: torch.Tensor, piece: Any, span: Span) -> bool:
    """Whether ``piece`` is the view of these rows."""
    if type(piece) is not torch.Tensor or piece.stride() != value.stride() or piece.shape != _expected(value, span):
        return False
    offset = span.start * value.stride(span.dim) * value.element_size()
    return piece.device == value.device and piece.data_ptr() == value.data_ptr() + offset != 0


def _expected(value: torch.Tensor, span: Span) -> torch.Size:
    return torch.Size([*value.shape[: span.dim], span.length, *value.shape[span.dim + 1 :]])


def _check_piece(piece: Any, value: torch.Tensor, span: Span) -> None:
    if not isinstance(piece, torch.Tensor):
        raise NNsightError(f"a {type(piece).__name__} cannot stand where a tensor of {span.length} rows passes")
    if piece.shape != _expected(value, span):
        raise NNsightError(f"the rows of this invoke are {list(_expected(value, span))}; what is put there is {list(piece.shape)}")
    if piece.dtype != value.dtype:
        raise NNsightError(f"the model passes {value.dtype} here; what is put there is {piece.dtype}: convert it with .to({value.dtype})")


def stack_rows(pieces: list[tuple[Rows, Any]]) -> Any:
    """Rows of all inputs, one after the other, where nothing else passes.

    Raises:
        NNsightError: they do not fit together.
    """
    layout = pieces[0][0].layout
    others = [list(tensors_in(value)) for _, value in pieces[1:]]
    if any(len(other) != len(list(tensors_in(pieces[0][1]))) for other in others):
        raise NNsightError("the values that invokes put in place of a module have different structures")
    rows, rest = [rows for rows, _ in pieces], iter(zip(*others, strict=True) if others else ())

    def stacked(tensor: torch.Tensor, answer: Any, _place: tuple[Any, ...]) -> torch.Tensor:
        return _stacked(rows, [tensor, *next(rest, ())], answer)

    return map_beside(pieces[0][1], layout.answers, layout.otherwise, stacked)




def _stacked(rows: list[Rows], parts: list[torch.Tensor], answer: Any) -> torch.Tensor:
    first, counts = parts[0], [one.stop - one.start for one in rows]
    if answer is Answer.NONE:
        if any(not torch.equal(part, first) for part in parts):
            raise NNsightError(f"{rows[0].layout.name} has no row per input: {_NO_ROWS}")
        return first
    if answer is Answer.MIXED:
        refuse(rows[0].layout, first, rows[0])
    dim = answer.dim if type(answer) is Held and answer.rank in (-1, first.dim()) else 0
    dim += first.dim() if dim < 0 else 0
    times = max(first.shape[dim] // counts[0], 1) if first.dim() > dim else 0
    for count, part in zip(counts, parts, strict=True):
        expected = [*first.shape[:dim], count * times, *first.shape[dim + 1 :]]
        if part.dim() == 0 or list(part.shape) != expected:
            raise NNsightError(f"the rows of this invoke are {expected}; what is put there is {list(part.shape)}")
        if part.dtype != first.dtype:
            raise NNsightError(f"invokes put {first.dtype} and {part.dtype} in place of one module: convert them with .to(...)")
    return torch.cat(parts, dim)
