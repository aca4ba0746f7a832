"""Gradients in a run: hooks on tensors bring them to their visits while a backward goes on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch

from ..errors import NNsightError
from ..ops.layout import Layout, leaves_beside
from ..ops.nested import shares
from ..ops.rows import rows_of

Level = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class _Heard:
    """What listens to one tensor in one backward: the visits, and the path from the tensor to each value."""

    __slots__ = ("hook", "tensor", "version", "visits")

    def __init__(self, tensor: torch.Tensor, version: int) -> None:
        self.tensor, self.version = tensor, version
        self.visits: dict[int, list[tuple[int, list[Level]]]] = {}  # by where the value came from
        self.hook: Any = None

    def remove(self) -> None:
        """Take the hook away, if it is there."""
        hooks: dict[int, Any] = self.tensor._backward_hooks or {}
        for key in [key for key, hook in hooks.items() if hook is self.hook]:
            del hooks[key]


class Gradients:
    """What one run listens to. The hooks hold the run: autograd's threads do not know which one it is.

    Args:
        run: The run.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._open: dict[int, dict[int, _Heard]] = {}
        self._running = -1

    def listen(self, index: int, ordinal: int, source: int, value: Any, levels: list[Level]) -> None:
        """From here on the gradient of a value passes at visit ``index`` when backward ``ordinal`` runs.

        Args:
            index: The visit.
            ordinal: The backward.
            source: The slot that the value lies in.
            value: What the value is a view of, or holds it.
            levels: Function, further arguments and named ones of each step from there to the value.
        """
        path, rows = list(levels), list(levels[:0])
        while path and not isinstance(value, torch.Tensor):
            function, others, named = path.pop(0)
            if function is rows_of:  # rows of a tuple are new views: those of what is in it, of its gradient, are the same
                mine, container = others[0], value
                rows = [(function, (mine._replace(layout=_layout_of(mine.layout, container, path)),), named)]
            else:
                value = function(value, *others, **named)
        path = rows + path
        if not isinstance(value, torch.Tensor):
            raise NNsightError(f"a {type(value).__name__} has no gradient: .grad belongs to a tensor")
        if not value.requires_grad:
            raise NNsightError(_why_not(value))
        tensors = self._open.setdefault(ordinal, {})
        heard = tensors.get(id(value))
        version = value._version
        _ = value.grad_fn  # torch makes that of a view anew after an edit in place; hooks before (torch 2.13) end the process
        if heard is None or heard.version != version:  # after an edit in place it is another value
            key = id(value) if heard is None else -len(tensors)
            heard = tensors[key] = _Heard(value, version)
            heard.hook = self._hook(heard, ordinal)
            value.register_hook(heard.hook)
        heard.visits.setdefault(source, []).append((index, path))

    def _hook(self, heard: _Heard, ordinal: int) -> Callable[..., Any]:
        def hook(gradient: torch.Tensor) -> torch.Tensor | None:
            if self._running != ordinal:
                return None
            passing = gradient
            for index, path in chain.from_iterable(reversed(heard.visits.values())):  # what the forward reached last comes first
                if not self._run.seen[index]:
                    passing = self._pass(index, path, passing)
            return None if passing is gradient else passing

        return hook

    def _pass(self, index: int, path: list[Level], gradient: torch.Tensor) -> torch.Tensor:
        """Bring a gradient to a visit; what flows on from there."""
        changes = index in self._run.plan.edited or self._run.plan.visits[index].changes
        passing = gradient.clone() if changes else gradient
        piece = passing
        for function, others, named in path:
            piece = function(piece, *others, **named)
        if changes and path and not shares(piece, passing):
            raise NNsightError("this is a copy, whose gradient cannot be changed: change that of the value it was made of")
        result = self._run.arrive(index, piece)
        if not changes or result is None or result is piece:
            return passing
        if not path:
            return torch.as_tensor(result)
        piece.copy_(result)
        return passing

    def backward(self, ordinal: int, loss: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Run a backward; every gradient that was named has to come."""
        before, listening = self._running, self._open.get(ordinal, {})
        try:
            self._running = ordinal
            if type(loss) in (tuple, list):
                torch.autograd.backward(loss, *args, **kwargs)
            else:
                loss.backward(*args, **kwargs)
        finally:
            self._running = before
            _remove(listening)
            self._open.pop(ordinal, None)
        for heard in listening.values():
            for index, _ in chain.from_iterable(heard.visits.values()):
                if not self._run.seen[index]:
                    self._run.failed = ("gradient", index)
                    raise NNsightError("gradient")

    def forget(self) -> None:
        """Take away the hooks of backwards that did not run."""
        for listening in list(self._open.values()):
            _remove(listening)
        self._open = {}


def _layout_of(layout: Layout, container: Any, path: list[Level]) -> Layout:
    """The layout of the tensor of a container that a path leads to."""
    value = container
    for function, others, named in path:
        if isinstance(value, torch.Tensor):
            break
        value = function(value, *others, **named)
    answers = (answer for tensor, answer, _ in leaves_beside(container, layout.answers, layout.otherwise) if tensor is value)
    return layout.of(next(answers, layout.otherwise))


def _remove(listening: dict[int, _Heard]) -> None:
    for heard in listening.values():
        heard.remove()


def _why_not(value: torch.Tensor) -> str:
    if value.is_inference():
        return "there is no gradient of a tensor of inference mode: trace outside torch.inference_mode()"
    if not torch.is_grad_enabled():
        return "there is no gradient under torch.no_grad(): trace outside it (generate runs without gradients, too)"
    return (
        "this value does not require a gradient: none of the parameters before it does. Write value.requires_grad_() above .grad, for the "
        "whole of what a module returns: model.fc.output.requires_grad_(), not for a part of it, such as model.fc.output[0]"
    )
