"""What was read at sites and lies in containers: as those hold the values themselves, no slot stands for it."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from ..ops.nested import map_tensors, storage_of, storages_of, tensors_in, versions_of


class Entry:
    """A tensor in a container, as it was when its visit ended."""

    __slots__ = ("cells", "checked", "container", "tensor", "version")

    def __init__(self, container: Any, tensor: torch.Tensor, cells: tuple[int, ...], checked: bool) -> None:
        self.container = container
        self.tensor = weakref.ref(tensor)
        self.cells = cells
        self.checked = checked
        self.version: tuple[int, ...] | None = None


class Contained:
    """The tensors of one run that lie in containers."""

    __slots__ = ("fresh", "known")

    def __init__(self) -> None:
        self.fresh: list[Entry] = []
        self.known: list[Entry] = []

    def add(self, container: Any, value: Any, cells: tuple[int, ...], checked: bool) -> None:
        """``value``, which passed at the visits ``cells``, was put into ``container``."""
        if not isinstance(container, torch.Tensor):
            self.fresh += [Entry(container, tensor, cells, checked) for tensor in tensors_in(value)]

    def note(self) -> None:
        """The visit ends: what the trace does there is done, and whoever writes into these tensors now is the model."""
        for entry in self.fresh:
            tensor = entry.tensor()
            if tensor is None:
                continue
            entry.version = versions_of(tensor)
            if entry.version is None:  # inference tensors have no counters
                self._replace(entry, tensor)
            else:
                self.known.append(entry)
        self.fresh.clear()

    def overwritten(self) -> tuple[int, ...] | None:
        """The visits of a tensor that the model has overwritten since, if there is one."""
        for entry in self.known:
            tensor = entry.tensor()
            if tensor is not None and entry.checked and versions_of(tensor) != entry.version:
                return entry.cells
        return None

    def protect(self, value: Any, cells: tuple[int, ...]) -> None:
        """Before an edit of ``value``: what passed at other visits and lies on its storage gets storage of its own."""
        addresses = storages_of(value)
        for entry in self.known:
            tensor = entry.tensor()
            if tensor is not None and storage_of(tensor) in addresses and set(cells).isdisjoint(entry.cells):
                intact = versions_of(tensor) == entry.version
                fresh = self._replace(entry, tensor)
                entry.tensor, entry.version = weakref.ref(fresh), versions_of(fresh) if intact else (-1,)

    def _replace(self, entry: Entry, tensor: torch.Tensor) -> torch.Tensor:
        """Put a copy in the place of a tensor."""
        fresh = tensor.clone()

        def changed(item: Any) -> Any:
            return map_tensors(item, lambda other: fresh if other is tensor else other)

        container = entry.container
        places = reversed(range(len(container))) if isinstance(container, list) else list(container) if isinstance(container, dict) else ()
        for place in places:
            item = changed(container[place])
            if item is not container[place]:
                container[place] = item
                break
        return fresh
