"""Runs a session: its nodes one after the other, each trace as a run of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import repeat
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import NNsightError, UnsetValueError
from ..graph import Const, Group, Literal, Node, Operand, Ref, Region, references_of, verify, walk
from ..graph.walk import references_in
from ..ops.ambient import modes
from ..ops.control import assigned, raise_error
from ..ops.data import bound
from ..ops.evaluate import GROUPS, UNBOUND, assign_attribute, assume, call_opaque, literal, log, set_item, unpack
from ..ops.table import function_of
from ..record import Recording
from ..run.failures import raised_at
from ..run.limits import Meter
from ..run.progress import bar
from .arguments import check_names
from .cache import Caches
from .invoker import Call, Invoke
from .lacking import vet_names
from .running import run_trace
from .session_liveness import Liveness
from .session_nodes import around_check, inside, made_in, number_in
from .session_parts import Part, batched, parts_of

if TYPE_CHECKING:
    from .nnsight import NNsight

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "bound": bound, "unpack": unpack, "setattr": assign_attribute, "setitem": set_item, "log": log, "call": call_opaque,
    "raise": raise_error, "assigned": assigned, "assume": assume,
}  # fmt: skip


_ALONE = frozenset(("stop", "replace", "copied"))  # what concerns the whole forward

_NOT_RUN = "its lines did not run: they are of a branch that was not taken, or of a loop without turns"


class Traced(NamedTuple):
    """What a session knows of one of its traces.

    Attributes:
        envoy, function: What it calls.
        call: The call, where its input was there when it was written.
        open_ended: Whether it has a loop over an open range of steps.
        validate: Whether it is checked before it runs.
        caches: Its caches.
        declared: What the file of the session declares about rows.
        vet: Raises what is wrong with the arguments of a call, in a session from a file.
    """

    envoy: NNsight
    function: str
    call: Call | None
    open_ended: bool
    validate: bool | str
    caches: Caches | None = None
    vet: Callable[[NNsight, Call], None] | None = None
    declared: Mapping[str, Any] = MappingProxyType({})


class _Stopped(Exception):
    """The session ends."""


class _Failed(Exception):
    """A trace of the session failed; ``error`` stands on the user's line."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class _Turn:
    """The turn of a loop that goes on."""

    __slots__ = ("carried", "item")

    def __init__(self, item: Any, carried: list[Any]) -> None:
        self.item, self.carried = item, carried


