"""Attributes of modules, asked of their envoys; where a method returns the module itself, as ``eval()`` does, the envoy comes."""

from __future__ import annotations

import functools
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ours
from ..record import recording_here

if TYPE_CHECKING:
    from .envoy import Envoy

_CONVERT = frozenset(
    ("apply", "bfloat16", "cpu", "cuda", "double", "float", "half", "ipu", "mtia", "share_memory", "to", "type", "xpu")
)  # fmt: skip
"""Methods that change the weights themselves: weights that are loaded later would know nothing of it."""


def attribute(envoy: Envoy, name: str) -> Any:
    """An attribute of an envoy's module: a module of the model is an envoy, and in a trace a parameter is a value of it.

    Raises:
        AttributeError: there is none; says what is near.
    """
    module = envoy._module
    try:
        value = getattr(module, name)
    except AttributeError:
        raise ours(AttributeError, envoy._unknown(name)) from None
    trace = recording_here()
    if trace is not None and isinstance(value, torch.Tensor) and (name in module._parameters or name in module._buffers):
        return trace.parameter(f"{envoy._path}.{name}" if envoy._path else name, envoy._tree, value)
    if isinstance(value, torch.nn.Module) and (path := envoy._tree.index.canonical(value, "?")) != "?":
        return envoy._at(path)  # a part of the model under another name, as `base_model` is
    if type(value) is MethodType and value.__self__ is module and name != "forward" and (trace is None or hasattr(torch.nn.Module, name)):
        return of_module(envoy, value)
    return value


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
