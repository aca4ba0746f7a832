"""What lines of a block put into your containers counts as saved: lists, dicts, sets, deques, attributes that were there before it."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import RecordError
from ..graph.laws import law_of
from ..ops.saved_values import WITH_VALUE
from ..source_location import locate, traceback_at
from .exchange.frames import OPTIMIZED, values_of
from .exchange.named import names_in
from .exchange.plain_objects import attributes, is_plain

if TYPE_CHECKING:
    from .recorder import Recorder

_HOLDING = frozenset((list, dict, set, deque, OrderedDict, defaultdict, Counter, WITH_VALUE[list], WITH_VALUE[dict]))
_SEQUENCES = (list, tuple, set, frozenset, deque)
_NEWEST, _MOST, _DEEP = 64, 10_000, 10


def there_before(frame: FrameType, offset: int) -> list[Any]:
    """The containers, and objects of classes of yours, that the names of a block hold when it begins."""
    names = names_in(frame.f_code, offset)
    found = values_of(frame, names.own) if frame.f_code.co_flags & OPTIMIZED else values_of(frame, names.outer)
    space = frame.f_globals
    found += [space[name] for name in names.outer if name in space]
    return [value for value in found if type(value) in _HOLDING or is_plain(type(value))]


def keep_contained(recorder: Recorder, frame: FrameType, offset: int) -> None:
    """Save what stands in containers that were there before the block, and was not saved.

    Raises:
        RecordError: the block is an edit: it runs later, and again and again.
    """
    budget, seen = [_MOST], set[int]()
    found: list[Any] = []
    every = names_in(frame.f_code, offset).stores
    for value in recorder.beside:
        found += _proxies(value, recorder, every, budget, seen, 0)
    fresh = {proxy._index: proxy for proxy in found if proxy._index >= 0 and proxy._index not in recorder.saved}
    if not fresh:
        return
    if recorder.generating is None:
        place = recorder.places[min(fresh)]
        text = "an edit runs later: what it puts into a container of yours would be another value each time. Read it in the trace"
        raise RecordError(f"{text}: {locate(place).text}").with_traceback(traceback_at(place, frame))
    inner = _in_regions(recorder)
    for index, proxy in sorted(fresh.items()):
        if index not in inner:
            recorder.saved.setdefault(index, proxy)
            recorder.entries.append(("save", index))
            recorder.places.append(recorder.places[index])


def _proxies(value: Any, recorder: Recorder, every: bool, budget: list[int], seen: set[int], depth: int) -> Iterator[Any]:
    """The proxies of a trace in a container, the newest items of large ones; of all items, where a block assigns to items."""
    if id(value) in seen or depth > _DEEP:
        return
    seen.add(id(value))
    kind = type(value)
    items: Any = value
    if issubclass(kind, dict):
        items = dict.values(value)
    elif not issubclass(kind, _SEQUENCES):
        held = attributes(value)
        items = [] if held is None else dict.values(held)
    newest = items if len(items) <= _NEWEST or every or kind is set else islice(reversed(items), _NEWEST)
    for item in list(islice(newest, max(budget[0], 0))):
        budget[0] -= 1
        of = type(item)
        if hasattr(of, "_trace") and hasattr(of, "_record_as_operand"):
            if item._trace is recorder:
                yield item
        elif of in _HOLDING or of is tuple or of is frozenset or is_plain(of):
            yield from _proxies(item, recorder, every, budget, seen, depth + 1)


def _in_regions(recorder: Recorder) -> set[int]:
    """The nodes in branches and loops, which may not come, or come more than once."""
    found, kinds = set[int](), list[str]()
    for index, entry in enumerate(recorder.entries):
        if entry[0] == "end":
            kinds.pop()
        elif law_of(entry[0]).regions:
            kinds.append(entry[0])
        elif any(kind != "invoke" for kind in kinds):
            found.add(index)
    return found


