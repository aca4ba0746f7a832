"""What a run holds: values that were read stay as they were read, whatever is edited afterwards on the same storage."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import torch

from ..compile import Plan
from ..errors import NNsightError
from ..ops.evaluate import run_code
from ..ops.joined import StandIn, stand_ins
from ..ops.nested import clone, copy_together, map_tensors, shares, storage_of, storages_of, tensors_in, versions_of
from ..ops.rows import Rows, join_rows, rows_of
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
            known = noted.get(slot)
            if known and versions_of(slots[slot]) != known and self.error is None:
                self.failed, self.error, self.lost = ("overwritten", slot), NNsightError("overwritten"), slot

    def protect(self, target: int, cells: tuple[int, ...]) -> None:
        """Before an edit: what was read at other sites and lies on the same storage gets storage of its own."""
        value = self.slots[target]
        if cells or type(value) is not torch.Tensor:
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
        views = iter(list(tensors_in(rows_of(whole, rows))))

        def back(tensor: torch.Tensor) -> torch.Tensor:
            view = next(views, tensor)
            if id(tensor) not in self.pieces:
                return tensor
            if tensor._version or (tensor.is_leaf and tensor.requires_grad):  # else nobody has edited it, or begun a graph with it
                self.protect_value(view, cells)
                view.copy_(tensor)
                self._note_again(tensor, view)
            return view

        return map_tensors(piece, back)

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
        if not torch.is_grad_enabled():
            self.slots[out] = rows_of(whole, rows)
            return
        self.slots[out] = piece = copy_together([rows_of(whole, rows)])[0] if not rows.whole else whole
        if not rows.whole:
            wholes = map(_as_made, tensors_in(whole)) if listens else repeat(None)
            made = {id(tensor): (tensor, of, rows) for tensor, of in zip(tensors_in(piece), wholes, strict=False)}
            self.pieces = {**self.pieces, **made}

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


def _as_made(tensor: torch.Tensor) -> tuple[torch.Tensor, int, Any]:
    """A tensor, its version, and what autograd knows this version by."""
    return tensor, tensor._version, None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)
