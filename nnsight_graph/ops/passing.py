"""The hidden states in what a module returns, which is a tensor or a tuple: which of the two is known when it runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..errors import ours
from .layout import UnknownRows
from .nested import replaced


def hidden_states(output: Any) -> Any:
    """The tensor itself, or the first item of a tuple, a list, a dict or a model's output.

    >>> hidden_states((torch.ones(2), None))
    tensor([1., 1.])
    """
    if isinstance(output, torch.Tensor):
        return output
    found = _first(output)
    if type(found) is UnknownRows:
        raise found.error
    if not isinstance(found, torch.Tensor):
        raise ours(TypeError, f"this module returns {_described(output)}: it has no .hidden_states. Use its .output")
    return found


def with_hidden_states(output: Any, value: Any) -> Any:
    """The output with other hidden states; what else is in it stays.

    >>> with_hidden_states((torch.ones(1), None), torch.zeros(1))
    (tensor([0.]), None)
    """
    if not isinstance(value, torch.Tensor):
        raise ours(TypeError, f".hidden_states takes a tensor, not {_described(value)}")
    if isinstance(output, torch.Tensor):
        return value
    hidden_states(output)  # raises where there are none
    if isinstance(output, tuple):
        return replaced(output, 0, value)
    if isinstance(output, list):
        return [value, *output[1:]]
    return _updated(output, value)


def as_tuple(output: Any) -> Any:
    """A tensor as a tuple of one; anything else as it is.

    >>> as_tuple(torch.ones(1)), as_tuple((1, 2))
    ((tensor([1.]),), (1, 2))
    """
    return (output,) if isinstance(output, torch.Tensor) else output


def as_passed(output: Any, value: Any) -> Any:
    """What a module passes on if ``value`` was assigned to its output as :func:`as_tuple` shows it.

    >>> as_passed(torch.ones(1), (torch.zeros(1),)), as_passed((1, 2), (3, 4))
    (tensor([0.]), (3, 4))
    """
    if not isinstance(output, torch.Tensor) or isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (tuple, list)) and len(value) == 1 and isinstance(value[0], torch.Tensor):
        return value[0]
    raise ours(TypeError, f"this module returns a tensor: its output takes (tensor,), not {_described(value)}")


def _first(output: Any) -> Any:
    if isinstance(output, (tuple, list)):
        return output[0] if output else None
    if isinstance(output, dict):
        return next(iter(output.values()), None)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return getattr(output, dataclasses.fields(output)[0].name)
    return None


def _updated(output: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        first = next(iter(output)) if isinstance(output, dict) else dataclasses.fields(output)[0].name
        return dataclasses.replace(output, **{first: value})
    return type(output)({**output, next(iter(output)): value})


def _described(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(item).__name__ for item in value) or 'nothing'}"
    return f"a {type(value).__name__}"
