"""What own properties have shown of sites, and what is put back there.

The rule: reading such a value, and an edit in place of it, mean, right below their line, ``site = transform(value)``. It is written
down, for all edits since, when somebody could tell: before a line that reads the site, where a branch, a loop, a turn or an invoke
begins or ends, and at the end of the trace. Where property and transform only arrange what passes, reads see the edits anyway: they
are in its memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..errors import RecordError
from ..graph import Site
from ..ops.effect import OPAQUE, Effect, parse, shared, written
from ..ops.table import effect_of, names

if TYPE_CHECKING:
    from .proxy import Proxy
    from .recorder import Recorder

Entry = tuple[Any, ...]

_NONE = parse("pure")
_EFFECTS = {"bound": parse("maybe:0"), "unpack": parse("view:0"), "setattr": parse("mutates:0 maybe:2"), "assigned": parse("view:0")}
_SILENT = frozenset("read write save log assume if else end check invoke raise under parameter input".split())
_CONSTANTS = {"None": None, "False": False, "True": True}
_INPUTS = frozenset(("input", "inputs"))


class Shown:
    """A value that an own property has given.

    Attributes:
        key: The property, and the object that it was read from.
        site: Where the value comes from.
        raw: What passes there.
        value: What the property gave.
        back: Makes of it what is put back.
        view: Whether it is surely a view of what passes.
        last: The last node that it is made of.
        present: Whether nothing was put at the site since, so that an edit of a view is there by itself.
        depth: How many branches and loops it stands in.
        arranges: Whether it is a view, and ``back`` only arranges it anew; ``None`` until that was looked at.
        edit: The line that edited it last, or that read it, if it was not put back since.
    """

    __slots__ = ("_next", "_nodes", "arranges", "back", "depth", "edit", "key", "last", "present", "raw", "site", "value", "view")

    def __init__(self, recorder: Recorder, key: tuple[Any, Any], raw: Proxy, value: Any, back: Callable[[Any], Any]) -> None:
        entries = recorder.entries
        self.key, self.raw, self.value, self.back = key, raw, value, back
        self.site: Site = entries[raw._index][1]
        self._nodes = set(nodes_in(value, recorder.make))
        self.last = max(self._nodes)
        self.view = all(is_view(entries, node, raw._index) for node in self._nodes)
        self.arranges: bool | None = None if self.view else False
        self.present = True
        self.depth = recorder.regions
        self.edit = len(entries) - 1
        self._next = len(entries)

    def look(self, entries: list[Entry]) -> None:
        """Take note of the edits, and of the views, in the lines that were written since."""
        end = len(entries)
        if end and entries[-1][0][0] == "@":  # the call of a method may take its place
            end -= 1
        for number in range(self._next, end):
            edits, shares = touched(entries[number], self._nodes)
            if edits or (entries[number][0] == "grad" and not self.view and entries[number][2] in self._nodes):
                self.edit = number  # a gradient is there only if the model goes on with the value
            if shares:
                self._nodes.add(number)
        self._next = max(end, self._next)

    def is_arranged(self, entries: list[Entry], value: Any) -> bool:
        """Whether ``value``, which the transform gave, surely or perhaps lies where this lies."""
        node = getattr(value, "_index", -1)
        while node not in self._nodes:
            effect = _effect(entries[node][0]) if node >= 0 and entries[node][0] not in _SILENT else _NONE
            places = () if effect.mutates or effect.opaque else (effect.views or effect.maybe)
            if not places or type(entries[node][1 + places[0]]) is not int:
                return False
            node = entries[node][1 + places[0]]
        return True

    def settle(self, entries: list[Entry]) -> None:
        """What was done to it so far has been put back."""
        self.edit, self._next = -1, len(entries)


class OwnValues:
    """The values that own properties with a ``transform`` have given in a trace."""

    __slots__ = ("_quiet", "_recorder", "_shown")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._shown: list[Shown] = []
        self._quiet = False

    def known(self, key: tuple[Any, Any], raw: Proxy) -> Shown | None:
        """The view that a property of an object has shown of ``raw``, if it has; a copy would not know of edits of ``raw``."""
        found = (shown for shown in self._shown if shown.view and shown.key[0] is key[0] and shown.key[1] is key[1])
        return next((shown for shown in found if shown.raw._index == raw._index), None)

    def add(self, shown: Shown) -> None:
        """A property gives a value."""
        self._shown.append(shown)

    def before_read(self, site: Site) -> None:
        """A line reads ``site``: it sees the edits above it."""
        if not self._quiet:
            located = self._recorder.located(site)
            self._put_back([shown for shown in self._shown if _meets(shown.site, located)], len(self._recorder.entries))

    def replaced(self, located: Site) -> None:
        """Something else was put at a site: what was shown of it belongs to the value that was there."""
        for shown in [shown for shown in self._shown if _same_place(shown.site, located)]:
            shown.settle(self._recorder.entries)
            if shown.depth == self._recorder.regions:  # else it was perhaps not replaced
                self._shown.remove(shown)

    def enter(self) -> None:
        """A branch, a loop or an invoke begins: it finds what stands above it."""
        self._put_back(self._shown, len(self._recorder.entries))

    def leave(self, first: int, branch: bool) -> None:
        """The lines from ``first`` on end that were a branch, or a loop, a turn of one or an invoke."""
        self._put_back([shown for shown in self._shown if branch or shown.last >= first], first)
        self._shown = [shown for shown in self._shown if shown.last < first]

    def close(self) -> None:
        """The trace ends."""
        self._put_back(self._shown, 0)
        self._recorder.own = None

    def _put_back(self, some: list[Shown], first: int) -> None:
        """Write down what was edited; of values made above ``first``, those that are in the model's memory can wait."""
        entries = self._recorder.entries
        edited: dict[Site, Shown] = {}
        for shown in some:
            shown.look(entries)
            if shown.edit < 0:
                continue
            place = shown.site._replace(point="input") if shown.site.point == "inputs" else shown.site
            other = edited.get(place)
            if other is not None:  # two assignments in a row: the last one counts
                (shown if shown.edit < other.edit else other).settle(entries)
            if other is None or shown.edit >= 0:
                edited[place] = shown
        for shown in sorted(edited.values(), key=lambda shown: shown.edit):
            if not (shown.last < first and shown.arranges and shown.present):
                self._write(shown, shown.last < first)

    def _write(self, shown: Shown, may_wait: bool) -> None:
        recorder, place = self._recorder, self._recorder.places[shown.edit]
        quiet, self._quiet = self._quiet, True
        try:
            value = shown.back(shown.value)
        finally:
            self._quiet = quiet
        if value is None:
            raise RecordError(f"the transform of {shown.site} gave None: it returns what the model goes on with")
        if shown.arranges is None:
            shown.arranges = shown.is_arranged(recorder.entries, value)
            if may_wait and shown.arranges and shown.present:
                return
        if shown.view:
            value = recorder.proxy("arranged", (shown.raw, value))
            recorder.places[-1] = place
        recorder.put_at(shown.site, value)
        recorder.places[-1] = place  # an error names the line of the edit
        shown.settle(recorder.entries)
        for other in self._shown:
            other.present = other.present and not _same_place(other.site, shown.site)


