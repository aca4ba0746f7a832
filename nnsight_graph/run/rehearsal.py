"""A recorded program on fake tensors: what its lines would give, and which of them would fail, before the model runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch

from ..graph import Const, Group, Literal, Node, Operand, Ref, Site
from ..graph.build import build_entry
from ..graph.laws import LAWS
from ..ops.ambient import modes
from ..ops.data import bound
from ..ops.evaluate import GROUPS, UNBOUND, assign_attribute, assume, literal, set_item, unpack
from ..ops.layout import Rows
from ..ops.table import effect_of, function_of
from ..record import Recording
from .failures import description
from .fakes import Fakes, is_blind, is_safe, quietly
from .likeness import known_alike
from .modules import ModuleIndex
from .scan import Scan, Unknown
from .site_values import Failure, SiteValues, Source
from .specs import Opaque, spec_of

Entry = tuple[Any, ...]
_NOTHING = ("save", "log", "raise", "check", "cache", "else", "backward", "stop", "replace")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "bound": bound, "unpack": unpack, "setattr": assign_attribute, "setitem": set_item,
    "named": lambda _name, value: value, "assume": assume,
    "arranged": lambda _value, again: again,  # where it lies is known in the run alone
}  # fmt: skip


class _Region:
    """A branch, loop or invoke that is open."""

    def __init__(self, node: Node, first: int, used: int, lengths: dict[int, int]) -> None:
        self.node, self.first, self.used = node, first, used
        self.lengths = lengths
        self.items: Any = None
        self.skipping = False
        self.truth: Any = None
        self.item: Any = None
        self.carried: list[Any] = []
        self.outer: Any = None


class Rehearsal(SiteValues):
    """Evaluates entries one after the other.

    Args:
        index: The model's modules.
        source: Where to find what passes at sites.
        constants: What the entries lift; may grow.
        indices: The constants' positions in order of use; may grow.
        changes: For each step, what passes at sites that lines give other values of another shape.

    Attributes:
        values: What each node gives: fakes, plain values, or an :class:`~nnsight_graph.run.scan.Unknown`.
        settled: Whether no line has changed what passes at sites that lines above it may have read.
        replaced: The sites whose value was replaced by one of another shape, dtype or device, with the node that did it, and both as specs.
    """

    def __init__(
        self, index: ModuleIndex, source: Source, constants: list[Any], indices: list[int],
        changes: dict[int, dict[Site, Any]] | None = None,
    ) -> None:  # fmt: skip
        self.mode = Fakes()
        self.values: dict[int, Any] = {}
        self.replaced: dict[Site, tuple[int, Any, Any]] = {}
        self._index, self._source = index, source
        self._constants, self._indices = constants, indices
        self._used = 0
        self._fakes: dict[int, Any] = {}
        self._sites: dict[Site, Any] = {}
        self._changes: dict[int, dict[Site, Any]] = changes or {}
        self.settled = True
        self._scans: dict[int, Scan | None] = {}
        self._regions = []
        self._rows: Rows | Unknown | None = None
        self._step = 0
        self._modes = source.modes
        self._on_meta = any(tensor.device.type == "meta" for tensor in index.root.parameters())
        self.done = 0

    def again(self) -> Rehearsal:
        """A rehearsal of the same program that knows from the start what its lines change."""
        return Rehearsal(self._index, self._source, self._constants, self._indices, self._changes)

    def advance(self, entries: Sequence[Entry], stop: int | None = None) -> None:
        """Evaluate the entries up to ``stop``.

        Raises:
            Failure: a line would fail.
        """
        stop = len(entries) if stop is None else stop
        if self.done < stop:
            with quietly(), self.mode:
                while self.done < stop:
                    self.done += 1
                    self._entry(self.done - 1, entries)

    # ------------------------------------------------------------------ entries

    def _entry(self, number: int, entries: Sequence[Entry]) -> None:
        entry = entries[number]
        if entry[0] == "end":
            self._end(number, entries)
            return
        node, self._used = build_entry(number, entry, self._indices, self._used)
        if node.target == "under":
            self._modes = node.operands[0].name or self._source.modes  # type: ignore[union-attr]
        elif node.target == "else":
            self._otherwise()
        elif any(region.skipping for region in self._regions):
            if node.target in _REGIONS:
                self._open(node)
        elif node.target in _REGIONS:
            self._open(node)
        elif node.target not in _NOTHING:
            self.values[number] = self._value(node)

    def _value(self, node: Node) -> Any:
        operands = [self._operand(operand) for operand in node.operands]
        named = {name: self._operand(operand) for name, operand in node.keywords}
        if node.target not in ("merge", "param", "result", "assigned"):
            opened = node.target in _OPENING and type(operands[0]) in (tuple, list)  # whatever its items are
            missing = next((value for value in chain(operands[opened:], named.values()) if _unknown(value)), None)
            if missing is not None:
                if node.target == "write" and node.site is not None and node.site.point != "grad":
                    self._forget(node.site)
                self._spoil(node, operands)
                return _unknown(missing)
        try:
            with modes(self._modes):
                return self._evaluated(node, operands, named)
        except Failure:
            raise
        except Exception as error:
            if is_blind(error) or isinstance(error, NotImplementedError) or hasattr(error, "about_rows"):
                if node.target == "write" and node.site is not None:
                    self._forget(node.site)
                return Unknown("it needs numbers that only a run has")
            given = [description(value) for value in (*operands, *named.values())]
            raise Failure(node.number, error.with_traceback(None), given) from None

    def _spoil(self, node: Node, operands: list[Any]) -> None:
        """Something unknown was put into a container: it is unknown, too, under all its names."""
        changed = [value for value in operands if type(value) in _CONTAINERS]
        effect = effect_of(node.target) if changed and node.target not in LAWS else None
        if changed and (effect is None or effect.mutates or effect.opaque):
            for number, value in self.values.items():
                if any(value is one for one in changed):
                    self.values[number] = Unknown("something unknown was put into it")

    def _evaluated(self, node: Node, operands: list[Any], named: dict[str, Any]) -> Any:
        target = node.target
        special = getattr(self, f"_{target}", None) if target in _SPECIAL else None
        if special is not None:
            return special(node, operands, named)
        if target == "call" and not is_safe(operands[0]):
            return Unknown("a function of yours is not run on fakes unless it is marked with nnsight_graph.on_fakes")
        if target == ".format" and any(isinstance(value, torch.Tensor) for value in operands):
            return Unknown("a text of numbers that only a run has")
        if target in _GRADIENTS:
            return Unknown("gradients are not computed on fakes")
        if target == "call":
            return operands[0](*operands[2:], **named)
        function = _FUNCTIONS.get(target) or function_of(target)
        return function(*operands, **named)

    def _operand(self, operand: Operand) -> Any:
        if type(operand) is Ref:
            return self.values.get(operand.node, Unknown("its line was not evaluated"))
        if type(operand) is Const:
            return self._constant(operand.index)
        if type(operand) is Literal:
            return literal(operand.name)
        assert type(operand) is Group
        items = [self._operand(item) for item in operand.items]
        missing = next((item for item in items if type(item) is Unknown), None)
        return missing if missing is not None else GROUPS[operand.kind](*items)

    def _constant(self, index: int) -> Any:
        if index not in self._fakes:
            value = self._constants[index]
            self._fakes[index] = self._fake(spec_of(value)) if isinstance(value, (torch.Tensor, tuple, list, dict)) else value
        return self._fakes[index]

    # ------------------------------------------------------------------ branches, loops, invokes

    def _open(self, node: Node) -> None:
        lengths = {number: len(value) for number, value in self.values.items() if type(value) in _CONTAINERS}
        region = _Region(node, node.number + 1, self._used, lengths)
        region.outer = self._rows if node.target == "invoke" else self._step
        skipping = any(other.skipping for other in self._regions)
        self._regions.append(region)
        if skipping:
            return
        operands = [self._operand(operand) for operand in node.operands]
        if node.target == "invoke":
            self._rows = self._source.rows(str(operands[0])) or Unknown("which rows an invoke has is known when all of them are there")
        elif node.target == "if":
            region.truth = operands[0] if type(operands[0]) in _DECIDED else None
            self.values[node.number] = Unknown("which branch is taken depends on numbers") if region.truth is None else bool(region.truth)
            region.skipping = region.truth is not None and not region.truth
        else:
            region.carried = operands if node.target == "while" else operands[1:]
            region.item = self._first_item(node, operands)

    def _first_item(self, node: Node, operands: list[Any]) -> Any:
        if node.target == "steps":
            self._step = next((int(word) for word in str(operands[0]).replace(",", ":").split(":")[:1] if word.isdigit()), 0)
            return Unknown("the number of a step is another in each turn")
        source = operands[0] if operands else None
        if isinstance(source, (list, tuple, range)) or (isinstance(source, torch.Tensor) and source.dim()):
            region = self._regions[-1]
            region.skipping = not len(source)
            region.items = source if len(source) <= _FEW else None
            return source[0] if len(source) else None
        return Unknown("what a loop goes over is not known")

    def _otherwise(self) -> None:
        region = self._regions[-1]
        if not any(other.skipping for other in self._regions[:-1]):
            region.skipping = bool(region.truth)

    def _end(self, number: int, entries: Sequence[Entry]) -> None:
        region = self._regions[-1]
        kind = region.node.target
        node, used = build_entry(number, entries[number], self._indices, self._used)
        self._used = used
        if region.skipping or any(other.skipping for other in self._regions[:-1]):
            leave, results, sure = False, region.carried, True
        else:
            sure = kind == "invoke" or (kind == "if" and region.truth is not None)
            leave, *results = [self._operand(operand) for operand in node.operands] or [False]
            if kind == "for" and region.items is not None:
                leave, results, sure = self._turns(region, node, entries, leave, results)
            elif kind == "steps" and self._step == 0 and _goes_on(region.node):
                self._step = 1
                self._again(region, number, entries)
        self._used = used
        self._regions.pop()
        self._rows = region.outer if kind == "invoke" else self._rows
        self._step = region.outer if kind == "steps" else self._step
        if not sure:
            self._blur(region)
        if kind in ("for", "while", "steps"):
            pairs = zip(region.carried, results, strict=False)
            self.values[region.node.number] = [new if sure or known_alike(old, new) else _CHANGING for old, new in pairs]

    def _turns(self, region: _Region, end: Node, entries: Sequence[Entry], leave: Any, results: list[Any]) -> tuple[Any, list[Any], bool]:
        """The turns of a loop over few items after the first; what is carried out, and whether that is sure."""
        for item in region.items[1:]:
            if leave is not False:
                break
            region.item, region.carried = item, results
            self._again(region, end.number, entries)
            leave, *results = [self._operand(operand) for operand in end.operands]
        return leave, results, type(leave) is bool

    def _again(self, region: _Region, stop: int, entries: Sequence[Entry]) -> None:
        """The body of a loop once more."""
        self._used = region.used
        for number in range(region.first, stop):
            self._entry(number, entries)

    def _blur(self, region: _Region) -> None:
        """What a branch or loop may or may not have put into containers is not known below it."""
        for number, value in self.values.items():
            if type(value) in _CONTAINERS and region.lengths.get(number) != len(value):
                self.values[number] = Unknown("what a branch or a loop has put into it depends on the run")

    def _param(self, node: Node, operands: list[Any], _named: Any) -> Any:
        region = next(region for region in reversed(self._regions) if region.node.number == node.operands[0].node)  # type: ignore[union-attr]
        return region.item if operands[1] == "item" else region.carried[int(operands[1])]

    def _result(self, _node: Node, operands: list[Any], _named: Any) -> Any:
        return operands[0] if type(operands[0]) is Unknown else operands[0][int(operands[1])]

    def _merge(self, _node: Node, operands: list[Any], _named: Any) -> Any:
        truth, one, other = operands
        if type(truth) is bool:
            return one if truth else other
        return one if known_alike(one, other) and type(other) is not Unknown else Unknown("it depends on which branch is taken")

    def _assigned(self, _node: Node, operands: list[Any], _named: Any) -> Any:
        return Unknown("whether the name has a value depends on the run") if operands[0] is UNBOUND else operands[0]


_REGIONS = frozenset(("invoke", "if", "for", "while", "steps"))
_SPECIAL = frozenset(("read", "write", "skip", "parameter", "copied", "module", "listening", "param", "result", "merge", "assigned"))
_DECIDED = frozenset((bool, int, float, str, type(None)))
_GRADIENTS = frozenset(("grad", ".backward", "torch.autograd.backward", "torch.autograd.grad", ".retain_grad"))
_OPENING = frozenset(("getitem", "len", "unpack"))
_CONTAINERS = frozenset((list, dict, set))
_FEW = 32
_PASSES = 4
_CHANGING = Unknown("it changes from turn to turn")


def _unknown(value: Any) -> Unknown | None:
    """What in an operand is unknown."""
    if type(value) is Unknown:
        return value
    if type(value) is Opaque:
        return Unknown(f"a {value.kind} is not looked into")
    if type(value) in (list, tuple):
        return next((found for item in value if (found := _unknown(item))), None)
    return None


def _goes_on(node: Node) -> bool:
    """Whether a loop over steps takes part in more than the first."""
    text = node.operands[0].name  # type: ignore[union-attr]
    start, stop, *_ = [*text.split(":"), ""] if ":" in text else ["0", "2"]
    return stop == "None" or (stop.isdigit() and int(stop) > int(start or 0) + 1)


def rehearse(index: ModuleIndex, source: Source, recording: Recording) -> Rehearsal:
    """Evaluate a whole program; lines see what lines below them change before their place in the forward.

    Raises:
        Failure: a line would fail.
    """
    made = Rehearsal(index, source, recording.constants, recording.indices)
    made.advance(recording.entries)
    for _ in range(_PASSES):
        if made.settled:
            break
        made = made.again()
        made.advance(recording.entries)
    return made
