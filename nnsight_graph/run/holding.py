"""What a run holds: values that were read stay as they were read, whatever is edited afterwards on the same storage."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import torch

from ..compile import Plan
from ..errors import NNsightError
from ..ops.evaluate import run_code
from ..ops.joined import StandIn, stand_ins
from ..ops.layout import Layout, Rows, UnknownRows, leaves_beside, map_beside
from ..ops.nested import clone, copy_together, map_tensors, shares, storage_of, storages_of, tensors_in, versions_of
from ..ops.rows import join_rows, rows_of
from ..ops.saved_values import SavedTensor
from .contained import Contained
from .edits_seen import Edit, edit_of
from .modules import ModuleIndex

_FOR_GOOD = "the model passes a parameter or a buffer here: an edit in place would change it for good. Assign a new value."


class Holding:
    """The part of a run that knows storage."""

    plan: Plan
    modules: ModuleIndex | None = None
    slots: list[Any]
    waits: list[int]
    held: dict[int, list[tuple[int, tuple[int, ...]]]]
    noted: dict[int, tuple[int, ...] | None]
    # What most runs never change stays on the class: of a small model's forward, the making of its run is a part that counts.
    contained: Contained | None = None
    captures: tuple[Any, ...] = ()
    joined: tuple[StandIn, ...] = ()
    pieces: dict[int, Any] = {}  # noqa: RUF012  (replaced, never filled)
    edits: list[Edit] = []  # noqa: RUF012  (replaced, never filled)
    error: BaseException | None = None
    failed: Any = None
    lost = -1
    layouts: Any = None
    shared: dict[int, tuple[torch.Tensor, Layout]] = {}  # noqa: RUF012  (replaced, never filled)
    _owned: set[int] | None = None

    def contain(self, container: int, values: tuple[tuple[int, bool], ...], cells: tuple[int, ...]) -> None:
        """What passed at ``cells`` was put into a container."""
        if self.contained is None:
            self.contained = Contained()
        for slot, unchecked in values:
            self.contained.add(self.slots[container], self.slots[slot], cells, not unchecked)

    def _register(self, group: tuple[tuple[int, tuple[int, ...]], ...]) -> None:
        if self.plan.guards:
            for slot, cells in group:
                for address in storages_of(self.slots[slot]):
                    known = self.held.get(address, ())
                    self.held[address] = [*(entry for entry in known if self.slots[entry[0]] is not None), (slot, cells)]

    def _note(self, group: tuple[tuple[int, tuple[int, ...]], ...]) -> None:
        """Remember what was read as it is now that its visit ends."""
        uncounted: list[int] = []
        for slot, cells in group:
            versions = versions_of(self.slots[slot])
            if versions is None:
                uncounted.append(slot)
                versions = ()
            if slot not in self.plan.unchecked:
                self.noted[slot] = versions
            if self.plan.visits[cells[0]].slot == slot:
                self._register(((slot, cells),))
        if uncounted:  # inference tensors have no counters: they are copied, views of one tensor as views of one copy
            for slot, value in zip(uncounted, copy_together([self.slots[slot] for slot in uncounted]), strict=True):
                self.slots[slot] = value

    def check(self, slots: tuple[int, ...]) -> None:
        """Raise if the model has overwritten, in place, something that was read.

        Raises:
            NNsightError: names the site, and modules of the model that may have done it.
        """
        for slot in slots:
            noted = self.noted.get(slot)
            if noted and self.slots[slot] is not None and versions_of(self.slots[slot]) != noted:
                self.failed = ("overwritten", slot)
                raise NNsightError("overwritten")

    def check_saved(self) -> None:
        """After the forward: nothing that is saved may have been overwritten by the model; what was is not handed out."""
        slots, noted = self.slots, self.noted
        overwritten = None if self.contained is None else self.contained.overwritten()
        if overwritten is not None and self.error is None:
            self.failed, self.error = ("overwritten", -1, overwritten), NNsightError("overwritten")
        for capture in self.captures:
            if self.error is None and (where := capture.overwritten()):
                self.failed, self.error = ("kept", capture.spec.node, where), NNsightError("overwritten")
        given = self.plan.given
        for node, slot, _, _ in self.plan.saved:
            if given and node in given and slots[given[node][0]] is not given[node][1]:
                continue  # its branch was not taken
            if type(slots[slot]) is UnknownRows and self.error is None:
                self.failed, self.error, self.lost = ("refused", node), slots[slot].error, slot
            known = noted.get(slot)
            if known and versions_of(slots[slot]) != known and self.error is None:
                self.failed, self.error, self.lost = ("overwritten", slot), NNsightError("overwritten"), slot

    def share(self, tensor: torch.Tensor, layout: Layout) -> None:
        """An invoke was given what all rows lie on: no invoke may edit it."""
        if self.plan.edited:
            self.shared = {**self.shared, storage_of(tensor): (tensor, layout)}

    def _refuse_shared(self, tensor: torch.Tensor) -> None:
        tensor_and_layout = self.shared.get(storage_of(tensor))
        if tensor_and_layout is not None and storage_of(tensor):
            shape, name = list(tensor_and_layout[0].shape), tensor_and_layout[1].name
            raise NNsightError(
                f"{name} is the same for all inputs, or their rows lie on one memory (its shape is {shape}): an edit in one invoke "
                f"would change the others. Edit a .clone(); or edit it outside the invokes, for all of them."
            )

    def protect(self, target: int, cells: tuple[int, ...], rows: int = -1) -> None:
        """Before an edit: what was read at other sites and lies on the same storage gets storage of its own."""
        value = self.slots[target]
        if self.shared and rows >= 0 and isinstance(value, torch.Tensor) and not self.slots[rows].whole:
            self._refuse_shared(value)
        if cells or type(value) not in (torch.Tensor, SavedTensor):
            self.protect_value(value, cells)
        elif self._owns(value):
            raise NNsightError(_FOR_GOOD)

    def _owns(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on storage of a parameter or a buffer; looked up once in a run, and again where it seems so."""
        if self.modules is None:
            return False
        address = storage_of(tensor)
        if self._owned is None or address in self._owned:
            self._owned = self.modules.owned()
        return address in self._owned

    def protect_value(self, value: Any, cells: tuple[int, ...]) -> None:
        """The same, for a value."""
        for stand_in in self.joined:
            stand_in.note(value, cells)
        for capture in self.captures:
            capture.part(value)
        for tensor in tensors_in(value):
            if isinstance(tensor, torch.nn.Parameter) or self._owns(tensor):
                raise NNsightError(_FOR_GOOD)
        if self.held or self.contained is not None:
            self.part(value, cells)

    def part(self, value: Any, cells: tuple[int, ...]) -> None:
        """What was read at other sites than ``cells`` and lies on the storage of ``value`` gets storage of its own."""
        if self.contained is not None and self.contained.known:
            self.contained.protect(value, cells)
        for address in storages_of(value):
            for slot, owners in self.held.get(address, ()):
                other = self.slots[slot]
                if other is not None and set(cells).isdisjoint(owners) and address in storages_of(other):
                    intact = not self.noted.get(slot) or versions_of(other) == self.noted[slot]
                    self.slots[slot] = clone(other)
                    self.noted[slot] = versions_of(self.slots[slot]) if intact else (-1,)

    def join(self, out: int, leaves: tuple[int, ...], cells: tuple[int, ...]) -> None:
        """Put replaced rows among the others; these stay the same rows as in the tensor that the model may use elsewhere."""
        whole, *pieces = [self.slots[leaf] for leaf in leaves]
        if self.pieces:
            for place in range(1, len(pieces), 2):
                pieces[place] = self._put_back(whole, pieces[place - 1], pieces[place], cells)
        joined = self.slots[out] = join_rows(whole, *pieces)
        self.joined += tuple(stand_ins(whole, joined, pieces))

    def _put_back(self, whole: Any, rows: Rows, piece: Any, cells: tuple[int, ...]) -> Any:
        """``piece``, with the rows of ``whole`` themselves in place of their copies; what was edited of these is put back first."""
        if type(piece) is torch.Tensor and not self._is_piece(piece):
            return piece
        mine = rows_of(whole, rows)
        if type(piece) is torch.Tensor and type(mine) is torch.Tensor:
            return self._put_back_into(mine, piece, cells)
        views = {place: view for view, _, place in leaves_beside(mine, None, None)}

        def back(tensor: torch.Tensor, _answer: Any, place: tuple[Any, ...]) -> torch.Tensor:
            return self._put_back_into(views[place], tensor, cells) if self._is_piece(tensor) and place in views else tensor

        return map_beside(piece, None, None, back)

    def _put_back_into(self, view: torch.Tensor, piece: torch.Tensor, cells: tuple[int, ...]) -> torch.Tensor:
        if piece._version or (piece.is_leaf and piece.requires_grad):  # else nobody has edited it, or begun a graph with it
            self.protect_value(view, cells)
            view.copy_(piece)
            self._note_again(piece, view)
        return view

    def _is_piece(self, tensor: torch.Tensor) -> bool:
        known = self.pieces.get(id(tensor))
        return known is not None and known[0] is tensor

    def note_edit(self, node: int, slot: int) -> None:
        """A line has edited what lies in ``slot``."""
        edit = edit_of(node, self.slots[slot])
        if edit is not None:
            self.edits = self.edits or []  # not the class's
            self.edits.append(edit)

    def _note_again(self, piece: torch.Tensor, view: torch.Tensor) -> None:
        """An edit of rows has reached the batch."""
        address = storage_of(piece)
        node = next((node for node, where, _, _ in reversed(self.edits) if where == address), -1)
        edit = edit_of(node, view)
        if edit is not None and node >= 0:
            self.edits.append(edit)

    def piece(self, out: int, leaves: tuple[int, ...], listens: bool) -> None:
        """An invoke's rows; under autograd copies, so that what is computed from them survives edits of the others."""
        whole, rows = self.slots[leaves[0]], self.slots[leaves[1]]
        mine = self.slots[out] = rows_of(whole, rows)
        if mine is whole or not torch.is_grad_enabled():
            return
        self.pieces = self.pieces or {}
        if type(mine) is torch.Tensor and not self.shared:
            piece = self.slots[out] = mine.clone()
            self.pieces[id(piece)] = (piece, _as_made(whole) if listens else None, rows)
            return
        piece = self.slots[out] = _copied(mine, self.shared)
        own = {place: tensor for tensor, _, place in leaves_beside(mine, None, None)}
        layout = rows.layout
        wholes = {place: (tensor, answer) for tensor, answer, place in leaves_beside(whole, layout.answers, layout.otherwise)}
        for tensor, _, place in leaves_beside(piece, None, None):
            if tensor is not own.get(place) and place in wholes:
                of, answer = wholes[place]
                self.pieces[id(tensor)] = (tensor, _as_made(of) if listens else None, rows._replace(layout=layout.of(answer)))

    def snapshot(self, kept: int, segment: int) -> None:
        """Before an edit: a line above it that runs later keeps the value as it is."""
        if self.waits[segment] >= 0:
            self.slots[kept] = clone(self.slots[kept])

    def detach(self, reads: tuple[int, ...], views: tuple[tuple[int, int, Any], ...]) -> None:
        """At a write: the old value's names, and the views among them, leave the model's storage."""
        before = {slot: self.slots[slot] for slot in (*reads, *(s for slot, base, _ in views for s in (slot, base)))}
        moved = copy_together([before[slot] for slot in reads])
        for slot, value in zip(reads, moved, strict=True):
            self.slots[slot] = value
        for slot, base, made in views:
            if before[slot] is not None and shares(before[slot], before[base]):
                run_code((made,), self.slots, self)


def _copied(rows: Any, shared: Container[int]) -> Any:
    """Copies of rows; what all rows share is no copy."""
    copies = iter(copy_together([[tensor for tensor in tensors_in(rows) if storage_of(tensor) not in shared]])[0])
    return map_tensors(rows, lambda tensor: tensor if storage_of(tensor) in shared else next(copies))
def _as_made(tensor: torch.Tensor) -> tuple[torch.Tensor, int, Any]:
    """A tensor, its version, and what autograd knows this version by."""
    return tensor, tensor._version, None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)
