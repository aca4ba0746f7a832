"""Rehearsals of a trace: numbers that a line asks for while it is written, and checks before the model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any

import torch

from ..compile import Plan
from ..compile.sites import DIRECTIONS
from ..errors import MissedSiteError, NNsightError, OutOfOrderError, RecordError, add_note, derived
from ..graph import Const, Group, Node, Operand, Ref, Site, references_of, walk
from ..ops.ambient import modes
from ..ops.layout import NOTHING_KNOWN, Layout, Rows
from ..record import Recorder, Recording
from ..run import Run
from ..run.agreement import completed
from ..run.evidence import rows_in
from ..run.failures import explain, missed, rehearsed
from ..run.likeness import is_plain
from ..run.rehearsal import Rehearsal, rehearse
from ..run.scan import Scan, Unknown, scan_operation
from ..run.site_values import Failure, Source
from ..run.specs import PLAIN, Opaque, spec_of
from ..source_location import locate, traceback_at
from .invoker import Call, Invoke
from .layouts import layouts_of

if TYPE_CHECKING:
    from .nnsight import NNsight

_STEP = 1 << 32
_KEPT = 64
_MASKS = frozenset(("gt", "ge", "lt", "le", "eq", "ne", "and_", "or_", "invert", "torch.gt", "torch.lt", ".bool"))


class CallSource(Source):
    """Scans of one call of a model.

    Args:
        envoy: The model.
        call: The call.
        words: Which invoke's rows are all rows of it, where it is the call of one invoke alone.
        steps: Whether steps after the first may be asked for.
        declared: What the file of the program declares about rows.
        guesses: Whether two guesses that agree count as known, where data decides.
    """

    def __init__(
        self, envoy: NNsight, call: Call, words: str = "", steps: bool = True, declared: Mapping[str, Any] = MappingProxyType({}),
        guesses: bool = False,
    ) -> None:  # fmt: skip
        self._envoy, self._call, self._words, self._steps, self._declared = envoy, call, words, steps, declared
        self._guesses = guesses
        self.returns, self.modes = not call.function and envoy._returns_result, call.modes

    def scan(self, step: int) -> Scan | None:
        """The scan of a step."""
        found = self._envoy._scan(self._call, step) if self._steps or not step else None
        forward = self._envoy._forward(self._call, step) if self._guesses and found is not None else None
        if forward is None or found is None:
            return found
        with modes(self._call.modes):
            return completed(found, self._envoy._module, *forward)

    def operation(self, step: int, path: str) -> Scan | None:
        """The scan of a step that looks at an operation inside a forward, too."""
        forward = self._envoy._forward(self._call, step) if self._steps or not step else None
        if forward is None:
            return None
        with modes(self._call.modes):
            return scan_operation(self._envoy._module, *forward, path)

    def changed(self, step: int, changes: Mapping[Site, Any]) -> Scan | None:
        """The scan of a step in which other values pass at some sites."""
        return self._envoy._scan(self._call, step, changes)

    def rows(self, words: str) -> Rows | None:
        """The rows of an invoke."""
        kind, number = words.split(":")
        if self._words:
            rows = self._call.rows
            return Rows(0, rows[-1].stop, rows[-1].size, rows[-1].multiples) if words == self._words and rows else None
        return rows_in((kind, int(number), "", "any", 0, 0), self._call.rows)

    def layout(self, site: Site) -> Layout:
        """Where the rows of invokes lie in what passes at a site."""
        layouts = layouts_of(self._envoy, self._call, {**self._declared, **self._envoy._tree.declared}, self._call.steps > 1)
        step = 0 if site.step == 0 else 1
        return NOTHING_KNOWN if layouts is None else layouts.at(site.path, DIRECTIONS[site.point], step, site.call)


class Numbers:
    """Shapes and other numbers that hang on shapes alone, known while a trace is written.

    Attributes:
        asked: What was given out, by node.
    """

    def __init__(self, envoy: NNsight, recorder: Recorder, call: Call | None, invokes: list[Invoke], shared: Any, function: str) -> None:
        self.asked: dict[int, Any] = {}
        self._envoy, self._recorder = envoy, recorder
        self._call, self._invokes, self._shared, self._function = call, invokes, shared, function
        self._rehearsals: dict[int, list[Rehearsal]] = {}

    def measure(self, index: int) -> tuple[bool, Any]:
        """Whether what a node gives is known, and what it is, tensors as fakes; or why it is not known.

        Raises:
            Failure: a line above would fail.
        """
        values = []
        for rehearsal in self._here():
            rehearsal.advance(self._recorder.entries, max(index + 1, rehearsal.done))
            values.append(rehearsal.values.get(index, Unknown("its line was not evaluated")))
        if not values:
            return False, "it does not belong to the input of this trace"
        unknown = next((value for value in values if type(value) is Unknown), None)
        if unknown is not None:
            return False, unknown.reason
        if type(values[0]) is Opaque:
            return False, f"a {values[0].kind} is not looked into"
        if isinstance(values[0], (list, dict, set)):
            return False, "what a container of the trace holds is there when it has run"
        if is_plain(values[0]):
            if any(value != values[0] for value in values):
                return False, "it depends on the other inputs, which are not there yet: how long a row is follows from the longest of them"
            self.asked[index] = values[0]
        return True, values[0]

    def known(self, index: int) -> tuple[bool, Any]:
        """The same, where a scan of this input is at hand."""
        if self._call is None or not self._envoy._scanned(self._call):
            return False, ""
        try:
            return self.measure(index)
        except Failure:
            return False, ""

    def _here(self) -> list[Rehearsal]:
        """The rehearsals for the line that is being written."""
        recorder = self._recorder
        place = 0 if self._call is not None else recorder.invoking
        if place not in self._rehearsals:
            made = [Rehearsal(self._envoy._tree.index, source, recorder.constants, recorder.indices) for source in self._sources()]
            self._rehearsals[place] = made
        return self._rehearsals[place]

    def _sources(self) -> Iterator[Source]:
        envoy, recorder = self._envoy, self._recorder
        if self._call is not None:
            yield CallSource(envoy, self._call, steps=False, guesses=recorder.scanned is not None)
        elif recorder.invoking:
            words = recorder.entries[recorder.invoking - 1][1]
            number = int(words.partition(":")[2])
            mine = [self._invokes[number]] if words.startswith("rows") else self._invokes[:number]
            call = envoy._joined(mine, self._shared, self._function)
            yield CallSource(envoy, call, words, steps=False)
            other = envoy._lengthened(call)
            if other is not None:
                yield CallSource(envoy, other, words, steps=False)


def check(envoy: NNsight, recording: Recording, call: Call, plan: Plan, frame: FrameType | None, strict: bool) -> BaseException | None:
    """Rehearse a trace, once for programs and inputs of equal shapes.

    Args:
        envoy: The model.
        recording: The program.
        call: The call that it takes part in.
        plan: The compiled program; remembers what it was checked for.
        frame: The user's frame.
        strict: Whether a call that would fail without the trace is an error, too, where the weights are not there yet.

    Returns:
        The error that the run would end with, on the user's line; ``None`` if none was found.
    """
    key = (envoy._scan_key(call), _constants_key(recording.constants))
    if None not in key and key in plan.checked:
        return None
    source = CallSource(envoy, call, declared=recording.declared)
    scan = source.scan(0)
    if scan is None:
        return None
    if scan.error is not None and not scan.blind:
        return derived(scan.error) if strict and not envoy.dispatched else None  # a run shows where in the model
    try:
        rehearsal = rehearse(envoy._tree.index, source, recording)
    except Failure as failure:
        return rehearsed(failure, recording, frame)
    error = _lost_edit(recording, frame) or _order(envoy, recording, plan, rehearsal, frame, not call.function)
    if error is None and None not in key:
        if len(plan.checked) >= _KEPT:
            plan.checked.clear()
        plan.checked.add(key)
    return error


def _lost_edit(recording: Recording, frame: FrameType | None) -> BaseException | None:
    """The error of an edit in place of a copy that nothing uses afterwards: an index with a list, or a mask, copies."""
    nodes = list(walk(recording.whole().body))
    uses = Counter(number for node in nodes for number in references_of(node))
    made = {node.number: node for node in nodes}
    for node in nodes:
        if node.target != "setitem" or type(node.operands[0]) is not Ref:
            continue
        base = made.get(node.operands[0].node)
        if base is not None and base.target == "getitem" and uses[base.number] == 1 and _copies(base.operands[1], recording, made):
            why = "this changes a copy that nothing uses: an index with a list, a tensor or a mask copies"
            error = RecordError(f"{why}. Put both indices into one: h[[0], :, 3]")
            error.__traceback__ = traceback_at(recording.place(node.number), frame)
            return error
    return None


def _copies(index: Operand, recording: Recording, made: Mapping[int, Node]) -> bool:
    """Whether indexing by it makes a copy, for all that the program shows."""
    if type(index) is Group:
        return index.kind == "list" or any(_copies(item, recording, made) for item in index.items)
    if type(index) is Const:
        value = recording.constants[index.index]
        return isinstance(value, torch.Tensor) and value.dim() > 0
    return type(index) is Ref and made[index.node].target in _MASKS if type(index) is Ref and index.node in made else False


def _constants_key(constants: Sequence[Any]) -> Hashable:
    found = []
    for value in constants:
        if not isinstance(value, torch.Tensor) and type(value) not in PLAIN:
            return None
        found.append(spec_of(value))
    return tuple(found)


def _order(
    envoy: NNsight, recording: Recording, plan: Plan, rehearsal: Rehearsal, frame: FrameType | None, forward: bool
) -> BaseException | None:
    """The error of an edit that comes too late, or of a module that does not run."""
    scans = {step: rehearsal.scan_of(step) for step in {min(v.step, 1) for v in plan.visits if isinstance(v.step, int)}}
    if any(scan is None or not scan.complete for scan in scans.values()):
        return None
    places = [_place(visit, scans) for visit in plan.visits]
    run = Run(plan, [None] * (plan.blanks + len(plan.fixed) + len(recording.constants) + len(plan.modules) + len(plan.layouts)))
    for index, visit in enumerate(plan.visits):
        here = places[index]
        for segment, node, slot in visit.musts:
            needs = [other for other in range(len(places)) if plan.segments[segment].needs >> other & 1]
            later = [other for other in needs if here is not None and (places[other] or 0) > here]
            if slot < 0 and later and plan.segments[segment].guard is None:
                run.seen = [other not in later for other in range(len(places))]
                run.failed, run.error = ("late", node, index, segment), OutOfOrderError("late")
                return explain(run, recording, envoy._tree.index, frame)
    never = [place is None and isinstance(v.step, int) and v.step < 2 for place, v in zip(places, plan.visits, strict=True)]
    unreached = {path for scan in scans.values() if scan is not None for path in scan.unreached}
    if any(entry[0] == "listening" for entry in recording.entries) or not forward:
        return None
    run.seen = [not (gone and v.path in unreached and v.guards is None) for gone, v in zip(never, plan.visits, strict=True)]
    run.forwards = 2
    error: MissedSiteError | None = missed(run, recording, frame)
    return error


def _place(visit: Any, scans: Mapping[int, Scan | None]) -> int | None:
    """When a visit comes; ``None`` where that is not known."""
    if not isinstance(visit.step, int) or visit.direction not in ("in", "out"):
        return _STEP * _STEP if visit.direction == "result" else None
    scan = scans.get(min(visit.step, 1))
    place = scan.place(Site(visit.path, "inputs" if visit.direction == "in" else "output", visit.call)) if scan is not None else None
    return None if place is None else visit.step * _STEP + place


def changed_numbers(
    envoy: NNsight, recording: Recording, call: Call, asked: Mapping[int, Any], frame: FrameType | None
) -> BaseException | None:
    """The error of a number that a line was given, and that is another now that all lines and inputs are there."""
    try:
        rehearsal = rehearse(envoy._tree.index, CallSource(envoy, call, declared=recording.declared), recording)
    except Failure as failure:
        if recording.entries[failure.node][0] != "assume":
            return rehearsed(failure, recording, frame)
        replaced = any(entry[0] in ("write", "skip") for entry in recording.entries)
        return _changed(recording, failure.node, failure.operands[1], failure.operands[0], replaced, frame)
    for node, given in asked.items():
        now = rehearsal.values.get(node)
        if type(now) is not Unknown and now != given:
            return _changed(recording, node, given, now, bool(rehearsal.replaced), frame)
    return None


def _changed(recording: Recording, node: int, given: Any, now: Any, replaced: bool, frame: FrameType | None) -> RecordError:
    why = "a line below gives the model values of another shape" if replaced else "other inputs have changed it"
    error = RecordError(f"this was {given} when the line asked for it, and is {now} in the end: {why}. Ask for it in an earlier trace.")
    error.__traceback__ = traceback_at(recording.place(node), frame)
    return error


def note_changes(envoy: NNsight, recording: Recording, call: Call, error: BaseException) -> None:
    """Add to an error that the model raised which lines give it values of another shape or dtype than it makes itself."""
    if not isinstance(error, Exception) or not any(entry[0] in ("write", "skip") for entry in recording.entries):
        return
    try:
        rehearsal = rehearse(envoy._tree.index, CallSource(envoy, call, declared=recording.declared), recording)
    except Failure as failure:
        if recording.entries[failure.node][0] in ("write", "skip") and len(failure.operands) == 3:
            old, new, at = failure.operands
            where = locate(recording.place(failure.node))
            add_note(error, f"{where.full}, `{where.text}`, gives {new} where the module gives {old}; the model then fails in {at}")
        return
    except NNsightError:
        return
    for site, (node, old, new) in rehearsal.replaced.items():
        at = locate(recording.place(node))
        add_note(error, f"the trace replaces {site}, {old}, by {new}: {at.full}, `{at.text}`")
