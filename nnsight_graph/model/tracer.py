"""The block of a trace: recorded when it is entered, run when it is left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from ..config import CONFIG
from ..errors import MisuseError, RecordError, add_note, ours
from ..graph import Site
from ..ops.data import released, trusted_program, untrusted
from ..record import Proxy, Recorder, Recording
from ..record.included import include
from ..record.recorder import holds_proxy
from ..record.settled import plain
from ..record.steps import Steps
from ..run.site_values import Failure
from .arguments import check_names
from .block import RecordedBlock
from .cache import Cache, Caches
from .entries import CacheDict
from .handle import GraphHandle, OpenGraph
from .invoker import Call, Invoke, Invoker
from .rehearsing import Numbers, changed_numbers
from .running import run_trace

if TYPE_CHECKING:
    from .envoy import Envoy
    from .nnsight import NNsight

_RESULT = Site("", "result")


class Tracer(RecordedBlock):
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
        "_caches", "_call", "_envoy", "_function", "_invokes", "_known", "_named", "_progress", "_runs", "_shapes", "_shared", "_validate",
    )  # fmt: skip

    _observes = True
    _again = "this trace has run already; open a new one with model.trace(...)"

    def __init__(self, envoy: NNsight, call: Call | None, shared: dict[str, Any], function: str = "", progress: bool = False) -> None:
        super().__init__(Recorder(envoy._tree))
        self._envoy = envoy
        self._call = call
        self._shared = shared
        self._invokes: list[Invoke] = []
        self._function = function
        self._progress = progress
        self._known: Numbers | None = None
        self._shapes: Call | None = None
        self._validate: bool | str = CONFIG.APP.VALIDATE
        self._caches: Caches | None = None
        self._runs = True
        self._named: dict[str, Any] | None = None
        if function:
            self._recorder.generating = True

    # ------------------------------------------------------------------ in the block

    @property
    def result(self) -> Any:
        """What the traced call returns.

        Raises:
            RecordError: the block has ended.
        """
        if not self._is_open:
            raise MisuseError("tracer.result is there only in its block: result = tracer.result.save()")
        return self._recorder.read(_RESULT, self._envoy._tree, 3)

    def invoke(self, *args: Any, scan: bool | None = None, validate: bool | str | None = None, **kwargs: Any) -> Invoker:
        """Add an input to the batch that this trace runs as one forward.

        Args:
            *args: The input, as :meth:`trace <nnsight_graph.NNsight.trace>` takes it; it may have several rows.
                Without an input the block sees the rows of all inputs before it.
            scan: As for :meth:`trace <nnsight_graph.NNsight.trace>`, for the whole batch.
            validate: The same.
            **kwargs: Named arguments of the model's call for this input; of a language model, options for its tokenizer, too.

        Returns:
            A block in which values are this input's rows.

        Raises:
            RecordError: the trace has an input of its own, nothing can be made of this one, or nothing takes an argument.
        """
        self._inside("invoke(...)")
        self._share_named()
        self._validate = (True if scan else self._validate) if validate is None else validate
        if not args and not kwargs:
            return Invoker(self._recorder, self._invokes, None)
        args, kwargs = plain(args), plain(kwargs)
        check_names(self._envoy, self._function, kwargs, "invoke")
        if holds_proxy((args, kwargs), Proxy):
            raise RecordError("an input has to be there when the trace is written; this one comes while it runs: make it above")
        joined = partial(self._envoy._joined, shared=self._shared, function=self._function)
        return Invoker(self._recorder, self._invokes, self._envoy._invoked(args, kwargs, self._function, self._shared), joined)

    def _share_named(self) -> None:
        """With invokes, the arguments that the trace was given by name belong to the call of all of them."""
        if self._call is not None:
            if self._named is None:
                raise MisuseError("this trace has an input: invokes belong to a trace without one, model.trace()")
            self._call, self._shared, self._known = None, self._named, None

    def barrier(self, _count: int) -> Callable[[], None]:
        """Nothing has to wait here, since values flow between invokes by themselves; kept for code that calls it."""
        return lambda: None

    def all(self) -> Steps:
        """All steps: the same as ``tracer.iter[:]``."""
        return self.iter[:]

    def stop(self) -> None:
        """End this invoke, or the trace, as soon as everything above has its value; the forward ends when all invokes have.

        What hangs on modules that the model has not reached by then stays unset, with that reason.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2)))
            >>> with model.trace(torch.ones(1, 2)) as tracer:
            ...     hidden = model[0].output.save()
            ...     tracer.stop()
            >>> hidden.shape
            torch.Size([1, 3])
        """
        self._inside("stop()").put(("stop",), sys._getframe(1))

    def parameter(self, name: str, value: Any) -> Any:
        """A constant with a name: a graph that is run again may be given another value for it.

        Args:
            name: Its name.
            value: A number, a string or a tensor. A name that was used before stands for the same constant.

        Returns:
            The value, traced.

        Raises:
            RecordError: it is none of these, or the name has another value already.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Identity())
            >>> with model.trace(torch.ones(2)) as tracer:
            ...     scaled = (model.output * tracer.parameter("alpha", 0.5)).save()
            >>> tracer.graph.run(model, torch.ones(2), parameters={"alpha": 3.0})["scaled"]
            tensor([3., 3.])
        """
        return self._inside("parameter(...)").named(name, plain(value))

    def next(self, count: int = 1) -> Tracer:
        """From here on lines stand ``count`` steps further.

        Raises:
            RecordError: in or after a loop over an open range of steps.
        """
        recorder = self._inside("next()")
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
        non_blocking: bool = False,
        to: str | Path | CacheDict | None = None,
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
            non_blocking: Accepted; what is kept is complete when you read it, either way.
            to: An empty folder: values are written there as they come, in safetensors files, and read when they are asked for.
                Or a cache that was written to a folder: values are appended there, and it is the cache that is returned.

        Returns:
            A :class:`CacheDict`, filled when the block has ended.

        Raises:
            RecordError: an unknown module; a folder that is not empty, or has another writer; in a branch, or in a loop that is
                recorded once.

        Example:
            >>> from nnsight_graph import LanguageModel
            >>> model = LanguageModel("nnsight-graph/capitals")
            >>> with model.trace("The Eiffel Tower is in the city of") as tracer:
            ...     cache = tracer.cache(modules=["*.mlp", model.lm_head])
            >>> cache.model.transformer.h[0].mlp.output.shape
            torch.Size([1, 11, 96])
        """
        if self._inside("cache(...)").regions:
            raise RecordError("a cache keeps what passes in the whole run: write tracer.cache(...) outside branches and loops")
        made = Cache(modules, device, dtype, detach, include_output, include_inputs, rename, alias)
        made.copy, made.lists = copy, bool(self._recorder.generating)
        if self._caches is None:
            self._caches = Caches(self._recorder, self._envoy._tree)
        return self._caches.add(made, to, sys._getframe(1))

    @property
    def graph(self) -> GraphHandle:
        """What was recorded: print it to read the program; in the block, what was recorded so far."""
        if self._recording is None:
            return OpenGraph(self)
        return GraphHandle(self._recording, self._envoy, self._shapes, function=self._function)

    def __getattr__(self, name: str) -> Any:
        if name[:1] != "_":
            raise ours(
                AttributeError,
                f"a tracer has no {name!r}: the model runs when a with block ends, and what is saved in it stays. "
                "with model.trace(prompt) as tracer: out = tracer.result.save()",
            )
        raise AttributeError(name)

    # ------------------------------------------------------------------ the block

    def measure(self, index: int) -> tuple[bool, Any]:
        """What shapes alone tell of a node while the trace is written: ``(True, value)``, or ``(False, why that is not known)``."""
        try:
            with trusted_program(not self._recorder.foreign, self._recorder.strange):
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

    if TYPE_CHECKING:

        def __enter__(self) -> Tracer: ...

    def _begun(self) -> None:
        """The edits of the model stand above the block."""
        for edit in self._envoy._edits:
            include(self._recorder, edit)

    def _run(self, recording: Recording, saved: dict[int, Proxy], frame: FrameType) -> BaseException | None:
        if not self._runs:
            self._recorder.failure = "the trace was recorded only, run=False"
            self._call, self._invokes, self._known, self._caches = None, [], None, None
            return None
        call = self._call or self._envoy._joined(self._invokes, self._shared, self._function)
        asked = self._known.asked if self._known is not None else None
        caches = self._caches
        self._call, self._invokes, self._known, self._caches = None, [], None, None
        recording.outside = self._envoy._tree.index.root, call.args, call.kwargs
        if asked and (problem := changed_numbers(self._envoy, recording, call, asked, frame)) is not None:
            return problem
        give = partial(_give, saved)
        try:
            problem, self._recorder.reasons = run_trace(
                self._envoy, recording, call, frame, give, validate=self._validate, shown=self._progress, caches=caches
            )
        except BaseException as raised:
            self._recorder.failure = f"the model raised {type(raised).__name__} before it was reached"
            if isinstance(raised, Exception) and call.before is None and any(isinstance(given, str) for given in call.args):
                add_note(raised, "This model was given text; LanguageModel(name or model, tokenizer=...) has a tokenizer")
            raise
        return problem


def _give(saved: dict[int, Proxy], node: int, value: Any) -> None:
    object.__setattr__(saved[node], "_value", value if untrusted() is None else released(value))


InterleavingTracer = Tracer  # the name that nnsight has for it
