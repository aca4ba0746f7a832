"""Branches and loops of a trace, as entries: what rewritten Python and the explicit blocks both write."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy
import torch

from ..errors import MisuseError, RecordError
from ..ops.saved_values import plain_type
from ..source_location import is_users
from .control import UNBOUND
from .name import Name
from .proxy import Proxy
from .rebound import Rebound
from .recorder import Recorder
from .settled import UNSET, items_of, parts_of
from .steps import Steps

_UNBOUND = Name("unbound")


class RegionEmitter:
    """Writes the control flow of one trace into its recorder; values are proxies."""

    __slots__ = ("_carried", "_opened", "_steps", "_used", "_watched", "recorder")

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._opened: list[tuple[int, dict[Any, Proxy]]] = []
        self._steps: list[tuple[Steps, int | str]] = []
        self._watched: list[Rebound] = []
        self._carried: list[list[str]] = []  # the names that loops carry
        self._used: dict[int, tuple[str, Proxy]] = {}  # names that may have no value, and what they hold, by the node of each use

    # ------------------------------------------------------------------ questions

    def traced(self, value: Any) -> bool:
        """Whether ``value`` is of the open trace."""
        return type(value) in _PROXIES and value._trace is self.recorder

    def items(self, value: Any) -> Any:
        """Its items, if shapes tell how many there are."""
        known, items = items_of(value)
        return items if known else None

    def steps(self, value: Any, statement: str = "for") -> bool:
        """Whether ``value`` is a range of steps whose body is recorded once: an open one; in a ``with``, any of several."""
        if isinstance(value, Steps):
            return not value.bounded or (statement == "with" and not value.single)
        return hasattr(type(value), "_as_steps")

    def recordable(self, value: Any) -> bool:
        """Whether ``value`` can be merged and carried: traced, a tensor or a plain constant, or a container of such."""
        kind = plain_type(type(value))
        if kind in _PROXIES:
            return bool(value._trace is self.recorder or not value._trace.open)
        if kind in (tuple, list):
            return all(map(self.recordable, value))
        if kind is dict:
            return all(map(self.recordable, (*value, *value.values())))
        return value is None or kind in _PLAIN or isinstance(value, (torch.Tensor, numpy.ndarray, numpy.generic))

    def records(self, owner: Any) -> bool:
        """Whether what is assigned to attributes and items of ``owner`` is recorded, rather than done at once."""
        return self.traced(owner) or hasattr(type(owner), "_record_assignment")

    # ------------------------------------------------------------------ branches

    def begin_if(self, test: Any) -> None:
        """Open the region that runs where ``test`` is true."""
        self._settle_own()
        self._open(self._put("if", test))

    def begin_else(self) -> None:
        """Go on with the region that runs where it is false."""
        self.recorder.leave_own(self._opened[-1][0], True)
        self._between()
        self._put("else")

    def end_if(self, merges: Sequence[tuple[str, Any, Any]]) -> list[Any]:
        """Close both; the merged values of ``(name, value if true, value if false)``."""
        self.recorder.leave_own(self._opened[-1][0], True)
        opened = self._close()
        self._put("end")
        truth = Proxy(self.recorder, opened)
        return [self._kept(self._made("merge", truth, *map(_known, pair)), pair, name) for name, *pair in merges]

    # ------------------------------------------------------------------ loops

    def begin_loop(self, kind: str, source: Any, carried: Sequence[tuple[str, Any]]) -> tuple[Any, list[Any]]:
        """Open the body of a loop; its item and the parameters that stand for what is carried from turn to turn."""
        if hasattr(type(source), "_as_steps"):
            source = source._as_steps()
        if kind == "steps" and not source.bounded and any(not steps.bounded for steps, _ in self._steps):
            raise RecordError("an open loop over steps in another: how many turns there are is unknown. Give one of them an end: iter[:n]")
        self._settle_own()
        values = [_known(value) for _, value in carried]
        opened = self._put(kind, *([] if kind == "while" else [source]), *values)
        self._carried.append([name for name, _ in carried])
        self._open(opened)
        if kind == "steps":
            self._steps.append((source, self.recorder.step))
            self.recorder.depth += 1
            self.recorder.go_to("turn")
        loop = Proxy(self.recorder, opened)
        item = None if kind == "while" else self._made("param", loop, Name("item"))
        return item, [self._made("param", loop, Name(str(place))) for place in range(len(values))]

    def check_loop(self, test: Any, current: Sequence[Any]) -> None:
        """Leave the loop here, with these values, if ``test`` is false."""
        self._put("check", test, *map(_known, current))

    def watch(self, frame: FrameType) -> None:
        """The body of the loop that has begun runs as it stands: what it hands on from turn to turn is looked for at its end."""
        self._watched.append(Rebound(frame))

    def end_watched(self, whole: bool) -> None:
        """Close such a body; what it hands on is looked for if it ran as a ``whole``."""
        watched = self._watched.pop()
        if whole:
            watched.check(self.recorder, self._opened[-1][0])
        self.end_loop(False, ())

    def end_loop(self, leave: Any, following: Sequence[Any]) -> list[Any]:
        """Close the body; the results after the loop."""
        self.recorder.leave_own(self._opened[-1][0])
        opened = self._close()
        self._put("end", leave, *map(_known, following))
        if self.recorder.entries[opened][0] == "steps":
            self._leave_steps()
        loop, names = Proxy(self.recorder, opened), self._carried.pop()
        pairs = enumerate(zip(following, names, strict=True))
        return [self._kept(self._made("result", loop, Name(str(place))), (value,), name) for place, (value, name) in pairs]

    def _kept(self, made: Proxy, values: Sequence[Any], name: str) -> Proxy:
        """The value of a name below a branch or a loop is saved where it was saved in it."""
        recorder = self.recorder
        kept = [value for value in values if self.traced(value) and value._index in recorder.saved]
        if kept and recorder.entries[made._index][0] == "result":  # of a loop that ends early, that of the last turn
            recorder.refilled = (*recorder.refilled, (made, kept[0]))
        if kept:
            recorder.variables = {**recorder.variables, made._index: (name, tuple(value._index for value in kept))}
        else:
            recorder.merged = {**recorder.merged, made._index: name}
        return made.save() if kept else made

    def _leave_steps(self) -> None:
        recorder = self.recorder
        steps, before = self._steps.pop()
        recorder.open_ended = recorder.open_ended or not steps.bounded
        recorder.depth -= 1
        recorder.step, recorder.reads = before if recorder.depth else steps.below(before), {}

    # ------------------------------------------------------------------ lines

    def call(self, name: str, *operands: Any, **keywords: Any) -> Any:
        """Record a named operation; ``unpack`` gives its items."""
        made = self.recorder.proxy(name, operands, keywords or None)
        if name != "unpack":
            return made
        items = [self.recorder.proxy("getitem", (made, place)) for place in range(operands[1])]
        return parts_of(operands[0], items)

    def lift(self, container: Any) -> Any:
        """A container that exists in the run, with these contents; afterwards the original holds what it holds."""
        kind = plain_type(type(container)).__name__
        contents = dict(container) if kind == "dict" else list(container)
        made = self._made(kind, contents)
        self.recorder.refill(container, made)
        return made

    def raise_(self, error: Any, *parts: Any) -> None:
        """Record that an error is raised; ``parts`` are its arguments that are traced."""
        if parts and isinstance(error, BaseException):
            self._put("raise", type(error), *error.args)
        else:
            self._put("raise", error)

    def print_(self, *values: Any, **options: Any) -> None:
        """Record that values are printed."""
        self.recorder.add("log", values, options or None)

    def bound(self, name: str, value: Any) -> Any:
        """The value of a name that may have none."""
        made = self._made("assigned", value, Name(name))
        if self.traced(value):
            self._used[made._index] = name, value
        return made

    def keep_variable(self, used: Proxy, frame: FrameType) -> None:
        """What was saved is the use of a name that a branch or a loop has bound: what the name itself holds is saved, too."""
        name, held = self._used.get(used._index, ("", used))
        if held is not used:
            recorder = self.recorder
            recorder.saved.setdefault(held._index, held)
            recorder.put(("save", held._index), frame)
            kept = recorder.variables.get(held._index, (name, ()))[1]
            recorder.variables = {**recorder.variables, held._index: (name, (*kept, used._index))}

    def save(self, value: Any) -> Any:
        """Keep a container, or a value, beyond the trace."""
        if self.traced(value):
            return value.save()
        kind = plain_type(type(value))
        if kind in (list, dict, set):
            return self._made(kind.__name__, list(value) if kind is set else value).save()
        return value.save() if hasattr(value, "save") else self._made("tuple", value).save() if kind is tuple else value

    def poison(self, error: BaseException) -> None:
        """The trace may not run, whoever catches ``error``."""
        self.recorder.poison = error

    # ------------------------------------------------------------------ entries

    def _put(self, target: str, *operands: Any) -> int:
        recorder = self.recorder
        if not recorder.open:
            raise MisuseError("this block belongs inside its trace, which is over")
        return recorder.put((target, *map(recorder.encode, operands)), _users(sys._getframe(2)))

    def _made(self, target: str, *operands: Any) -> Proxy:
        recorder = self.recorder
        recorder.target = target
        return Proxy(recorder, recorder.put((target, *map(recorder.encode, operands)), _users(sys._getframe(2))))

    def _settle_own(self) -> None:
        if self.recorder.own is not None:
            self.recorder.own.enter()

    def _open(self, number: int) -> None:
        recorder = self.recorder
        self._opened.append((number, recorder.reads))
        recorder.reads = dict(recorder.reads)
        recorder.regions += 1

    def _between(self) -> None:
        """The second branch knows what was read above, not what was read or written in the first."""
        number, outer = self._opened[-1]
        recorder = self.recorder
        kept = self._still(outer)
        recorder.reads = dict(outer)
        self._opened[-1] = number, kept

    def _close(self) -> int:
        number, outer = self._opened.pop()
        self.recorder.reads = self._still(outer)
        self.recorder.forget_steps()
        self.recorder.regions -= 1
        return number

    def _still(self, outer: dict[Any, Proxy]) -> dict[Any, Proxy]:
        """What was read above and has not been replaced inside."""
        reads = self.recorder.reads
        return {site: proxy for site, proxy in outer.items() if reads.get(site) is proxy}


def _known(value: Any) -> Any:
    """A value to be merged or carried; a name that holds nothing, or an unset value of an earlier trace, has none."""
    if value is UNBOUND or (type(value) in _PROXIES and not value._trace.open and value._value is UNSET):
        return _UNBOUND
    return value


def _users(frame: FrameType) -> FrameType:
    """The nearest frame of the user's own."""
    found: FrameType | None = frame
    while found is not None and not is_users(found.f_code):
        found = found.f_back
    return found or frame


_PLAIN = frozenset((bool, int, float, complex, str, bytes, slice, range, type(...), torch.dtype, torch.device, torch.Size))
_PROXIES: frozenset[type] = frozenset((Proxy, *Proxy.__subclasses__()))
