"""The root envoy of any PyTorch model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import NNsightError, RecordError, RemoteError
from ..record.settled import plain
from .envoy import Envoy
from .invoker import UNKNOWN, Call, Invoke, concatenate
from .tracer import Tracer


class NNsight(Envoy):
    """Wraps any ``nn.Module``; several wrappers of one module do not disturb each other.

    Args:
        module: The model. It is not changed, neither now nor by a trace.

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

    def __init__(self, module: torch.nn.Module) -> None:
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"NNsight wraps an nn.Module, not {type(module).__name__}")
        if type(module).__name__ == "OptimizedModule":
            raise NNsightError("this model was compiled by torch.compile, which ignores hooks. Wrap the model as it was before.")
        super().__init__(module)

    def trace(self, *args: Any, trace: bool = True, remote: bool = False, fn: str = "", progress: bool = False, **kwargs: Any) -> Any:
        """Open a block whose lines are recorded and take part in one call of the model when it ends.

        Args:
            *args: Arguments of the model's call.
            trace: ``False`` calls the model at once and returns its result.
            fn: The name of another method of the model that is to be called in its place. Where that runs the model several
                times, each forward is a step: ``tracer.iter[2]``, ``tracer.iter[:]``.
            progress: Whether to show a bar with one tick per forward.
            remote: Not available in this version.
            **kwargs: Named arguments of the model's call.

        Returns:
            A :class:`Tracer`, to be used in a ``with`` statement.

        Raises:
            RemoteError: ``remote=True``.
        """
        if kwargs:
            kwargs = _without_flags(plain(kwargs))
        if remote:
            raise RemoteError("remote execution is not part of this version: leave remote=True out to run here")
        fn = "" if fn == "forward" else fn
        if fn and not callable(getattr(self._module, fn, None)):
            raise RecordError(self._unknown(fn))
        call = self._prepared(tuple([value if type(value) is torch.Tensor else plain(value) for value in args]), kwargs, fn)
        if trace:
            return Tracer(self, call, {} if call else kwargs, fn, progress)
        if call is None:
            raise RecordError("the model needs an input: model.trace(x, trace=False)")
        return self._callable(call.function)(*call.args, **call.kwargs)

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any], function: str = "") -> Call | None:
        """The call that a trace makes; ``None`` if its input comes from invokes."""
        return Call(args, kwargs, (), function, UNKNOWN if function else 1) if args or kwargs else None

    def _invoked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Invoke:
        """The input of one invoke."""
        return args, kwargs

    def _joined(self, invokes: list[Invoke], shared: dict[str, Any], function: str = "") -> Call:
        """One call for all invokes of a trace."""
        if not invokes:
            raise RecordError("a trace needs an input: model.trace(x), or tracer.invoke(x) inside it")
        call = concatenate(invokes, shared)
        return call._replace(function=function, steps=UNKNOWN) if function else call

    def _callable(self, function: str = "") -> Callable[..., Any]:
        """What a trace calls: the model, or a method of it."""
        called: Callable[..., Any] = getattr(self._module, function) if function else self._module
        return called


def _without_flags(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The model's own arguments: flags of a trace never reach it."""
    for flag in ("scan", "validate"):
        if kwargs.pop(flag, False):
            raise RecordError(f"{flag}=True is not part of this version: leave it out")
    return kwargs
