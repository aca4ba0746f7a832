"""Several inputs in one forward: the blocks of a trace that own rows of its batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch

from ..errors import MisuseError, RecordError
from ..ops.ambient import ambient
from ..ops.layout import Answer, Answers, Held, Rows
from ..record import Recorder

Invoke = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments of one invoke."""


UNKNOWN = 256
"""Steps that a loop over all of them is made for, where nothing tells how many there will be."""


class Call(NamedTuple):
    """One call of a model.

    Attributes:
        args, kwargs: Its arguments.
        rows: The rows that each invoke owns of it.
        held: Which of its arguments hold rows: answers for args, and for kwargs by name.
        function: The method that is called, where it is not the model itself.
        steps: How many forwards it may make of the model.
        before: What is to be found out before it is made, when the weights are there; raises what is wrong.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    rows: tuple[Rows, ...] = ()
    function: str = ""
    steps: int = 1
    before: Callable[[], None] | None = None
    held: Answers = None

    @property
    def most_steps(self) -> int:
        """How many steps a loop over all of them is made for: forwards, or, where the model runs once, calls of a module."""
        return self.steps if self.function else UNKNOWN

    @property
    def modes(self) -> str:
        """The modes of torch that it works in, where it sets them itself."""
        return ambient(grad=False) if self.function == "generate" else ""


class Invoker:
    """A ``with tracer.invoke(...)`` block: what is read and written inside are this input's rows of the batch.

    Without an input it sees the rows of all inputs before it.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Linear(2, 3))
        >>> with model.trace() as tracer:
        ...     with tracer.invoke(torch.zeros(1, 2)):
        ...         one = model.output.save()
        ...     with tracer.invoke(torch.ones(4, 2)):
        ...         four = model.output.save()
        ...     with tracer.invoke():
        ...         all_rows = model.output.save()
        >>> one.shape, four.shape, all_rows.shape
        (torch.Size([1, 3]), torch.Size([4, 3]), torch.Size([5, 3]))
    """

    __slots__ = ("_back", "_input", "_invokes", "_joined", "_recorder")

    def __init__(
        self, recorder: Recorder, invokes: list[Invoke], given: Invoke | None, joined: Callable[[list[Invoke]], Call] | None = None
    ) -> None:
        self._recorder, self._joined = recorder, joined
        self._invokes = invokes
        self._input = given
        self._back: Callable[[], None] | None = None

    def __enter__(self) -> Invoker:
        recorder = self._recorder
        if not recorder.open or self._back is not None:
            raise MisuseError("an invoke is entered once, inside its trace")
        if recorder.invoking:
            raise MisuseError("invokes cannot be nested: end the block of the first before the next")
        if recorder.regions:
            raise MisuseError("an invoke cannot stand in a branch or a loop: which inputs there are is known when the trace is written")
        frame = sys._getframe(1)
        try:
            if recorder.own is not None:
                recorder.own.enter()
            recorder.invoking = recorder.put(("invoke", self._rows()), frame) + 1
            self._back = recorder.rewound("last" if self._input is None and recorder.open_ended else 0)
            return self
        except BaseException as error:
            recorder.interrupted(error)
            raise

    @property
    def inputs(self) -> Invoke | None:
        """What the model is called with for this input alone, ``((positional, ...), {name: value})``; ``None`` where there is none."""
        if self._input is None or self._joined is None:
            return self._input
        call = self._joined([self._input])
        return call.args, call.kwargs

    def _rows(self) -> str:
        if self._input is not None:
            self._invokes.append(self._input)
            return f"rows:{len(self._invokes) - 1}"
        if not self._invokes:
            raise MisuseError("an invoke without an input sees the inputs before it, and there is none yet")
        return f"before:{len(self._invokes)}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        recorder = self._recorder
        if error is None:
            recorder.leave_own(recorder.invoking)
        if not recorder.interrupted(error):
            recorder.put(("end",), sys._getframe(1))
        recorder.invoking = 0
        if self._back is not None:
            self._back()


def concatenate(invokes: Sequence[Invoke], shared: Mapping[str, Any]) -> Call:
    """One call for all invokes: tensors are put together along their first dimension, other arguments have to agree.

    What is one and the same object in all invokes, or is given to the trace, belongs to the call, and is passed as it is.

    Raises:
        RecordError: the invokes do not fit together.
    """
    twice = next((name for _, kwargs in invokes for name in kwargs if name in shared), None)
    if twice is not None:
        raise RecordError(f"{twice} is given to the trace, and so belongs to the call of all invokes: leave it out of these")
    if len({len(args) for args, _ in invokes}) > 1 or len({frozenset(kwargs) for _, kwargs in invokes}) > 1:
        raise RecordError("the invokes of one trace take the same arguments: as many by position, the same names")
    width, names = len(invokes[0][0]), list(invokes[0][1])
    words = [*(f"argument {place}" for place in range(width)), *names]
    columns = [*zip(*(args for args, _ in invokes), strict=True), *([kwargs[name] for _, kwargs in invokes] for name in names)]
    owned = _with_rows(columns)
    main = next((place for place, own in enumerate(owned) if own), None)
    if main is None:
        raise MisuseError("an invoke needs an input with rows: a tensor of at least one dimension")
    counts = [len(value) for value in columns[main]]
    if not all(counts):
        raise MisuseError("an invoke with no rows: its input's first dimension is 0")
    if len(invokes) == 1:
        args, kwargs = invokes[0]
        return Call(args, {**shared, **kwargs}, (Rows(0, counts[0], counts[0]),))
    joined = [_joined(column, word, counts if own else None) for column, word, own in zip(columns, words, owned, strict=True)]
    held = [Held(0) if own else Answer.NONE for own in owned]
    kwargs = {**shared, **dict(zip(names, joined[width:], strict=True))}
    answers = tuple(held[:width]), {**dict.fromkeys(shared, Answer.NONE), **dict(zip(names, held[width:], strict=True))}
    return Call(tuple(joined[:width]), kwargs, rows_in_turn(counts), held=answers)


def _with_rows(columns: Sequence[Sequence[Any]]) -> list[bool]:
    """Which arguments hold rows: tensors that are not one and the same in all invokes.

    Where nothing differs the invokes try several things on one input: then those do that have as many rows as the first.
    """
    tensors = [all(isinstance(value, torch.Tensor) and value.dim() for value in column) for column in columns]
    differing = [own and any(value is not column[0] for value in column) for own, column in zip(tensors, columns, strict=True)]
    if any(differing):
        return differing
    count = next((len(column[0]) for own, column in zip(tensors, columns, strict=True) if own), -1)
    return [own and len(column[0]) == count for own, column in zip(tensors, columns, strict=True)]


def rows_in_turn(counts: Sequence[int]) -> tuple[Rows, ...]:
    """The rows of inputs that stand one after the other, ``counts`` rows each.

    >>> [(rows.start, rows.stop, rows.size) for rows in rows_in_turn([1, 2])]
    [(0, 1, 3), (1, 3, 3)]
    """
    size, start, rows = sum(counts), 0, []
    for count in counts:
        rows.append(Rows(start, start + count, size))
        start += count
    return tuple(rows)


def _joined(values: Sequence[Any], name: str, counts: Sequence[int] | None) -> Any:
    """One argument of all invokes, put together if it has rows."""
    first = values[0]
    if all(value is first for value in values) and counts is None:
        return first
    if isinstance(first, torch.Tensor):
        shapes = [list(value.shape) for value in values if isinstance(value, torch.Tensor)]
        fits = len(shapes) == len(values) and len({tuple(shape[1:]) for shape in shapes}) == 1
        if not fits or any(bool(shape) is (counts is None) for shape in shapes):
            raise RecordError(f"the invokes do not fit into one batch: {name} has the shapes {shapes}")
        if len({value.dtype for value in values}) > 1:
            raise RecordError(f"the invokes do not fit into one batch: {name} has the dtypes {[value.dtype for value in values]}")
        if counts is None:
            if not all(torch.equal(value, first) for value in values):
                raise MisuseError(f"the invokes do not agree on {name}, which has no dimensions and so no rows: {list(values)}")
            return first
        if [shape[0] for shape in shapes] != list(counts):
            raise RecordError(
                f"the invokes do not fit into one batch: {name} has {[shape[0] for shape in shapes]} rows, and the inputs have "
                f"{list(counts)}. If it belongs to the call, give all invokes one and the same tensor, or give it to the trace"
            )
        return torch.cat(list(values))
    if any(value is not first and value != first for value in values):
        raise RecordError(f"the invokes do not agree on {name}: {list(values)}")
    return first
