"""What was done to a model before its weights were there is done to the loaded one, too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

_OF_TORCH = torch.nn.Module().__dict__
_HOOKS = [name for name, table in _OF_TORCH.items() if isinstance(table, dict) and "_hooks" in name]
"""Names of the tables that hooks stand in."""


def carry_over(before: torch.nn.Module, loaded: torch.nn.Module, assigned: Iterable[tuple[str, str]]) -> None:
    """Carry over attributes, attached modules, hooks, ``train()`` and ``requires_grad_(False)``; not what the model has no more.

    Args:
        before: The model without its weights.
        loaded: The model with them.
        assigned: Attributes that were set by way of envoys: the path of the module, and the name. Others are carried over where the
            loaded module has none of that name.
    """
    there = dict(loaded.named_modules())
    for path, module in before.named_modules():
        owner, _, name = path.rpartition(".")
        if path in there:
            _carry_state(module, there[path])
        elif owner in there and not _is_empty(module):
            there[owner].add_module(name, module)
    modules, paths = dict(before.named_modules()), {module: path for path, module in before.named_modules()}
    for path, name in assigned:
        value = getattr(modules.get(path), name, None)
        if isinstance(value, torch.nn.Module) and paths.get(value) not in (None, f"{path}.{name}" if path else name):
            value = there.get(paths[value])  # a part of the model under another name
        if path in there and value is not None and not _is_empty(value):
            setattr(there[path], name, value)


def _carry_state(before: torch.nn.Module, loaded: torch.nn.Module) -> None:
    loaded.training = before.training
    for name, weight in before._parameters.items():
        other = loaded._parameters.get(name)
        if weight is not None and other is not None and not weight.requires_grad:
            other.requires_grad_(False)
    for name, value in before.__dict__.items():
        if name in _HOOKS and value and not loaded.__dict__.get(name):
            loaded.__dict__[name] = value  # the table itself: a handle takes its hook out of that
        elif name[:1] != "_" and name not in _OF_TORCH:
            loaded.__dict__.setdefault(name, value)


def _is_empty(value: Any) -> bool:
    """Whether its numbers are not there."""
    tensors = [*value.parameters(), *value.buffers()] if isinstance(value, torch.nn.Module) else [value]
    return any(isinstance(tensor, torch.Tensor) and tensor.is_meta for tensor in tensors)