class SessionRun:
    """One run of a session.

    Args:
        recording: The program.
        traces: What is known of its traces, by node.
        saved: The nodes whose values outlive it.
        frame: The user's frame.
        batch: Whether traces that follow each other may be run as one batch.
        meter: What keeps the session within its limits.

    Attributes:
        values: What nodes gave; emptied of what is not needed any more.
        reasons: Why saved nodes have no value.
    """

    def __init__(
        self, recording: Recording, traces: dict[int, Traced], saved: frozenset[int], frame: FrameType | None, batch: bool = False,
        meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self.values: dict[int, Any] = {}
        self.reasons: dict[int, str] = {}
        self._recording, self._traces, self._saved, self._frame, self._batch = recording, traces, saved, frame, batch
        self._meter = meter
        self._turns: dict[int, _Turn] = {}
        self._truths: dict[int, bool] = {}
        self._deaths: dict[int, dict[int, list[int]]] = {}
        self._parts: dict[int, Part] = {}
        self._around: dict[int, tuple[Region, tuple[Node, Region] | None]] = {}
        self._escaping: set[int] = set()
        self._live: set[int] = set()
        self._modes = ""
        self._made: dict[int, tuple[int, ...]] = {}
        self._tick: Callable[[], Any] = lambda: None

    def all(self, progress: bool = False) -> BaseException | None:
        """Run everything; the error that ended it, on the user's line, or ``None``.

        Raises:
            BaseException: what a model itself raised.
        """
        try:
            graph = self._recording.plain()
            verify(graph)
        except NNsightError as refused:
            node = getattr(refused, "node", None)
            return refused if node is None else raised_at(refused, self._recording, node, self._frame)
        liveness = Liveness(graph.body, self._saved)
        self._live = liveness.live
        self._parts = parts_of(self._recording, self._saved, liveness)
        nodes = list(walk(graph.body))
        branches = {node.number: set(made_in(node)) for node in nodes if node.target == "if"}
        merges = [(branches[number_in(node.operands[0])], node) for node in nodes if node.target == "merge"]
        self._escaping = {number for made, node in merges for number in references_of(node) if number in made}
        with bar("trace") if progress else nullcontext(self._tick) as self._tick:
            try:
                self._region(graph.body)
            except _Stopped:
                self.reasons = dict.fromkeys(self._saved - self.values.keys(), "the session was stopped before it was reached")
            except _Failed as failed:
                return failed.error
        self.reasons = {**dict.fromkeys(self._saved - self.values.keys(), _NOT_RUN), **self.reasons}
        return None

    # ------------------------------------------------------------------ regions

    def _region(self, region: Region) -> None:
        """Run the nodes of a region; what is used no more is freed at once."""
        deaths = self._deaths.get(id(region))
        if deaths is None:
            deaths = self._deaths[id(region)] = self._last_uses(region)
        skip = 0
        for place, node in enumerate(region.nodes):
            if skip:
                skip -= 1
            elif self._batch and node.target == "trace" and (group := self._group(region.nodes[place:])):
                self._run_batch(group)
                skip = len(group) - 1
            else:
                self._node(node)
            for dead in deaths.get(node.number, ()):
                self.values.pop(dead, None)

    def _last_uses(self, region: Region) -> dict[int, list[int]]:
        """For each node of a region, what is made in the region and used by it for the last time."""
        made: dict[int, int] = {}
        for node in region.nodes:
            made[node.number] = node.number
            if node.target == "trace":
                made.update(dict.fromkeys(self._parts[node.number].exports, node.number))
            elif node.target == "if":
                made.update(dict.fromkeys(self._escaping & set(made_in(node)), node.number))
            for number in inside(node):
                if number in made:
                    made[number] = node.number
        kept = {number for result in region.results for number in references_in(result) if number in self._live} | self._saved
        kept |= self._escaping & {node.number for node in region.nodes}
        deaths: dict[int, list[int]] = {}
        for number, last in made.items():
            if number not in kept:
                deaths.setdefault(last, []).append(number)
        return deaths

    def _node(self, node: Node) -> None:
        target = node.target
        if target in ("merge", "param", "result") and node.number not in self._live:
            return
        if target == "under":
            self._modes = node.operands[0].name  # type: ignore[union-attr]
            return
        if target == "stop":
            raise _Stopped
        if target == "trace":
            self._trace(node)
        elif target == "if":
            self._if(node)
        elif target in ("for", "while"):
            self._loop(node)
        elif target == "param":
            turn = self._turns[number_in(node.operands[0])]
            name = node.operands[1].name  # type: ignore[union-attr]
            self.values[node.number] = turn.item if name == "item" else turn.carried[int(name)]
        elif target == "result":
            self.values[node.number] = self.values[number_in(node.operands[0])][int(node.operands[1].name)]  # type: ignore[union-attr]
        elif target not in ("save", "check"):
            self.values[node.number] = self._at_line(node, lambda: self._evaluated(node))

    def _evaluated(self, node: Node) -> Any:
        if node.target == "merge":
            return self._operand(node.operands[1 if self._truths[number_in(node.operands[0])] else 2])
        operands = list(map(self._operand, node.operands))
        named = {name: self._operand(operand) for name, operand in node.keywords}
        function = _FUNCTIONS.get(node.target) or function_of(node.target)
        return function(*operands, **named) if self._meter is None else self._meter.evaluate(function, operands, named)

    def _at_line(self, node: Node, action: Callable[[], Any]) -> Any:
        """Do what a node says; an error stands on its line."""
        try:
            with modes(self._modes):
                return action()
        except (_Stopped, _Failed):
            raise
        except Exception as error:
            raise _Failed(raised_at(error, self._recording, node.number, self._frame)) from None

    def _operand(self, operand: Operand) -> Any:
        if type(operand) is Ref:
            if operand.node not in self.values:
                raise UnsetValueError(f"a value of this line was not reached: {self.reasons.get(operand.node, 'its lines did not run')}")
            return self.values[operand.node]
        if type(operand) is Const:
            return self._recording.constants[operand.index]
        if type(operand) is Literal:
            return literal(operand.name)
        assert type(operand) is Group
        return GROUPS[operand.kind](*map(self._operand, operand.items))

    def _operands(self, operands: Iterable[Operand]) -> list[Any]:
        return list(map(self._operand, operands))

    def _carried(self, operands: Sequence[Operand]) -> list[Any]:
        """The operands of a loop, or of its turn: the first is needed, the others may have no value that anyone looks at."""
        known = [type(operand) is not Ref or operand.node in self.values for operand in operands]
        pairs = enumerate(zip(operands, known, strict=True))
        return [self._operand(operand) if have or not place else UNBOUND for place, (operand, have) in pairs]

    # ------------------------------------------------------------------ branches and loops

    def _if(self, node: Node) -> None:
        truth = self._at_line(node, lambda: bool(self._operand(node.operands[0])))
        self._truths[node.number] = self.values[node.number] = truth
        self._region(node.regions[0 if truth else 1])

    def _loop(self, node: Node) -> None:
        """Run a loop; what it carries out is its value."""
        body = node.regions[0]
        operands = self._at_line(node, partial(self._carried, node.operands))
        items: Iterator[Any] = repeat(None)
        if node.target == "for":
            items = self._at_line(node, lambda: (iter if self._meter is None else self._meter.items)(operands.pop(0)))
        carried = operands
        if id(body) not in self._around:
            self._around[id(body)] = around_check(body)
        before, after = self._around[id(body)]
        for item in items:
            if self._meter is not None:
                self._at_line(node, self._meter.turn)
            self._turns[node.number] = _Turn(item, carried)
            self._region(before)
            if after is not None:
                check, rest = after
                test, *current = self._at_line(check, partial(self._carried, check.operands))
                if not test:
                    carried = current
                    break
                self._region(rest)
            leave, *carried = self._at_line(node, partial(self._carried, body.results))
            if leave:
                break
        self._turns.pop(node.number, None)
        for number in self._made.setdefault(node.number, tuple(made_in(node))):
            if number not in self._saved:
                self.values.pop(number, None)
        self.values[node.number] = tuple(carried)

    # ------------------------------------------------------------------ traces

    def _call(self, node: Node) -> Call:
        """The call of a trace: made now, if its input comes from the session."""
        traced, part = self._traces[node.number], self._parts[node.number]
        if traced.call is not None:
            return traced.call
        args = tuple(map(self._operand, node.operands[1:]))
        kwargs = self._named(traced, node)
        if part.inputs:
            for needed in part.prelude:
                self.values[needed.number] = self._evaluated(needed)
            invokes = [traced.envoy._invoked(*self._input(traced, one), traced.function, kwargs) for one in part.inputs]
            return traced.envoy._joined(invokes, kwargs, traced.function)
        call = traced.envoy._prepared(args, kwargs, traced.function)
        return call if call is not None else traced.envoy._joined([], kwargs, traced.function)

    def _input(self, traced: Traced, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return tuple(map(self._operand, node.operands)), self._named(traced, node)

    def _named(self, traced: Traced, node: Node) -> dict[str, Any]:
        """Named arguments of a trace, or of an input; the model need not be the one that they were written for."""
        kwargs = {name: self._operand(operand) for name, operand in node.keywords}
        if traced.vet is not None:
            vet_names(traced.envoy, traced.function, kwargs)
        check_names(traced.envoy, traced.function, kwargs)
        return kwargs

    def _vetted(self, traced: Traced, call: Call) -> Call:
        if traced.vet is not None:
            traced.vet(traced.envoy, call)
        return call

    def _trace(self, node: Node) -> None:
        traced, part = self._traces[node.number], self._parts[node.number]
        call = self._at_line(node, lambda: self._vetted(traced, self._call(node)))
        recording = self._at_line(node, lambda: part.recording([self._operand(Ref(number)) for number in part.captured]))
        recording.open_ended = traced.open_ended
        self._run(node, recording, part.numbers, call, traced)
        self._tick()

    def _run(self, node: Node, recording: Recording, numbers: list[int], call: Call, traced: Traced) -> None:
        def give(number: int, value: Any) -> None:
            self.values[numbers[number]] = value

        recording.declared = traced.declared
        try:
            with modes(self._modes):
                problem, reasons = run_trace(
                    traced.envoy, recording, call, self._frame, give, validate=traced.validate,
                    caches=traced.caches.within(numbers) if traced.caches is not None else None, meter=self._meter, whole=True,
                )  # fmt: skip
        finally:
            recording.constants.clear()
        self.reasons.update({numbers[number]: why for number, why in reasons.items() if number < len(numbers)})
        if problem is not None:
            raise _Failed(problem)

    def _group(self, nodes: tuple[Node, ...]) -> list[Node]:
        """Traces from the first node on that can be one batch; empty if there are not at least two."""
        group: list[Node] = []
        made: set[int] = set()
        for node in nodes:
            if node.target != "trace":
                break
            traced, part = self._traces[node.number], self._parts[node.number]
            whole = any(inner.target in _ALONE for inner in walk(node.regions[0]))
            alone = whole or traced.function or traced.caches or part.inputs or part.invokes or traced.open_ended
            needs = {*part.captured, *(number for operand in node.operands for number in references_in(operand))}
            if alone or not made.isdisjoint(needs) or (group and traced.envoy is not self._traces[group[0].number].envoy):
                break
            group.append(node)
            made.update(part.exports)
        return group if len(group) > 1 else []

    def _run_batch(self, group: list[Node]) -> None:
        """Run several traces as the invokes of one."""
        traced = self._traces[group[0].number]
        invokes = [self._at_line(node, partial(self._invoked, node)) for node in group]
        call = self._at_line(group[0], lambda: self._vetted(traced, traced.envoy._joined(invokes, {}, "")))
        pieces = [self._parts[node.number] for node in group]
        captured = [[self._operand(Ref(number)) for number in part.captured] for part in pieces]
        recording, numbers = batched(pieces, captured)
        self._run(group[0], recording, numbers, call, traced)
        for _ in group:
            self._tick()

    def _invoked(self, node: Node) -> Invoke:
        """A trace as one input of a batch."""
        args, traced = tuple(self._operands(node.operands[1:])), self._traces[node.number]
        return traced.envoy._invoked(args, self._named(traced, node))
