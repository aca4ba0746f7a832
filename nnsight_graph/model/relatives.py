"""Where an envoy stands, and on which devices its module is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ours

if TYPE_CHECKING:
    from .tree import Tree


class Unhidden:
    """A property of envoys that hides nothing: an attribute, or a part, of the module that has its name comes before it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function, self.__doc__ = function, function.__doc__

    def __get__(self, envoy: Any, _kind: Any = None) -> Any:
        if envoy is None:
            return self
        name = self._function.__name__
        if hasattr(envoy._module, name):
            raise ours(AttributeError, name)  # looked up in the module then
        return self._function(envoy)


class Relatives:
    """The part of an envoy that knows what is around it."""

    _module: torch.nn.Module
    _tree: Tree
    _path: str
    _at: Callable[[str], Any]

    @property
    def device(self) -> torch.device | None:
        """The device of the module's first parameter or buffer; ``None`` if it has none."""
        tensor: torch.Tensor | None = next(self._module.parameters(), None)
        tensor = next(self._module.buffers(), None) if tensor is None else tensor
        return None if tensor is None else tensor.device

    @Unhidden
    def devices(self) -> set[torch.device]:
        """The devices of the module's parameters."""
        return {parameter.device for parameter in self._module.parameters()}

    @Unhidden
    def parent(self) -> Any:
        """The envoy of the module that holds this one; ``None`` at the root. A module with several paths has the parent of each."""
        return self._at(self._path.rpartition(".")[0]) if self._path else None

    @Unhidden
    def root(self) -> Any:
        """The envoy of the whole model."""
        return self._at("") if self._path else self

    @Unhidden
    def _model(self) -> torch.nn.Module:
        """The module itself."""
        return self._module
