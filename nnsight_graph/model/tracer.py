"""The block of a trace: recorded when it is entered, run when it is left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from torch.overrides import _pop_mode, _push_mode

from ..compile import Plan, cached_plan
from ..config import CONFIG
from ..errors import NNsightError, RecordError
from ..graph import Site
from ..ops.control import NEVER
from ..ops.evaluate import UNBOUND
from ..record import Proxy, Recorder, Recording, apply, log
from ..record.branches import Branch, Iteration, emitter_of
from ..record.control import Block, enter, forget_skip
from ..record.recorder import holds_proxy
from ..record.settled import UNSET, plain
from ..record.steps import Steps
from ..record.torch_calls import RECORDING
from ..run import Run, execute, prepare
from ..run.failures import explain, missed, unset_reasons
from ..run.progress import progress
from ..run.site_values import Failure
from ..source_location import is_users, traceback_at
from .cache import Cache, Caches
from .entries import CacheDict
from .handle import GraphHandle
from .invoker import UNKNOWN, Call, Invoke, Invoker
from .rehearsing import Numbers, changed_numbers, check, note_changes

if TYPE_CHECKING:
    import torch

    from .envoy import Envoy
    from .nnsight import NNsight

_RESULT = Site("", "result")


class Tracer:
    """A ``with model.trace(...)`` block.

    Its body is recorded; when it ends, the model runs once with what was recorded. An exception in the body runs
    nothing.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> model = nnsight.NNsight(torch.nn.Linear(2, 2))
        >>> with model.trace(torch.ones(1, 2)) as tracer:
        ...     result = tracer.result.save()
        >>> result.shape
        torch.Size([1, 2])
    """

    __slots__ = (
        "__weakref__", "_block", "_caches", "_call", "_envoy", "_function", "_invokes", "_known", "_progress", "_recorder", "_recording",
        "_shapes", "_shared", "_validate",
    )  # fmt: skip

    def __init__(self, envoy: NNsight, call: Call | None, shared: dict[str, Any], function: str = "", progress: bool = False) -> None:
        self._envoy = envoy
        self._call = call
        self._shared = shared
        self._invokes: list[Invoke] = []
        self._block: Block | None = None
        self._recorder = Recorder(envoy._tree)
        self._function = function
        self._progress = progress
        self._known: Numbers | None = None
        self._shapes: Call | None = None
        self._validate: bool | str = CONFIG.APP.VALIDATE
        self._caches: Caches | None = None
        if function:
            self._recorder.generating = True
        self._recording: Recording | None = None

    # ------------------------------------------------------------------ in the block

    @property
    def result(self) -> Any:
        """What the traced call returns."""
        return self._recorder.read(_RESULT, self._envoy._tree, 3)

    def invoke(self, *args: Any, scan: bool | None = None, validate: bool | str | None = None, **kwargs: Any) -> Invoker:
        """Add an input to the batch that this trace runs as one forward.

        Args:
            *args: The input, as :meth:`trace <nnsight_graph.NNsight.trace>` takes it; it may have several rows.
                Without an input the block sees the rows of all inputs before it.
            scan: As for :meth:`trace <nnsight_graph.NNsight.trace>`, for the whole batch.
            validate: The same.
            **kwargs: Named arguments of the model's call for this input.

        Returns:
            A block in which values are this input's rows.

        Raises:
            RecordError: the trace has an input of its own, or nothing can be made of this one.
        """
        if self._call is not None:
            raise RecordError("this trace has an input: invokes belong to a trace without one, model.trace()")
        self._validate = (True if scan else self._validate) if validate is None else validate
        if not args and not kwargs:
            return Invoker(self._recorder, self._invokes, None)
        args, kwargs = plain(args), plain(kwargs)
        if holds_proxy((args, kwargs), Proxy):
            raise RecordError("an input has to be there when the trace is written; this one comes while it runs: make it above")
        return Invoker(self._recorder, self._invokes, self._envoy._invoked(args, kwargs))

    def barrier(self, _count: int) -> Callable[[], None]:
        """Nothing has to wait here, since values flow between invokes by themselves; kept for code that calls it."""
        return lambda: None

    def cond(self, test: Any) -> Branch:
        """A block whose lines take part only where ``test`` is true: ``with tracer.cond(value) as c:``, then ``with c.else_():``.

        Args:
            test: A traced value, or a plain one.
        """
        return Branch(emitter_of(self._recorder), test)

    @property
    def iter(self) -> Iteration:
        """Loops: ``with tracer.iter(collection) as item:`` runs its lines once per item."""
        return Iteration(emitter_of(self._recorder))

    def all(self) -> Steps:
        """All steps: the same as ``tracer.iter[:]``."""
        return self.iter[:]

    def next(self, count: int = 1) -> Tracer:
        """From here on lines stand ``count`` steps further.

        Raises:
            RecordError: in or after a loop over an open range of steps.
        """
        recorder = self._recorder
        if isinstance(recorder.step, str):
            raise RecordError("tracer.next() in, or after, an open loop over steps: name the step, as in tracer.iter[2]")
        recorder.go_to(recorder.step + count)
        return self

    def cache(
        self,
        modules: Iterable[Envoy | str] | None = None,
        device: torch.device | str | None = "cpu",
        dtype: torch.dtype | None = None,
        detach: bool | None = True,
        include_output: bool = True,
        include_inputs: bool = False,
        rename: Mapping[str, str] | None = None,
        alias: Mapping[str, str] | None = None,
        *,
        copy: bool = False,
        to: str | Path | None = None,
    ) -> CacheDict:
        """Keep what all modules, or many, return in this run, whatever else the block does with it.

        What is kept is what the model goes on with, edits and replacements included; in an invoke, that input's rows; in a
        generation, every step. Called again without arguments, or with the same ones, it returns the same cache.

        Args:
            modules: Envoys, paths (``"model.transformer.h.0"``) or patterns (``"*.mlp"``); all modules by default.
            device: Where tensors are moved as they come; ``None`` leaves them where they are.
            dtype: What floating-point tensors are converted to.
            detach: Whether tensors leave the autograd graph.
            include_output: Whether outputs are kept.
            include_inputs: Whether arguments are kept.
            rename: Names to be used in place of a module's path, or of the last name of one: ``{"transformer.h": "layers"}``.
            alias: Names to be used beside it: ``{"layers": "transformer.h"}``.
            copy: Whether values are copied even where they could stay on the model's own storage, because the model works in
                place. (Modules with ``inplace=True`` are seen without it.)
            to: An empty folder: values are written there as they come, in safetensors files, and read when they are asked for.

        Returns:
            A :class:`CacheDict`, filled when the block has ended.

        Raises:
            RecordError: an unknown module; a folder that is not empty; in a branch, or in a loop that is recorded once.

        Example:
            >>> from nnsight_graph import LanguageModel
            >>> model = LanguageModel("nnsight-graph/capitals")
            >>> with model.trace("The Eiffel Tower is in the city of") as tracer:
            ...     cache = tracer.cache(modules=["*.mlp", model.lm_head])
            >>> cache.model.transformer.h[0].mlp.output.shape
            torch.Size([1, 11, 96])
        """
        if self._recorder.regions:
            raise RecordError("a cache keeps what passes in the whole run: write tracer.cache(...) outside branches and loops")
        made = Cache(modules, device, dtype, detach, include_output, include_inputs, rename, alias)
        made.copy, made.lists = copy, self._recorder.generating
        if self._caches is None:
            self._caches = Caches(self._recorder, self._envoy._tree)
        return self._caches.add(made, to, sys._getframe(1))

    def apply(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The same as :func:`nnsight_graph.apply`."""
        return apply(function, *args, **kwargs)

    def log(self, *values: Any) -> None:
        """Print values as soon as the model has computed them, as :func:`nnsight_graph.log` does."""
        log(*values)

    @property
    def graph(self) -> GraphHandle:
        """What was recorded: print it to read the program.

        Raises:
            RecordError: the block has not ended.
        """
        if self._recording is None:
            raise RecordError("the graph is there when the block has ended")
        return GraphHandle(self._recording, self._envoy, self._shapes)

    # ------------------------------------------------------------------ the block

    def __enter__(self) -> Tracer:
        if self._recording is not None:
            raise RecordError("this trace has run already; open a new one with model.trace(...)")
        return self._begin(sys._getframe(1), False)

    def _begin(self, frame: FrameType, scan: bool) -> Tracer:
        recorder = self._recorder
        recorder.start()
        recorder.observer = self
        _push_mode(RECORDING)
        self._block = enter(frame, scan)
        return self

    def measure(self, index: int) -> tuple[bool, Any]:
        """What shapes alone tell of a node while the trace is written: ``(True, value)``, or ``(False, why that is not known)``."""
        try:
            return self._numbers.measure(index)
        except Failure as failure:
            return False, f"a line above would fail: {failure.error}"

    def glance(self, index: int) -> tuple[bool, Any]:
        """The same, where an equal input was scanned."""
        return self._numbers.known(index)

    @property
    def _numbers(self) -> Numbers:
        if self._known is None:
            self._known = Numbers(self._envoy, self._recorder, self._call, self._invokes, self._shared, self._function)
        return self._known

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> bool | None:
        if self._block is not None:
            return self._end_rewritten(error, traceback, sys._getframe(1))
        self._end(error, traceback, sys._getframe(1))
        return None

    def _end_rewritten(self, error: BaseException | None, traceback: TracebackType | None, frame: FrameType) -> bool:
        """The native body was skipped: run the one that was made of its source."""
        block, self._block = self._block, None
        assert block is not None
        try:
            if not block.skipped(error):
                self._end(error, traceback, frame)
                return False
            try:
                block.run(self, emitter_of(self._recorder))
            except BaseException as problem:
                self._end(problem, problem.__traceback__, frame)
                raise
            self._end(None, None, frame)
        except BaseException as problem:
            forget_skip(problem)
            raise
        return True

    def _end(self, error: BaseException | None, traceback: TracebackType | None, frame: FrameType) -> None:
        _pop_mode()
        recorder = self._recorder
        saved, refilled, poison = recorder.saved, recorder.refilled, recorder.poison
        recording = self._recording = recorder.finish()
        if error is not None:
            recorder.failure = f"its trace was given up ({type(error).__name__} in the block)"
            if isinstance(error, NNsightError):
                _end_at_users_line(traceback)
            return
        if poison is not None:
            recorder.failure = "its trace was refused"
            raise poison
        problem = self._run(recording, saved, frame)
        if refilled:
            _refill(refilled)
        if problem is not None:
            recorder.failure = f"its trace failed: {type(problem).__name__}"
            try:
                raise problem
            finally:
                del problem  # else the error and this frame hold each other

    def _checked(self, recording: Recording, call: Call, plan: Plan, frame: FrameType) -> BaseException | None:
        """The error that a rehearsal finds, where there is to be one."""
        wanted, envoy = self._validate, self._envoy
        if wanted is True or (wanted == "auto" and (not envoy.dispatched or envoy._scanned(call))):
            return check(envoy, recording, call, plan, frame, wanted is True)
        return None

    def _run(self, recording: Recording, saved: dict[int, Proxy], frame: FrameType) -> BaseException | None:
        call = self._call or self._envoy._joined(self._invokes, self._shared, self._function)
        asked = self._known.asked if self._known is not None else None
        self._call, self._invokes, self._known = None, [], None
        if asked and (problem := changed_numbers(self._envoy, recording, call, asked, frame)) is not None:
            return problem
        tree = self._envoy._tree
        plan = None
        try:
            plan = cached_plan(recording.key, recording.graph, call.steps if recording.open_ended else 1)
            if not tree.index.are_as_listed(plan.hooks):  # a module was put in another's place since
                tree.replace(tree.index.root)
        except NNsightError as refused:
            return _on_its_line(refused, plan, recording, frame)
        if (plan.fresh or self._validate is True) and (problem := self._checked(recording, call, plan, frame)) is not None:
            return problem
        plan.fresh = False
        function = self._envoy._callable(call.function)  # loads weights that are not there yet
        modules = tree.index
        constants = recording.constants if recording.edits_constants else modules.beside(recording.constants)
        run = prepare(plan, constants, modules, call.rows)
        caches, self._caches = self._caches, None
        if caches is not None:
            run.captures = caches.captures(run, modules)
        try:
            with progress(run, modules.root, None if call.steps == UNKNOWN else call.steps) if self._progress else nullcontext():
                execute(run, modules, function, call.args, call.kwargs)
        except BaseException as raised:
            self._recorder.failure = f"the model raised {type(raised).__name__} before it was reached"
            _settle(run, saved)
            run.slots.clear()  # the traceback holds the run
            note_changes(self._envoy, recording, call, raised)
            raise
        finally:
            if caches is not None:
                caches.fill(run.captures)
        if not _settle(run, saved):
            self._recorder.reasons = unset_reasons(run)
        problem = explain(run, recording, modules, frame) if run.error is not None else missed(run, recording, frame)
        run.slots.clear()
        return problem


