"""Several traces in one block: recorded as one program, run one after the other when it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from ..config import CONFIG
from ..errors import MisuseError, RecordError
from ..graph import Site
from ..ops.data import released
from ..record import Proxy, Recorder, Recording
from ..record.control import decide
from ..record.functions import stop
from ..record.included import include
from ..record.name import Name
from ..record.recorder import holds_proxy
from ..record.settled import plain
from ..source_location import user_place
from .arguments import check_names
from .block import RecordedBlock
from .declared import as_data
from .handle import GraphHandle, OpenGraph
from .invoker import Call, Invoke, Invoker
from .session_parts import inside_closure
from .session_run import SessionRun, Traced
from .tracer import Tracer

if TYPE_CHECKING:
    from .nnsight import NNsight


class Session(RecordedBlock):
    """A ``with model.session() as session:`` block.

    The traces in it run in their order when the block ends. What one of them reads can be used in the next, and between
    them, without ``.save()``; a value is freed after its last use. An error in one ends the session: what was saved before
    it is there.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Identity())
        >>> with model.session() as session:
        ...     found = nnsight.list().save()
        ...     with session.iter([1.0, 2.0]) as number:
        ...         with model.trace(torch.ones(1) * number):
        ...             _ = found.append(model.output.item())
        >>> list(found)
        [1.0, 2.0]
    """

    __slots__ = ("_batch", "_envoy", "_models", "_progress", "_rows", "_runs", "_traces", "_validate")

    _is_session = True
    _word = "session"
    _again = "this session has run already; open a new one with model.session()"

    def __init__(
        self, envoy: NNsight, batch: bool = False, progress: bool = False, run: bool = True, validate: bool | str | None = None
    ) -> None:
        if validate not in (None, True, False, "auto"):
            raise RecordError(f"validate is True, False or 'auto', not {validate!r}")
        super().__init__(Recorder(None))
        self._validate = validate
        self._models: tuple[tuple[int, int, bool], ...] = ()
        self._rows: list[tuple[str, int | None, bool, int]] = []
        self._envoy = envoy
        self._batch = batch
        self._progress = progress
        self._runs = run
        self._traces: dict[int, Traced] = {}

    def stop(self) -> None:
        """End the session here, as :func:`nnsight_graph.stop` does."""
        self._inside("stop()")
        stop()

    @property
    def graph(self) -> GraphHandle:
        """What was recorded: print it to read the program; in the block, what was recorded so far."""
        if self._recording is None:
            return OpenGraph(self)
        return GraphHandle(self._recording, self._envoy, kind="session", traces=self._models, batch=self._batch, rows=self._rows)

    if TYPE_CHECKING:

        def __enter__(self) -> Session: ...

    def _end(self, error: BaseException | None, traceback: TracebackType | None, frame: FrameType) -> None:
        __tracebackhide__ = True
        if self._recorder.owner is not None:
            self._recorder.poison = self._recorder.poison or RecordError(_HALF.format("it was entered by hand, and not left"))
        super()._end(error, traceback, frame)

    def _run(self, recording: Recording, saved: dict[int, Proxy], frame: FrameType) -> BaseException | None:
        traces, self._traces = self._traces, {}
        trees = list(dict.fromkeys(traced.envoy._tree for traced in traces.values()))
        self._models = tuple((node, trees.index(traced.envoy._tree), traced.open_ended) for node, traced in traces.items())
        self._rows = [one for place, tree in enumerate(trees) for one in as_data(tree.declared, place)]
        if not self._runs:
            self._recorder.failure = "the session was recorded only, run=False"
            return None
        recording.outside = tuple(tree.index.root for tree in trees)
        run = SessionRun(recording, traces, frozenset(saved), frame, self._batch)
        try:
            problem = run.all(self._progress)
        except BaseException as raised:
            self._recorder.failure = f"a model of its session raised {type(raised).__name__} before it was reached"
            raise
        finally:
            for node, proxy in saved.items():
                if node in run.values:
                    object.__setattr__(proxy, "_value", released(run.values[node]))
            self._recorder.reasons = run.reasons
            run.values.clear()
        return problem


_HALF = "a trace of this session was left without its end ({}), so that the session cannot run"


class SessionTracer(Tracer):
    """A ``with model.trace(...)`` block in a session: it is recorded there, and runs when the session does."""

    __slots__ = ("_arguments", "_back", "_half", "_number")

    def __init__(
        self, envoy: NNsight, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any], function: str, validate: bool | str | None
    ) -> None:
        args, kwargs = plain(args), plain(kwargs)
        call: Call | None = None
        if not holds_proxy((args, kwargs), Proxy):
            call = envoy._prepared(args, kwargs, function)
        super().__init__(envoy, call, {} if call else kwargs, function)
        self._recorder, self._half = recorder, False
        self._arguments = args, kwargs
        self._named = kwargs if envoy._shares_named and not args else None
        self._number = -1
        self._back: Callable[[], bool] | None = None
        validate = recorder.session._validate if validate is None and recorder.session is not None else validate
        self._validate = CONFIG.APP.VALIDATE if validate is None else validate

    @property
    def _is_open(self) -> bool:
        return self._back is not None and self._recorder.open

    @property
    def graph(self) -> GraphHandle:
        """The graph of a trace in a session is a part of the session's; in the block, what was recorded there so far."""
        if self._is_open:
            return OpenGraph(self._recorder.block)
        raise RecordError("a trace in a session is a part of its graph: print(session.graph) when the session has ended")

    def invoke(self, *args: Any, scan: bool | None = None, validate: bool | str | None = None, **kwargs: Any) -> Invoker:
        """Add an input to the batch, as in any trace; it may come from lines above the trace."""
        self._inside("invoke(...)")
        self._share_named()
        self._validate = (True if scan else self._validate) if validate is None else validate
        if not args and not kwargs:
            return Invoker(self._recorder, self._invokes, None)
        args, kwargs = plain(args), plain(kwargs)
        check_names(self._envoy, self._function, kwargs, "invoke")
        if not holds_proxy((args, kwargs, self._shared), Proxy):
            self._envoy._invoked(args, kwargs, self._function, self._shared)
        elif self._come_later((*args, *kwargs.values())):
            raise RecordError("an input has to be there before its trace runs; this one comes while it runs: make it above the trace")
        given: Invoke = (args, kwargs)
        self._recorder.add("input", args, kwargs)
        return Invoker(self._recorder, self._invokes, given)

    def _come_later(self, values: tuple[Any, ...]) -> bool:
        """Whether any of the values hangs on what passes in this trace."""
        entries = self._recorder.entries
        proxies = [value._index for value in values if isinstance(value, Proxy) and value._trace is self._recorder]
        lines = inside_closure(entries, self._number + 1, proxies)
        return any(len(entries[line]) > 1 and type(entries[line][1]) is Site for line in lines)

    def __enter__(self) -> Tracer:
        recorder, frame = self._recorder, sys._getframe(1)
        if self._number >= 0 or not recorder.open:
            raise MisuseError("this trace was written already; open a new one with model.trace(...)")
        if recorder.owner is not None:
            raise MisuseError("a trace is open already, and traces cannot be nested. End its block first; the next can use its values.")
        args, kwargs = self._arguments
        decision, first = decide(frame), len(recorder.entries)
        try:
            self._number = recorder.add("trace", (Name(self._function or "forward"), *args), kwargs)
            self._half = True
            self._back = recorder.open_trace(self._envoy._tree, bool(self._function))
            if decision.by_hand:
                recorder.begun = user_place(frame)
            for edit in self._envoy._edits:
                include(recorder, edit)
            self._block = decision.block(frame)
            if self._block is not None:
                self._block.arm()
            return self
        except BaseException as error:
            self._half = self._half or len(recorder.entries) > first
            self._give_up(f"{type(error).__name__} where it was begun")
            raise

    def _give_up(self, why: str, _error: BaseException | None = None) -> None:
        """The session, which has the recorder, may go on: it will not run, if a part of it is half written."""
        if self._block is not None:
            self._block.disarm()
            self._block = None
        if self._half and self._recorder.open and self._recorder.poison is None:
            self._recorder.poison = RecordError(_HALF.format(why))

    def _end(self, error: BaseException | None, traceback: TracebackType | None, frame: FrameType) -> None:
        __tracebackhide__ = True
        recorder = self._recorder
        assert self._back is not None
        if error is None:
            if recorder.own is not None:
                recorder.own.close()
            recorder.put(("end",), frame)
        else:
            self._give_up(f"{type(error).__name__} in its block")
        self._half = False
        caches, self._caches = self._caches, None
        open_ended, self._back = self._back(), None
        recorder.session._traces[self._number] = Traced(self._envoy, self._function, self._call, open_ended, self._validate, caches)
