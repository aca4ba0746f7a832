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
UNKNOWN: Any = object()
"""What a level gave, where nobody keeps it."""


class _Heard:
    """What listens to one tensor in one backward: the visits, and the path from the tensor to each value.

    A tensor of which other rows were edited since is known by the function of autograd that made it.
    """

    __slots__ = ("handle", "hook", "tensor", "visits")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor
        self.visits: dict[int, list[tuple[int, list[Level]]]] = {}  # by where the value came from
        self.hook: Any = None
        self.handle: Any = None

    def remove(self) -> None:
        """Take the hook away, if it is there."""
        if self.handle is not None:
            self.handle.remove()
        hooks: dict[int, Any] = getattr(self.tensor, "_backward_hooks", None) or {}
        for key in [key for key, hook in hooks.items() if hook is self.hook]:
            del hooks[key]
        self.tensor = self.hook = self.handle = None  # the hook holds this: both would live until Python looks for cycles


class Gradients:
    """What one run listens to. The hooks hold the run: autograd's threads do not know which one it is.

    Args:
        run: The run.
    """

    def __init__(self, run: Any) -> None:
        self._run = run
        self._open: dict[int, dict[tuple[int, int], _Heard]] = {}
        self._running = -1

    def listen(self, index: int, ordinal: int, source: int, value: Any, levels: list[tuple[Level, Any]]) -> None:
        """From here on the gradient of a value passes at visit ``index`` when backward ``ordinal`` runs.

        Args:
            index: The visit.
            ordinal: The backward.
            source: Where the value was made.
            value: What the value is a view of, or holds it.
            levels: Function, further arguments and named ones of each step from there to the value; and what that step gave.
        """
        value, path = _heard_at(value, levels)
        if not isinstance(value, torch.Tensor):
            raise NNsightError(f"a {type(value).__name__} has no gradient: .grad belongs to a tensor")
        made: Any = None
        piece, whole, rows = self._run.pieces.get(id(value), (None, None, None))
        if piece is value and whole is not None and not value._version and value.grad_fn is not None:
            value, version, made = whole  # nobody has edited the copy: the model goes on with the batch
            path, made = [(rows_of, (rows,), {}), *path], None if value._version == version else made
        if not value.requires_grad:
            raise NNsightError(_why_not(value, any(isinstance(made, torch.Tensor) and made.requires_grad for _, made in levels)))
        tensors = self._open.setdefault(ordinal, {})
        key = (id(value), value._version) if made is None else (id(made), -1)  # after an edit in place it is another value
        heard = tensors.get(key)
        _ = value.grad_fn  # torch makes that of a view anew after an edit in place; hooks before (torch 2.13) end the process
        if heard is None:
            heard = tensors[key] = _Heard(value if made is None else made[0])
            heard.hook = self._hook(heard, ordinal)
            if made is None:
                value.register_hook(heard.hook)
            else:
                heard.handle = made[0].register_prehook(_at_output(made[1], heard.hook))
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


def _at_output(place: int, hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook for one of the results of a function of autograd."""

    def before(gradients: tuple[Any, ...]) -> tuple[Any, ...] | None:
        passing = None if gradients[place] is None else hook(gradients[place])
        return None if passing is None else (*gradients[:place], passing, *gradients[place + 1 :])

    return before


def _heard_at(value: Any, levels: list[tuple[Level, Any]]) -> tuple[Any, list[Level]]:
    """The tensor that autograd knows, on the way from ``value`` over what each level gave; and the levels from there on."""
    rows: list[Level] = []
    made, place = value, 0
    while place < len(levels) and (not isinstance(value, torch.Tensor) or (levels[place][0][0] is rows_of and not rows)):
        level, made = levels[place]
        function, others, named = level
        if function is not rows_of:
            value = function(value, *others, **named) if rows or made is UNKNOWN else made
        elif isinstance(value, torch.Tensor):
            rows.append(level)
        else:  # rows of a tuple are new views: those of what is in it, of its gradient, are the same
            layout = _layout_of(others[0].layout, value, [later for later, _ in levels[place + 1 :]])
            rows.append((function, (others[0]._replace(layout=layout),), named))
        place += 1
    if rows and not shares(made, value):  # something else was put there
        return made, [level for level, _ in levels[place:]]
    return value, rows + [level for level, _ in levels[place:]]


def _remove(listening: dict[tuple[int, int], _Heard]) -> None:
    for heard in listening.values():
        heard.remove()


def _why_not(value: torch.Tensor, begun: bool) -> str:
    if value.is_inference():
        return "there is no gradient of a tensor of inference mode: trace outside torch.inference_mode()"
    if not torch.is_grad_enabled():
        return "there is no gradient under torch.no_grad(): trace outside it (generate runs without gradients, too)"
    if begun:
        return (
            "this value does not require a gradient: other lines see all rows of it, and then those of one invoke alone cannot start a "
            "graph. Write value.requires_grad_() outside of the invokes, or in one without an input"
        )
    return (
        "this value does not require a gradient: none of the parameters before it does. Write value.requires_grad_() above .grad, for the "
        "whole of what a module returns: model.fc.output.requires_grad_(), not for a part of it, such as model.fc.output[0]"
    )