def _refill(refilled: tuple[tuple[Any, Proxy], ...]) -> None:
    """The user's own containers get what the run has put into those that stood for them; a name below a loop, the last turn's."""
    for container, proxy in refilled:
        value = proxy._value
        if isinstance(container, Proxy):
            if container._value is UNSET:
                object.__setattr__(container, "_value", value)
        elif type(value) is type(container):
            container.clear()
            (container.extend if type(container) is list else container.update)(value)


def _end_at_users_line(traceback: TracebackType | None) -> None:
    """Take off the end of a traceback what lies below the user's own line."""
    last = None
    while traceback is not None:
        last = traceback if is_users(traceback.tb_frame.f_code) else last
        traceback = traceback.tb_next
    if last is not None:
        last.tb_next = None


def _on_its_line(refused: NNsightError, plan: Plan | None, recording: Recording, frame: FrameType) -> NNsightError:
    """An error that knows the node, or the module, it is about."""
    node = getattr(refused, "node", None)
    if plan is not None and hasattr(refused, "path"):
        before, after = plan.hooks[refused.path]
        node = plan.visits[next(iter((after or before).values()))].nodes[0]
    return refused if node is None else refused.with_traceback(traceback_at(recording.place(node), frame))


def _settle(run: Run, saved: dict[int, Proxy]) -> bool:
    """Give saved proxies their values, those that were reached; whether all were."""
    everything = True
    given, slots = run.plan.given, run.slots
    for node, slot, segment, visit in run.plan.saved:
        reached = (segment < 0 or run.waits[segment] == -1) and (visit < 0 or run.seen[visit]) and slot != run.lost
        taken = not given or node not in given or slots[given[node][0]] is given[node][1]
        if reached and taken and slots[slot] is not NEVER and slots[slot] is not UNBOUND:
            object.__setattr__(saved[node], "_value", slots[slot])
        else:
            everything = False
    return everything