def nodes_in(value: Any, make: type) -> Iterator[int]:
    """The nodes that a proxy, or a container of proxies, stands for."""
    if isinstance(value, make):
        yield value._index  # type: ignore[attr-defined]
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from nodes_in(item, make)
    elif isinstance(value, dict):
        yield from nodes_in(list(value.values()), make)


def is_view(entries: list[Entry], node: int, base: int) -> bool:
    """Whether a node is surely a view of another, or that node itself."""
    while node > base:
        entry = entries[node]
        effect = _effect(entry[0])
        if not effect.views or effect.every or effect.mutates or type(entry[1 + effect.views[0]]) is not int:
            return False
        node = entry[1 + effect.views[0]]
    return node == base


def touched(entry: Entry, nodes: set[int]) -> tuple[bool, bool]:
    """Whether a line edits one of ``nodes``, and whether its value may share storage with one."""
    target, *operands = entry
    if target in _SILENT:
        return False, False
    names_: dict[str, Any] = {}
    if operands and type(operands[-1]) is tuple and operands[-1] and operands[-1][0] == "**":
        parts = operands.pop()[1:]
        names_ = dict(zip(parts[::2], map(_plain, parts[1::2]), strict=True))
    operands = list(map(_plain, operands))
    if target == "call":
        places, given = operands[1].partition(":")[2], operands[2:]
        edited = [given[int(place)] for place in places.split(",") if place and int(place) < len(given)]
        return _among(edited, nodes), _among([*given, *names_.values()], nodes)
    effect = _effect(target)
    return _among(written(effect, operands, names_), nodes), _among(shared(effect, operands, names_), nodes)


def _effect(target: str) -> Effect:
    found = _EFFECTS.get(target)
    if found is None:
        found = effect_of(target) if target[0] in ".@" or target in names() else OPAQUE
    return found


def _plain(operand: Any) -> Any:
    return _CONSTANTS.get(operand, operand) if type(operand) is str else operand


def _among(operands: Iterable[Any], nodes: set[int]) -> bool:
    return any(operand in nodes if type(operand) is int else type(operand) is tuple and _among(operand, nodes) for operand in operands)


def _same_place(one: Site, other: Site) -> bool:
    points = one.point == other.point or (one.point in _INPUTS and other.point in _INPUTS)
    return points and one.path == other.path and one.step == other.step and one.call == other.call


def _meets(one: Site, other: Site) -> bool:
    """Whether two sites may be one: ``this step`` may be any."""
    uncertain = isinstance(one.step, str) or isinstance(other.step, str)
    return _same_place(one, other._replace(step=one.step) if uncertain else other)
