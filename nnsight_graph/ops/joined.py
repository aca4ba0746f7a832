"""A batch in which some rows were replaced, and the batch that it stands for: the other rows are the same in both.

The model may use the old tensor elsewhere too (a residual stream). An edit in place of rows that nobody replaced is an edit
of both, as it would be for an input that runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .layout import Span, leaves_beside, span_of
from .nested import storage_of, tensors_in
from .rows import is_in_place


class StandIn:
    """Two tensors of one shape, and the rows in which they are to agree."""

    __slots__ = ("cells", "changed", "kept", "new", "old")

    def __init__(self, old: torch.Tensor, new: torch.Tensor, kept: list[Span]) -> None:
        self.old = old
        self.new = new
        self.kept = kept
        self.changed: torch.Tensor | None = None
        self.cells: tuple[int, ...] = ()

    def note(self, value: Any, cells: tuple[int, ...]) -> None:
        """``value`` is about to be edited in place, at ``cells``: remember which of the two is."""
        addresses = {storage_of(tensor) for tensor in tensors_in(value)}
        for tensor in (self.old, self.new):
            if storage_of(tensor) in addresses:
                self.changed, self.cells = tensor, cells

    def share(self, others: Sequence[StandIn], part: Callable[[Any, tuple[int, ...]], None]) -> None:
        """Copy what was edited to the other tensor, once ``part`` has freed what others hold of it; and so on from there."""
        source, self.changed = self.changed, None
        if source is None:
            return
        target = self.old if source is self.new else self.new
        part(target, self.cells)
        for dim, start, count, _ in self.kept:
            target.narrow(dim, start, count).copy_(source.narrow(dim, start, count))
        for other in others:
            if other is not self and (target is other.old or target is other.new):
                other.changed, other.cells = target, self.cells
                other.share([each for each in others if each is not self], part)


def stand_ins(whole: Any, joined: Any, pieces: Sequence[Any]) -> list[StandIn]:
    """For each tensor of ``whole`` that another stands for in ``joined``: both; ``pieces`` as for :func:`~.rows.join_rows`."""
    if joined is whole or any(rows.whole for rows in pieces[::2]):  # nothing was replaced, or everything
        return []
    found = []
    layout = pieces[0].layout
    parts = [(rows, dict(_by_place(piece))) for rows, piece in zip(pieces[::2], pieces[1::2], strict=True)]
    after = dict(_by_place(joined))
    for old, answer, place in leaves_beside(whole, layout.answers, layout.otherwise):
        new = after.get(place, old)
        if new is not old:
            spans = [(span_of(old, rows, answer, place), tensors.get(place)) for rows, tensors in parts]
            replaced = [span for span, tensor in spans if span is not None and tensor is not None and not is_in_place(old, tensor, span)]
            found.append(StandIn(old, new, _kept(old, replaced)))
    return [pair for pair in found if pair.kept]


def _by_place(value: Any) -> list[tuple[tuple[Any, ...], torch.Tensor]]:
    return [(place, tensor) for tensor, _, place in leaves_beside(value, None, None)]


def _kept(tensor: torch.Tensor, replaced: Sequence[Span]) -> list[Span]:
    """The rows between those that were replaced."""
    at, kept, dim = 0, [], replaced[0].dim if replaced else 0
    for span in sorted(replaced):
        if at < span.start:
            kept.append(Span(dim, at, span.start - at, 1))
        at = max(at, span.start + span.length)
    return [*kept, Span(dim, at, tensor.shape[dim] - at, 1)] if at < tensor.shape[dim] else kept
