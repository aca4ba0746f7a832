"""The root envoy of any PyTorch model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..config import CONFIG
from ..errors import MisuseError, NNsightError, RecordError, RemoteError, ours
from ..graph import Site
from ..ops.ambient import modes
from ..ops.nested import tensors_in
from ..record import Recording
from ..record.opened import open_here
from ..record.settled import plain
from ..run.scan import PLAIN_FORWARD, Forward, Scan, scan, scan_changed, scanned, signature
from .arguments import check_names, spread
from .copies import viewed
from .declared import declare
from .editor import Editor
from .envoy import Envoy
from .invoker import UNKNOWN, Call, Invoke, concatenate
from .kinds import Kinds
from .layouts import in_rows
from .names import Rename, read_names, with_aliases
from .scanning import NOT_SCANNED, SiteTable, sites
from .scanning_tracer import ScanningTracer
from .session import Session, SessionTracer
from .tracer import Tracer
from .tree import Tree


class NNsight(Envoy):
    """Wraps any ``nn.Module``; several wrappers of one module do not disturb each other.

    Args:
        module: The model. It is not changed, neither now nor by a trace.
        envoys: Classes made from :class:`Envoy` that mirror modules in its place: one for all, or a dictionary by module class
            (``{torch.nn.Linear: MyEnvoy}``) or by the end of a path (``{"attn": MyEnvoy}``). May stand on a subclass, too.
        rename: Further names of modules, from a name or a path: ``{"self_attn": "attn", "transformer.h": "layers"}``. A value may
            be a list of names. The model's own names stay.
        alias: The same the other way round: ``{"layers": "transformer.h"}``.

    Raises:
        NNsightError: a key of ``envoys`` fits no module.
        ValueError: a key of ``rename`` matches no module, or a further name stands for something else already.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> net = torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.Linear(10, 2))
        >>> model = nnsight.NNsight(net)
        >>> with model.trace(torch.rand(1, 5)):
        ...     model[0].output[:, 0] = 0
        ...     hidden = model[0].output.save()
        >>> hidden.shape, hidden[0, 0].item()
        (torch.Size([1, 10]), 0.0)
    """

    envoys: Any = None
    tracer_class: type[Tracer] = Tracer
    _shares_named = True  # named arguments of a trace may belong to the call of its invokes

    def __init__(
        self, module: torch.nn.Module, *, envoys: Any = None, rename: Rename | None = None, alias: Mapping[str, str] | None = None
    ) -> None:
        if not isinstance(module, torch.nn.Module):
            raise ours(TypeError, f"NNsight wraps an nn.Module, not {type(module).__name__}")
        if type(module).__name__ == "OptimizedModule":
            raise NNsightError("this model was compiled by torch.compile, which ignores hooks. Wrap the model as it was before.")
        envoys = type(self).envoys if envoys is None else envoys
        super().__init__(module, Tree(module, None if envoys is None else Kinds(envoys, Envoy, module)))
        self._add_names(rename, alias)

    def _add_names(self, rename: Rename | None, alias: Mapping[str, str] | None) -> None:
        if rename is not None or alias:
            taken = [*dir(type(self)), *self.__dict__]
            read_names(self._tree.names, self._module, with_aliases(rename, alias), taken, dir(Envoy))

    _edits: tuple[Recording, ...] = ()

    def trace(
        self, *args: Any, trace: bool = True, remote: bool = False, fn: str = "", progress: bool = False,
        scan: bool | None = None, validate: bool | str | None = None, run: bool = True, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Open a block whose lines are recorded and take part in one call of the model when it ends.

        Args:
            *args: Arguments of the model's call.
            trace: ``False`` calls the model at once and returns its result.
            fn: The name of another method of the model that is to be called in its place. Where that runs the model several
                times, each forward is a step: ``tracer.iter[2]``, ``tracer.iter[:]``.
            progress: Whether to show a bar with one tick per forward.
            scan: Whether the forward is tried on fake tensors first, so that shapes are known while the block is written.
            validate: Whether the block is checked on fake tensors before the model runs: ``True``, ``False``, or ``"auto"``, which
                checks a program that was not seen before where the weights are not there yet or the input was scanned; by default
                what ``CONFIG.APP.VALIDATE`` says.
            run: ``False`` records the block only: ``tracer.graph`` is there, and its values are not. It needs no input.
            remote: Not available in this version.
            **kwargs: Named arguments of the model's call. ``forward_kwargs={...}`` hands on to it whatever the dictionary holds, where a
                name is refused, or is one of the library's own.

        Returns:
            A :class:`Tracer`, to be used in a ``with`` statement.

        Raises:
            RecordError: a named argument that neither this method nor the model takes.
            RemoteError: ``remote=True``.
        """
        kwargs = plain(kwargs) if kwargs else kwargs
        if remote:
            raise RemoteError("remote execution is not part of this version: leave remote=True out to run here")
        fn = "" if fn == "forward" else fn
        if kwargs:
            check_names(self, fn, kwargs, "generate" if fn == "generate" else "trace")
        here = open_here() if trace else None
        if here is not None and here.session is not None:
            if not run:
                raise RecordError("a trace in a session runs when the session does: model.session(run=False) records it only")
            return SessionTracer(self, here, args, kwargs, fn, True if scan and validate is None else validate)
        if fn and not callable(getattr(self._module, fn, None)):
            raise RecordError(self._unknown(fn))
        call = self._prepared(tuple([value if type(value) is torch.Tensor else plain(value) for value in args]), kwargs, fn)
        if trace:
            made = self.tracer_class(self, call, {} if call else kwargs, fn, progress)
            made._runs, made._named = run, kwargs if self._shares_named and not args else None
            if scan is not None or validate is not None or CONFIG.APP.SCAN:
                self._prepare_checks(made, call, CONFIG.APP.SCAN if scan is None else scan, validate)
            return made
        if call is None and any(True for _ in tensors_in(kwargs)):
            call = self._joined([], kwargs, fn)
        if call is None:
            raise MisuseError("the model needs an input: model.trace(x, trace=False)")
        if self._edits:
            with Tracer(self, call, {}, fn, progress) as tracer:
                result = tracer.result.save()
            return result.value
        function = self._callable(call.function)
        if call.before is not None:
            call.before()
        return self.interleave(function, *call.args, **call.kwargs)

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any], function: str = "") -> Call | None:
        """The call that a trace makes; ``None`` if its input comes from invokes."""
        kwargs = spread(self, function, kwargs) if kwargs else kwargs
        return Call(args, kwargs, (), function, UNKNOWN if function else 1) if args or kwargs else None

    def _invoked(self, args: tuple[Any, ...], kwargs: dict[str, Any], function: str = "", _shared: dict[str, Any] | None = None) -> Invoke:
        """The input of one invoke, in a trace with named arguments of its own."""
        return args, spread(self, function, kwargs) if kwargs else kwargs

    def _named_options(self, _function: str) -> frozenset[str]:
        """Named arguments that this class takes besides those of the model's method."""
        return frozenset()

    def _joined(self, invokes: list[Invoke], shared: dict[str, Any], function: str = "") -> Call:
        """One call for all invokes of a trace."""
        if not invokes:
            raise MisuseError("a trace needs an input: model.trace(x), or tracer.invoke(x) inside it")
        call = in_rows(self._module, concatenate(invokes, spread(self, function, shared) if shared else shared))
        return call._replace(function=function, steps=UNKNOWN) if function else call

    def _callable(self, function: str = "") -> Callable[..., Any]:
        """What a trace calls: the model, or a method of it."""
        called: Callable[..., Any] = getattr(self._module, function) if function else self._module
        return called

    @property
    def _returns_result(self) -> bool:
        """Whether what the model returns is the result, as it is."""
        return type(self).interleave is NNsight.interleave

    def interleave(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the model in a run; a subclass may do more around the call, such as :meth:`eproperty.provide`.

        Args:
            function: The model, or the method of it that is traced.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Returns:
            The result of the call, which is ``tracer.result``.
        """
        return function(*args, **kwargs)

    # ------------------------------------------------------------------ edits

    def edit(self, *, inplace: bool = False) -> Editor:
        """Open a block whose lines take part in every run from then on: of a new view of the model, or of this one.

        The view has the same modules and weights; the model itself stays as it is. The block may name the modules by either. Edits of
        an edited model come below those that it has.

        Args:
            inplace: Whether this very model is edited; :meth:`clear_edits` takes that back.

        Returns:
            An :class:`Editor`, to be used in a ``with`` statement.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Linear(2, 2))
            >>> with model.edit() as edited:
            ...     model.output = model.output * 0
            >>> with edited.trace(torch.ones(1, 2)):
            ...     out = model.output.save()
            >>> out.abs().tolist()
            [[0.0, 0.0]]
        """
        return Editor(self, self if inplace else viewed(self))

    def declare_rows(self, path: str, rows: Any) -> None:
        """Say which dimension of what a module takes and returns holds the rows of a batch; ``model.path.rows = rows`` does the same.

        It is needed where the model cannot tell: two scans of it, with n and with n + 1 rows, show most of the time. Where a module
        passes several tensors, it speaks for those of which scans do not tell.

        Args:
            path: The module, as in ``"transformer.h.3.mlp.gate"``, or an operation, ``"attn.source.split_0"``.
            rows: A dimension; ``None`` for what does not depend on the inputs; ``(dim, "tokens")`` where each row has several entries
                in that dimension, one after the other.

        Raises:
            NNsightError: there is no such module, or ``rows`` is none of these.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Flatten(0, 1), torch.nn.Linear(3, 2)))
            >>> model.declare_rows("1", (0, "tokens"))
            >>> with model.trace() as tracer:
            ...     with tracer.invoke(torch.zeros(1, 4, 3)):
            ...         four = model[1].output.save()
            ...     with tracer.invoke(torch.ones(2, 4, 3)):
            ...         eight = model[1].output.save()
            >>> four.shape, eight.shape
            (torch.Size([4, 2]), torch.Size([8, 2]))
        """
        try:
            found = self.get(path)
        except AttributeError as error:
            raise NNsightError(str(error)) from None
        if not isinstance(found, Envoy):
            raise NNsightError(f"{path} is neither a module of the model nor an operation inside one")
        declare(self._tree, found._output.path, rows)

    def clear_edits(self) -> None:
        """Take back all edits of this model."""
        self.__dict__["_edits"] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, edits and all: on traced values as part of the trace, else directly."""
        recording = open_here() is not None
        if kwargs and not recording:
            check_names(self, "", kwargs, "the call")
        if recording or not self._edits:
            return super().__call__(*args, **kwargs)
        with self.trace(*args, **kwargs) as tracer:
            result = tracer.result.save()
        return result.value

    # ------------------------------------------------------------------ sessions

    def session(
        self, *, batch: bool = False, progress: bool = False, remote: bool = False, run: bool = True,
        scan: bool | None = None, validate: bool | str | None = None,
    ) -> Session:  # fmt: skip
        """Open a block of several traces, of this model or of others, which run one after the other when it ends.

        Values flow from one trace to the next without being saved; lines between traces, loops and branches are part of it.

        Args:
            batch: Whether traces that follow each other on one model, and use nothing of each other, are run as one batch.
            progress: Whether to show a bar with one tick per trace.
            remote: Not available in this version.
            run: Whether to run it. With ``False`` it is recorded only, for :attr:`Session.graph`.
            scan: As for :meth:`trace`, for each trace in it that says neither.
            validate: The same, for each trace that does not say it itself.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Linear(2, 2))
            >>> with model.session():
            ...     with model.trace(torch.ones(1, 2)):
            ...         first = model.output
            ...     with model.trace(first):
            ...         second = model.output.save()
            >>> second.shape
            torch.Size([1, 2])
        """
        if remote:
            raise RemoteError("remote execution is not part of this version: leave remote=True out to run here")
        return Session(self, batch, progress, run, True if scan and validate is None else validate)

    def scan(self, *args: Any, **kwargs: Any) -> ScanningTracer:
        """Open a block that is evaluated on fake tensors: shapes and dtypes come out, the model does not run.

        Args:
            *args: Arguments of the model's call, as for :meth:`trace`.
            **kwargs: Named arguments of the model's call.

        Returns:
            A :class:`ScanningTracer`, to be used in a ``with`` statement.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.Linear(10, 2)))
            >>> with model.scan(torch.rand(1, 5)):
            ...     width = model[0].output.shape[-1]
            >>> width
            10
        """
        kwargs = plain(kwargs)
        check_names(self, "", kwargs, "scan")
        call = self._prepared(tuple([value if type(value) is torch.Tensor else plain(value) for value in args]), kwargs)
        return ScanningTracer(self, call, {} if call else kwargs)

    def sites(self, pattern: str = "*", *args: Any, **kwargs: Any) -> SiteTable:
        """What can be read where: the inputs and outputs of modules, in the order of the forward, with shapes.

        Args:
            pattern: Which modules, by path: ``"*.mlp"``, ``"transformer.h.3.*"``.
            *args: An input, for which the model is scanned; without one, what the last scan found is shown.
            **kwargs: Named arguments of the model's call.

        Returns:
            A table that prints itself.

        Example:
            >>> import torch, nnsight_graph as nnsight
            >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.ReLU()))
            >>> model.sites("*.0", torch.rand(1, 5))
            model.0.input   float32[1, 5] on cpu
            model.0.output  float32[1, 10] on cpu
        """
        if args or kwargs:
            check_names(self, "", kwargs, "sites")
            call = self._prepared(plain(args), plain(kwargs))
            if call is not None:
                self._scan(call)
        return sites(self, self._tree.scan or NOT_SCANNED, pattern)

    def _prepare_checks(self, tracer: Tracer, call: Call | None, scan: bool, validate: bool | str | None) -> None:
        if validate not in (None, True, False, "auto"):
            raise RecordError(f"validate is True, False or 'auto', not {validate!r}")
        if validate is not None:
            tracer._validate = validate
        if scan and call is not None:
            self._scan(call)

    def _scan(self, call: Call, step: int = 0, changes: Mapping[Site, Any] | None = None) -> Scan | None:
        """What one forward of a call would deliver; ``None`` where that cannot be scanned."""
        forward = self._forward(call, step)
        if forward is None:
            return None
        args, kwargs, how = forward
        with modes(call.modes):
            if changes:
                return scan_changed(self._module, args, kwargs, how, changes)
            found = scan(self._module, args, kwargs, how)
        if not step:
            self._tree.scan = found
        return found

    def _scanned(self, call: Call) -> bool:
        """Whether an equal call was scanned."""
        forward = self._forward(call, 0)
        with modes(call.modes):
            return forward is not None and scanned(self._module, *forward) is not None

    def _scan_key(self, call: Call) -> Any:
        """What a scan of a call depends on; ``None`` where that cannot be told."""
        forward = self._forward(call, 0)
        with modes(call.modes):
            return None if forward is None else (id(self._module), signature(self._module, *forward))

    def _forward(self, call: Call, step: int) -> tuple[tuple[Any, ...], dict[str, Any], Forward] | None:
        """How a step of a call is scanned: arguments, named ones, and what the model needs besides."""
        return None if call.function or step else (call.args, call.kwargs, PLAIN_FORWARD)

    _tokens: frozenset[str] = frozenset()
    """Named arguments whose second dimension is the length of rows, which may be any."""

    def _row_arguments(self, call: Call) -> Mapping[str, Any]:
        """The named arguments that what passes in a forward depends on."""
        return call.kwargs

    def _row_forwards(self, call: Call, _repeats: bool) -> list[tuple[tuple[Any, ...], dict[str, Any], Forward]]:
        """The forwards that are scanned to learn where rows lie: that of the first step, and of a later one."""
        forward = self._forward(call, 0)
        return [] if forward is None else [forward]

    def _lengthened(self, _call: Call) -> Call | None:
        """A call with rows of another length, as further inputs may make them; ``None`` where they do not."""
        return None

    @property
    def dispatched(self) -> bool:
        """Whether the weights are there."""
        return True
