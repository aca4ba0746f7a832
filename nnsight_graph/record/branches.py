"""The explicit form of branches and loops: ``with tracer.cond(value) as c:``, ``with tracer.iter(collection) as item:``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from ..errors import MisuseError, RecordError, ours
from .recorder import Recorder, recording_here
from .regions import RegionEmitter
from .steps import GENERATED, PROMPT, Steps


def emitter_of(recorder: Recorder) -> RegionEmitter:
    """The emitter of a trace."""
    emitter: RegionEmitter | None = recorder.emitter
    if emitter is None:
        emitter = recorder.emitter = RegionEmitter(recorder)
    return emitter


def emitter_here(what: str) -> RegionEmitter:
    """The emitter of the trace that is open on this thread."""
    recorder = recording_here()
    if recorder is None:
        raise MisuseError(f"{what} belongs inside a trace: with model.trace(...): ...")
    return emitter_of(recorder)


class Branch:
    """A ``with tracer.cond(value)`` block: its lines take part where the value is true.

    Sites in it are read and written only then. Values made in it can be used in it, and saved; one that was saved in a
    block that was not taken is unset.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.ones(2)) as tracer:
        ...     with tracer.cond(model.output.sum() > 5) as large:
        ...         tracer.log("large")
        ...     with large.elif_(model.output.sum() > 1):
        ...         tracer.log("medium")
        ...     with large.else_():
        ...         tracer.log("small")
        medium
    """

    __slots__ = ("_chain", "_emitter", "_test")

    def __init__(self, emitter: RegionEmitter, test: Any, chain: list[Any] | None = None) -> None:
        self._emitter = emitter
        self._test = test
        self._chain: list[Any] = [] if chain is None else chain  # whether a block so far was taken; shared by all of one chain

    def elif_(self, test: Any) -> Branch:
        """The block that runs where no block above did and ``test`` is true.

        Raises:
            RecordError: it does not stand below the block it belongs to.
        """
        call = self._emitter.call
        return Branch(self._emitter, call("and_", call("not_", self._taken()), call("truth", test)), self._chain)

    def else_(self) -> Branch:
        """The block that runs where no block above did.

        Raises:
            RecordError: it does not stand below the block it belongs to.
        """
        return Branch(self._emitter, self._emitter.call("not_", self._taken()), self._chain)

    def _taken(self) -> Any:
        if not self._chain:
            raise RecordError("elif_ and else_ stand below their block: with tracer.cond(value) as c: ..., then with c.else_(): ...")
        return self._chain[-1]

    def __enter__(self) -> Branch:
        emitter = self._emitter
        try:
            truth = emitter.call("truth", self._test)
            self._chain.append(emitter.call("or_", self._chain[-1], truth) if self._chain else truth)
            emitter.begin_if(truth)
            return self
        except BaseException as error:
            emitter.recorder.interrupted(error)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if not self._emitter.recorder.interrupted(error):
            self._emitter.begin_else()
            self._emitter.end_if(())


class Items:
    """A ``with tracer.iter(collection) as item`` block: its lines run once per item, in a loop that is recorded once.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.trace(torch.arange(3)) as tracer:
        ...     squares = nnsight.list().save()
        ...     with tracer.iter(model.output) as item:
        ...         _ = squares.append((item * item).item())
        >>> squares
        [0, 1, 4]
    """

    __slots__ = ("_emitter", "_loop_source")

    def __init__(self, emitter: RegionEmitter, collection: Any) -> None:
        self._emitter = emitter
        self._loop_source = collection

    def __iter__(self) -> Iterator[Any]:
        raise RecordError("write `with tracer.iter(collection) as item:`, or `for item in collection:` where the block has its source")

    def __enter__(self) -> Any:
        try:
            item = self._emitter.begin_loop("for", self._loop_source, ())[0]
        except BaseException as error:
            self._emitter.recorder.interrupted(error)
            raise
        self._emitter.watch(sys._getframe(1))
        return item

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if not self._emitter.recorder.interrupted(error):
            self._emitter.end_watched(kind is None)


class Iteration:
    """What ``tracer.iter`` is: called with a collection it is a block over its items; indexed, a choice of steps."""

    __slots__ = ("_emitter",)

    def __init__(self, emitter: RegionEmitter) -> None:
        self._emitter = emitter

    def __call__(self, collection: Any) -> Items:
        """A block whose lines run once per item of ``collection``."""
        return Items(self._emitter, collection)

    def __iter__(self) -> Iterator[Any]:
        raise ours(TypeError, "iter is no loop by itself: write `for step in tracer.iter[:]` for every step, `tracer.iter[2:5]` for some")

    def __getitem__(self, chosen: Any) -> Steps:
        """Steps of a run of several forwards: an integer, a slice (open ones too) or a list of integers."""
        return Steps(self._emitter, chosen)

    @property
    def prompt(self) -> Steps:
        """The step that reads the prompt: its activations have all the prompt's positions."""
        return Steps(self._emitter, PROMPT)

    @property
    def generated(self) -> Steps:
        """The steps after the prompt's: each reads the token generated before it."""
        return Steps(self._emitter, GENERATED)


def cond(test: Any) -> Branch:
    """The same as :meth:`Tracer.cond <nnsight_graph.Tracer.cond>`, for the trace that is open here."""
    return Branch(emitter_here("cond"), test)


def iter(collection: Any) -> Items:
    """A block whose lines run once per item of ``collection``: ``with nnsight_graph.iter(values) as item:``."""
    return Items(emitter_here("iter"), collection)
