"""In-place edits: who has to see the value as it was, and what of it the model sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import RecordError
from ..ops.evaluate import same, snapshot
from .plan import Slot, Step
from .storage import Root, Value

if TYPE_CHECKING:
    from .analyse import Analysis


def prepare_edit(analysis: Analysis, step: Step, target: Value) -> None:
    """Put in front of the edit ``step`` of ``target`` all that keeps other lines right."""
    private: dict[tuple[int, int], Slot] = {}
    for root in target.roots:
        if root.loose and _superseded(target):
            raise refused(step.node, "edits a value that may have been replaced in a branch above. Edit a .clone(), or read the site again")
        if root.frozen:
            raise refused(step.node, "edits what a view shows that was put aside in a loop, or in a container, above. Edit a .clone()")
        if root.retired is not None and root.cell is not None:
            if root.contained:
                raise refused(step.node, "edits a value that was replaced above and that a container holds. Edit a .clone()")
            _detach(step, root)
        for reader, leaf in root.readers:
            if reader.needs & ~step.needs and not _comes_before(reader, root):
                if reader.special == "loop" and root in reader.extra.shares:
                    why = "edits a value that a loop above hands on, and that loop runs only later"
                    raise refused(step.node, f"{why}. Edit a .clone()")
                known_later = _needs_of(analysis, reader.leaves[leaf]) & ~step.needs  # a late view: its base is kept instead
                if known_later and not _late_view(analysis, reader.leaves[leaf], step.needs):
                    why = "edits a value of a branch that a line above has yet to use, and which comes first depends on the branch"
                    raise refused(step.node, f"{why}. Edit a .clone()")
                if not known_later and (id(reader), leaf) not in private:
                    private[id(reader), leaf] = _keep_old(analysis, step, root, reader, leaf)
            else:
                analysis.wait_for(step, reader)
        step.after.extend(root.edits)
        step.after.extend([root.retired] if root.detached and root.retired else [])
        if root.parameter:
            raise refused(step.node, "changes a parameter of the model in place, for good. Edit a .clone() of it")
    _reach_the_model(analysis, step, target)
    analysis.touched_roots.extend(target.roots)
    if analysis.guard is not None:
        analysis.edited_if.append((step, target.roots))
        return
    for root in target.roots:
        root.readers = []
        root.edit_needs |= step.needs
        root.edits = [step]


def _comes_before(reader: Step, root: Root) -> bool:
    """Whether a line that reads what it edits itself is one of the edits above."""
    above, seen = [*root.edits], set()
    while above:
        edit = above.pop()
        if edit is reader:
            return True
        if id(edit) not in seen and edit.node >= reader.node:
            seen.add(id(edit))
            above += edit.after
    return False


def _late_view(analysis: Analysis, slot: Slot, needs: int) -> bool:
    """Whether what lies in ``slot`` is a view of something that is there with ``needs`` (and not chosen by a branch)."""
    value = analysis.by_step.get(id(slot.producer)) if slot.producer is not None else None
    while value is not None and value.base is not None:
        value = value.base
    return value is None or not value.merged or not value.needs & ~needs


def _superseded(value: Value | None) -> bool:
    """Whether a write in a branch may have taken a value, or what it is a view of, out of the model."""
    while value is not None and not value.superseded:
        value = value.base
    return value is not None


def _keep_old(analysis: Analysis, edit: Step, root: Root, reader: Step, leaf: int) -> Slot:
    """Give ``reader``, which runs later than ``edit`` but stands above it, a slot of its own for that operand."""
    old = reader.leaves[leaf]
    kept = Slot()
    kept.cells = old.cells
    name = Step(edit.node, same, [old], _needs_of(analysis, old) | root.edit_needs)
    name.after.extend(root.edits)
    name.guard = old.producer.guard if old.producer is not None else None
    name.output = kept
    kept.producer = name
    if name.guard is not None and not name.guard.around(edit.guard):
        analysis.wait_for(edit, name)
    copy = Step(edit.node, snapshot, [kept], edit.needs)
    copy.special, copy.extra = "snapshot", reader
    copy.output = kept
    analysis.guarded(copy)
    analysis.steps += [name, copy]
    edit.after.append(copy)
    reader.leaves[leaf] = kept
    late = analysis.by_step.get(id(reader))
    if late is not None and late.base is not None:
        late.kept = {**late.kept, kept: old}
        analysis.any_kept = True
    return kept


def _needs_of(analysis: Analysis, slot: Slot) -> int:
    return slot.producer.needs if slot.producer is not None else sum(1 << cell for cell in slot.cells)


def _reach_the_model(analysis: Analysis, step: Step, target: Value) -> None:
    """An edit of what passes at a site has to be done while the visit lasts, and may touch nothing read elsewhere."""
    maybe = target.maybe or any(root.loose for root in target.roots)
    cells = [root.cell for root in target.roots if root.cell is not None and root.retired is None]
    if not cells:
        return
    if not maybe and any(cell.turn[0] == "last" for cell in cells):
        raise refused(step.node, "edits what passed in the last step: that it was the last is known only when it is over. Edit a .clone()")
    analysis.edited.update(dict.fromkeys(cell.index for cell in cells))
    guard = Step(step.node, None, [target.slot], step.needs)
    guard.special, guard.extra = "protect", tuple(cell.index for cell in cells)
    guard.leaves += [analysis.layout(analysis.rows, cells[0])] if analysis.rows is not None else []
    guard.after = list(step.after)
    analysis.guarded(guard)
    analysis.steps.append(guard)
    step.after.append(guard)
    for cell in cells:
        cell.musts.append((step, target.slot if maybe else None))
    if maybe:
        target.slot.unchecked = True


def _detach(edit: Step, root: Root) -> None:
    """Names of a value that a write has replaced get a copy at that write: edits below no longer reach the model."""
    step = root.retired
    assert step is not None
    ready = [value for value in root.aliases[: root.above] if not value.needs & ~step.needs]
    reads = [value for value in ready if value.base is None]
    views = [value for value in ready if value.base is not None]
    step.special = "detach"
    step.extra = (tuple(v.slot for v in reads), tuple((v.slot, v.base.slot, v.step) for v in views if v.base and v.step))
    for value in ready:
        step.leaves.append(value.slot)
        step.leaves.extend(value.step.leaves if value.base is not None and value.step is not None else ())
    step.after.extend(root.edits)
    for value in root.aliases:
        value.slot.unchecked = True
        if value.step is not None and value not in ready:
            if step.needs & ~value.needs:
                why = "edits a value that was replaced above, through names that are known too late to tell the two apart"
                raise refused(edit.node, f"{why}. Edit a .clone()")
            value.step.after.append(step)
    root.cell, root.detached = None, True


def refused(node: int, text: str) -> RecordError:
    """An error that knows its line."""
    error = RecordError(f"this line {text}.")
    error.node = node  # type: ignore[attr-defined]
    return error
