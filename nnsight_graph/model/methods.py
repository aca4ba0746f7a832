"""Methods of modules, called on their envoys: where a module returns itself, as ``eval()`` does, its envoy comes."""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .envoy import Envoy

_CONVERT = frozenset(
    ("apply", "bfloat16", "cpu", "cuda", "double", "float", "half", "ipu", "mtia", "share_memory", "to", "type", "xpu")
)  # fmt: skip
"""Methods that change the weights themselves: weights that are loaded later would know nothing of it."""


def of_module(envoy: Envoy, method: MethodType) -> MethodType:
    """A method of an envoy's module; where it returns the module, the envoy."""
    function: Any = method.__func__
    loads = not envoy._tree.loaded and method.__name__ in _CONVERT

    @functools.wraps(function)
    def call(module: Any, *args: Any, **kwargs: Any) -> Any:
        if loads:
            load(envoy)
            return of_module(envoy, getattr(envoy._module, method.__name__))(*args, **kwargs)
        result = function(module, *args, **kwargs)
        return envoy if result is module else result

    return MethodType(call, method.__self__)


def load(envoy: Envoy) -> None:
    """Load the weights of a model, where they are not there yet."""
    tree = envoy._tree
    for root in () if tree.loaded else (tree.envoys.get(""), *tree.views):
        if hasattr(type(root), "dispatch"):
            root.dispatch()  # type: ignore[union-attr]
            return
