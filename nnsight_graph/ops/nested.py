"""Tensors inside tuples, lists, dicts, dataclasses and model outputs; and the storage they lie on."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in ``value``, containers opened."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name, None))


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """``value`` with ``change`` applied to every tensor in it; what holds no changed tensor stays the same object."""
    if isinstance(value, torch.Tensor):
        return change(value)
    return mapped_items(value, lambda _key, item: map_tensors(item, change))


def mapped_items(value: Any, change: Callable[[Any, Any], Any]) -> Any:
    """A container with ``change(key, item)`` in place of its items; the same object if none has changed, or if it is no container."""
    if isinstance(value, dict):
        changed = {key: new for key, old in value.items() if (new := change(key, old)) is not old}
        return _updated(value, changed) if changed else value
    if isinstance(value, (tuple, list)):
        items = [change(place, item) for place, item in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _mapped_fields(value, change)
    return value


def _updated(value: dict[Any, Any], changed: dict[Any, Any]) -> Any:
    fresh = copy.copy(value)
    for key, item in changed.items():
        fresh[key] = item
    return fresh


def _mapped_fields(value: Any, change: Callable[[Any, Any], Any]) -> Any:
    names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    changed = {name: new for name in names if (new := change(name, old := getattr(value, name))) is not old}
    if not changed:
        return value
    fresh = copy.copy(value)
    for name, item in changed.items():
        object.__setattr__(fresh, name, item)
    return fresh


def replaced(value: Any, index: Any, item: Any) -> Any:
    """The tuple ``value`` with ``item`` at ``index``."""
    items = list(value)
    items[index] = item
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def clone(value: Any) -> Any:
    """``value`` with every tensor in it cloned; gradients flow through."""
    return map_tensors(value, torch.Tensor.clone)


def copy_together(values: list[Any]) -> list[Any]:
    """Copies of ``values`` that share storage among themselves as the originals do."""
    copies: dict[Any, torch.Tensor] = {}
    addresses = [storage_of(tensor) for tensor in {id(tensor): tensor for tensor in tensors_in(values)}.values()]

    def copy_once(tensor: torch.Tensor) -> torch.Tensor:
        address = storage_of(tensor)
        if addresses.count(address) < 2:
            return copies[id(tensor)] if id(tensor) in copies else copies.setdefault(id(tensor), tensor.clone())
        if address not in copies:  # several views of one storage: copy it whole, and take the same views of the copy
            whole = tensor.untyped_storage().nbytes() // tensor.element_size()
            copies[address] = tensor.as_strided((whole,), (1,), 0).clone()
        return copies[address].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    return [map_tensors(value, copy_once) for value in values]


def storage_of(tensor: torch.Tensor) -> int:
    """The address of a tensor's storage; 0 where it has none (meta, sparse, fake)."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0


def storages_of(value: Any) -> set[int]:
    """The addresses of all storage in ``value``."""
    if type(value) is torch.Tensor:
        return {storage_of(value)} - {0}
    return {storage_of(tensor) for tensor in tensors_in(value)} - {0}


def shares(one: Any, other: Any) -> bool:
    """Whether any tensor of ``one`` lies on storage of ``other``."""
    return not storages_of(one).isdisjoint(storages_of(other))


def versions_of(value: Any) -> tuple[int, ...] | None:
    """The version counters of the tensors in ``value``; ``None`` where there are none to read (inference tensors)."""
    try:
        if isinstance(value, torch.Tensor):
            return (value._version,)
        return tuple(tensor._version for tensor in tensors_in(value))
    except RuntimeError:
        return None
