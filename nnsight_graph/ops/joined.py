"""A batch in which some rows were replaced, and the batch that it stands for: the other rows are the same in both.

The model may use the old tensor elsewhere too (a residual stream). An edit in place of rows that nobody replaced is an edit
of both, as it would be for an input that runs alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .nested import storage_of, tensors_in
from .rows import Rows, is_in_place


class StandIn:
    """Two tensors of one shape, and the rows in which they are to agree."""

    __slots__ = ("cells", "changed", "kept", "new", "old")

    def __init__(self, old: torch.Tensor, new: torch.Tensor, kept: list[slice]) -> None:
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
        for rows in self.kept:
            target[rows].copy_(source[rows])
        for other in others:
            if other is not self and (target is other.old or target is other.new):
                other.changed, other.cells = target, self.cells
                other.share([each for each in others if each is not self], part)


def stand_ins(whole: Any, joined: Any, pieces: Sequence[Any]) -> list[StandIn]:
    """For each tensor of ``whole`` that another stands for in ``joined``: both; ``pieces`` as for :func:`~.rows.join_rows`."""
    found = []
    parts = [(rows, list(tensors_in(piece))) for rows, piece in zip(pieces[::2], pieces[1::2], strict=True)]
    for place, (old, new) in enumerate(zip(tensors_in(whole), tensors_in(joined), strict=True)):
        if new is not old:
            times = pieces[0].times(old)
            replaced = [rows for rows, tensors in parts if not is_in_place(old, tensors[place], rows.start * times)]
            found.append(StandIn(old, new, _kept(old, replaced, times)))
    return [pair for pair in found if pair.kept]


def _kept(tensor: torch.Tensor, replaced: Sequence[Rows], times: int) -> list[slice]:
    """The rows between those that were replaced."""
    at, kept = 0, []
    for rows in sorted(replaced):
        if at < rows.start * times:
            kept.append(slice(at, rows.start * times))
        at = max(at, rows.stop * times)
    return [*kept, slice(at, tensor.shape[0])] if at < tensor.shape[0] else kept
