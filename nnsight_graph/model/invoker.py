"""Several inputs in one forward: the blocks of a trace that own rows of its batch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch

from ..errors import RecordError
from ..ops.ambient import ambient
from ..ops.rows import Rows
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

    @property
    def most_steps(self) -> int:
        """How many steps a loop over all of them is made for: forwards, or, where the model runs once, calls of a module."""
        return self.steps if self.function else UNKNOWN

    @property
    def modes(self) -> str:
        """The modes of torch that it works in, where it sets them itself."""
        if self.function != "generate":
            return ""
        with torch.no_grad():
            return ambient()


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

    __slots__ = ("_back", "_input", "_invokes", "_recorder")

    def __init__(self, recorder: Recorder, invokes: list[Invoke], given: Invoke | None) -> None:
        self._recorder = recorder
        self._invokes = invokes
        self._input = given
        self._back: Callable[[], None] | None = None

    def __enter__(self) -> Invoker:
        recorder = self._recorder
        if not recorder.open or self._back is not None:
            raise RecordError("an invoke is entered once, inside its trace")
        if recorder.invoking:
            raise RecordError("invokes cannot be nested: end the block of the first before the next")
        if recorder.regions:
            raise RecordError("an invoke cannot stand in a branch or a loop: which inputs there are is known when the trace is written")
        if recorder.own is not None:
            recorder.own.enter()
        recorder.invoking = recorder.put(("invoke", self._rows()), sys._getframe(1)) + 1
        self._back = recorder.rewound("last" if self._input is None and recorder.open_ended else 0)
        return self

    def _rows(self) -> str:
        if self._input is not None:
            self._invokes.append(self._input)
            return f"rows:{len(self._invokes) - 1}"
        if not self._invokes:
            raise RecordError("an invoke without an input sees the inputs before it, and there is none yet")
        return f"before:{len(self._invokes)}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        recorder = self._recorder
        if error is None:
            recorder.leave_own(recorder.invoking)
        recorder.put(("end",), sys._getframe(1))
        recorder.invoking = 0
        if self._back is not None:
            self._back()


def concatenate(invokes: Sequence[Invoke], shared: Mapping[str, Any]) -> Call:
    """One call for all invokes: tensors are put together along their first dimension, other arguments have to agree.

    Raises:
        RecordError: the invokes do not fit together.
    """
    if len(invokes) == 1:
        args, kwargs = invokes[0]
        size = _row_count(args, kwargs)
        return Call(args, {**shared, **kwargs}, (Rows(0, size, size),))
    counts = [_row_count(args, kwargs) for args, kwargs in invokes]
    if len({len(args) for args, _ in invokes}) > 1 or len({frozenset(kwargs) for _, kwargs in invokes}) > 1:
        raise RecordError("the invokes of one trace take the same arguments: as many by position, the same names")
    args = tuple(_joined([args[place] for args, _ in invokes], f"argument {place}") for place in range(len(invokes[0][0])))
    kwargs = {name: _joined([kwargs[name] for _, kwargs in invokes], name) for name in invokes[0][1]}
    return Call(args, {**shared, **kwargs}, rows_in_turn(counts))


def rows_in_turn(counts: Sequence[int], length: int = 0) -> tuple[Rows, ...]:
    """The rows of inputs that stand one after the other, ``counts`` rows each.

    >>> [(rows.start, rows.stop, rows.size) for rows in rows_in_turn([1, 2])]
    [(0, 1, 3), (1, 3, 3)]
    """
    size, start, rows = sum(counts), 0, []
    for count in counts:
        rows.append(Rows(start, start + count, size, length))
        start += count
    return tuple(rows)


def _row_count(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Tensor) and value.dim():
            if not value.shape[0]:
                raise RecordError("an invoke with no rows: its input's first dimension is 0")
            return value.shape[0]
    raise RecordError("an invoke needs an input with rows: a tensor of at least one dimension")


def _joined(values: list[Any], name: str) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        shapes = [list(value.shape) for value in values if isinstance(value, torch.Tensor)]
        if len(shapes) < len(values) or len({tuple(shape[1:]) for shape in shapes}) > 1 or not all(shapes):
            raise RecordError(f"the invokes do not fit into one batch: {name} has the shapes {shapes}")
        if len({value.dtype for value in values}) > 1:
            raise RecordError(f"the invokes do not fit into one batch: {name} has the dtypes {[value.dtype for value in values]}")
        return torch.cat(values)
    if any(value is not first and value != first for value in values):
        raise RecordError(f"the invokes do not agree on {name}: {values}")
    return first
