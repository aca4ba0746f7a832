"""Which dimension of what passes at a site holds the rows of a batch: known by evidence, never by sizes that agree."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import msgspec
import torch
from torch.nn.utils.rnn import PackedSequence

from ..errors import NNsightError
from .nested import mapped_items
from .packing import packed_along


class Answer(enum.Enum):
    """What is known of a tensor whose rows lie in no known dimension."""

    NONE = "it does not depend on the batch"
    MIXED = "it depends on the batch, but no single dimension has one entry per row"
    UNKNOWN = "nothing is known of it"
    DOUBTFUL = "nothing is known of it, and its sizes may depend on data"


class Held(msgspec.Struct, frozen=True):
    """A dimension that holds the rows.

    Attributes:
        dim: Which.
        tokens: Whether each row has several entries there, one after the other (its tokens, its heads).
        rank: How many dimensions the tensor had when that was found; -1 if any will do.
    """

    dim: int
    tokens: bool = False
    rank: int = -1


Answers = Any
"""An answer for a tensor; of a container a tuple, or a dictionary, of those of its items."""


class Layout:
    """Which dimensions hold the rows of what passes at one site.

    Attributes:
        name: The site, in words.
        way: How its rows are declared, with ``{}`` for the dimension.
        answers: What is known of its value.
        otherwise: What is known of tensors that were not there when that was found.
        seen: The shapes of tensors of which nothing was known, in runs with so and so many rows, by their place in the value.
    """

    __slots__ = ("answers", "name", "otherwise", "seen", "way")

    def __init__(
        self, name: str = "this value", way: str = "", answers: Answers = Answer.UNKNOWN, otherwise: Any = Answer.UNKNOWN
    ) -> None:
        self.name, self.way, self.answers, self.otherwise = name, way, answers, otherwise
        self.seen: dict[tuple[Any, ...], dict[int, torch.Size]] = {}

    def of(self, answers: Answers) -> Layout:
        """The same for a part of the value."""
        part = Layout(self.name, self.way, answers, self.otherwise)
        part.seen = self.seen
        return part


_MOST_SEEN = 16

NOTHING_KNOWN = Layout()


class Rows(NamedTuple):
    """Which rows of a batch are meant.

    Attributes:
        start, stop: The rows, as a range.
        size: Rows in the whole batch.
        multiples: How many rows one row of the batch may become: beams, or sequences that are returned for it.
        layout: Where they lie in what passes.
    """

    start: int
    stop: int
    size: int
    multiples: tuple[int, ...] = ()
    layout: Layout = NOTHING_KNOWN

    @property
    def whole(self) -> bool:
        """Whether these are all rows."""
        return self.start == 0 and self.stop == self.size


class Span(NamedTuple):
    """Where rows lie in a tensor: ``tensor.narrow(dim, start, length)``; ``times`` entries for each."""

    dim: int
    start: int
    length: int
    times: int


def span_of(tensor: torch.Tensor, rows: Rows, answer: Any, place: tuple[Any, ...] = ()) -> Span | None:
    """Where the rows lie in a tensor; ``None`` for one that does not depend on the batch.

    Args:
        tensor: What passes, or a part of it.
        rows: The rows.
        answer: What is known of it.
        place: Where in the value it stands.

    Raises:
        NNsightError: it depends on the batch, but how is not known.
    """
    if type(answer) is Held and (answer.rank < 0 or answer.rank == tensor.dim()):
        return _along(tensor, rows, answer)
    if answer is Answer.NONE:
        return None
    if tensor.dim() == 0:
        return None
    span = None if answer is Answer.MIXED else _by_shapes(tensor, rows, place, answer is Answer.DOUBTFUL)
    if span is None:
        span = _packed(tensor, rows)
    return span if span is not None else refuse(rows.layout, tensor, rows)


def _packed(tensor: torch.Tensor, rows: Rows) -> Span | None:
    found = packed_along(tensor, rows.size)
    if found is None:
        return None
    dim, ends = found
    return Span(dim, ends[rows.start], ends[rows.stop] - ends[rows.start], 1)


def _along(tensor: torch.Tensor, rows: Rows, held: Held) -> Span | None:
    dim = held.dim if held.dim >= 0 else held.dim + tensor.dim()
    size = tensor.shape[dim] if 0 <= dim < tensor.dim() else -1
    if size == rows.size:
        return Span(dim, rows.start, rows.stop - rows.start, 1)
    times = size // rows.size
    if size > 0 and size % rows.size == 0 and (held.tokens or times in rows.multiples):
        return Span(dim, rows.start * times, (rows.stop - rows.start) * times, times)
    if size == 1 and held.rank >= 0:  # as many rows as one input has, for all of them
        return None
    layout = rows.layout
    raise NNsightError(
        f"{layout.name} is {list(tensor.shape)}: its dimension {held.dim} would hold the {rows.size} rows of this batch, and has not "
        f"{'so many, nor a multiple of them' if held.tokens else 'so many'}. {_ways_out(layout)}"
    )


def _by_shapes(tensor: torch.Tensor, rows: Rows, place: tuple[Any, ...], doubtful: bool) -> Span | None:
    """What shapes in runs with other numbers of rows tell; without them dimension 0 counts if its size is that of the batch.

    Where that is doubtful, it does not count for what has one dimension or two: so many tokens may have been chosen by chance.
    """
    layout, shape, multiples = rows.layout, tensor.shape, (1, *rows.multiples)
    dims = [0] if _fits(shape[0], rows.size, multiples) and not (doubtful and len(shape) < 3) else []
    if layout is not NOTHING_KNOWN:
        seen = layout.seen.setdefault(place, {})
        if len(seen) < _MOST_SEEN:
            seen[rows.size] = shape
        others = [(count, other) for count, other in list(seen.items()) if count != rows.size and len(other) == len(shape)]
        if others:
            fitting = (dim for dim, size in enumerate(shape) if _fits(size, rows.size, multiples))
            dims = [dim for dim in fitting if all(_fits(other[dim], count, multiples) for count, other in others)]
    if not dims or (len(dims) > 1 and dims[0]):
        return None
    times = shape[dims[0]] // rows.size
    return Span(dims[0], rows.start * times, (rows.stop - rows.start) * times, times)


def _fits(size: int, count: int, multiples: tuple[int, ...]) -> bool:
    return size % count == 0 and size // count in multiples


def refuse(layout: Layout, tensor: torch.Tensor, rows: Rows) -> NoReturn:
    """The error of a value whose rows are not known."""
    raise _marked(NNsightError(_not_known(layout, tensor, rows)))


def _marked(error: NNsightError) -> NNsightError:
    error.about_rows = True  # type: ignore[attr-defined]  # what a check on fakes cannot know
    return error


def _not_known(layout: Layout, tensor: torch.Tensor, rows: Rows) -> str:
    why = f"which of its dimensions, if any, holds the {rows.size} rows of this batch is not known"
    return f"{layout.name} is {list(tensor.shape)}: {why}, so one invoke can neither read nor change its rows. {_ways_out(layout)}"


def _ways_out(layout: Layout) -> str:
    if not layout.way:
        return "Read it outside the invokes, or in one without an input."
    one, tokens, none = map(layout.way.format, ("1", "(0, 'tokens')", "None"))
    return (
        f"Say it once, above the trace: {one} for dimension 1, {tokens} where the tokens (or heads) of each row lie one after the other "
        f"in dimension 0, {none} if it does not depend on the inputs; or read it outside the invokes."
    )


class UnknownRows:
    """Stands, inside a container, for a tensor of which one invoke cannot be given its rows; says why when it is used."""

    __slots__ = ("_why",)

    def __init__(self, why: str) -> None:
        object.__setattr__(self, "_why", why)

    def __repr__(self) -> str:
        return f"<withheld: {self._why}>"

    @property
    def error(self) -> NNsightError:
        """What a use of it raises."""
        return _marked(NNsightError(self._why))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self.error

    def __bool__(self) -> bool:
        raise self.error

    def _refused(self, *_args: Any) -> Any:
        raise self.error

    __getitem__ = __setitem__ = __iter__ = __len__ = __call__ = __array__ = __float__ = __int__ = _refused
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = _refused
    __pow__ = __neg__ = __abs__ = __lt__ = __le__ = __gt__ = __ge__ = __and__ = __or__ = __invert__ = __mod__ = __floordiv__ = _refused

    @classmethod
    def __torch_function__(cls, _function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise next(item for item in _flat((args, kwargs or {})) if type(item) is cls).error


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _flat(item)
    else:
        yield value


def unknown_rows(layout: Layout, tensor: torch.Tensor, rows: Rows) -> UnknownRows:
    """What stands for a tensor in a container."""
    return UnknownRows(_not_known(layout, tensor, rows))


# ---------------------------------------------------------------------- answers beside values


def part_of(answers: Answers, key: Any, otherwise: Any) -> Answers:
    """The answers of an item of a container."""
    if type(answers) is tuple:
        return answers[key] if type(key) is int and key < len(answers) else otherwise
    if type(answers) is dict:
        return answers.get(key, otherwise)
    return answers if answers is Answer.MIXED or answers is Answer.NONE else otherwise


def map_beside(value: Any, answers: Answers, otherwise: Any, change: Callable[..., Any], place: tuple[Any, ...] = ()) -> Any:
    """``value`` with ``change(tensor, answer, place)`` in place of every tensor; what holds no changed tensor stays the same object."""
    if isinstance(value, torch.Tensor):
        return change(value, otherwise if type(answers) in (tuple, dict) or answers is None else answers, place)
    if type(value) is PackedSequence and answers is not None and answers is not Answer.NONE:
        return change(value.data, Answer.MIXED, place)  # the tokens of all rows, those of one time after the other

    def item(key: Any, old: Any) -> Any:
        return map_beside(old, part_of(answers, key, otherwise), otherwise, change, (*place, key))

    return mapped_items(value, item)


def leaves_beside(value: Any, answers: Answers, otherwise: Any) -> Iterator[tuple[torch.Tensor, Any, tuple[Any, ...]]]:
    """Every tensor of ``value`` with its answer and its place, in the order of :func:`~.nested.tensors_in`."""
    found: list[tuple[torch.Tensor, Any, tuple[Any, ...]]] = []

    def note(tensor: torch.Tensor, answer: Any, place: tuple[Any, ...]) -> torch.Tensor:
        found.append((tensor, answer, place))
        return tensor

    map_beside(value, answers, otherwise, note)
    return iter(found)


def answer_leaves(answers: Answers) -> Iterator[Any]:
    """The answers themselves, containers opened."""
    for item in answers.values() if type(answers) is dict else answers if type(answers) is tuple else ():
        yield from answer_leaves(item)
    if isinstance(answers, (Answer, Held)):
        yield answers


def map_answers(answers: Answers, change: Callable[[Any], Any]) -> Answers:
    """Answers with each of them changed."""
    if type(answers) is tuple:
        return tuple([map_answers(item, change) for item in answers])
    if type(answers) is dict:
        return {key: map_answers(item, change) for key, item in answers.items()}
    return change(answers) if isinstance(answers, (Answer, Held)) else answers


def declared(given: Any) -> Answer | Held:
    """The answer that a declaration gives: ``1``, ``None`` or ``(0, "tokens")``.

    Raises:
        NNsightError: it is none of these.

    >>> declared((0, "tokens"))
    Held(dim=0, tokens=True, rank=-1)
    """
    if given is None:
        return Answer.NONE
    if type(given) is int:
        return Held(given)
    if type(given) in (tuple, list) and len(given) == 2 and type(given[0]) is int and given[1] == "tokens":
        return Held(given[0], True)
    raise NNsightError(f'rows are a dimension, None for a value without rows, or (dimension, "tokens"), not {given!r}')


def with_declaration(answers: Answers, answer: Any) -> Answers:
    """Answers in which a declaration speaks for all tensors whose dimension is not known otherwise; for a single one in any case."""
    alone = sum(1 for _ in answer_leaves(answers)) == 1
    return map_answers(answers, lambda known: answer if alone or type(known) is not Held else known)

