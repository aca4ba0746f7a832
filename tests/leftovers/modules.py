"""Hooks and replaced attributes on the modules that tests make."""

from __future__ import annotations

import functools
import gc
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from tests.leftovers.origin import from_package, is_package_name

ATTRIBUTES = {FunctionType, MethodType, functools.partial}

METHODS = {"forward", "_old_forward", "__getstate__"}

HOOK_TABLES = {dict, OrderedDict}


class KnownModules:
    """The living modules, each with its class at the time when it was first seen."""

    def __init__(self) -> None:
        self.classes: WeakKeyDictionary[nn.Module, type] = WeakKeyDictionary()
        torch_module.register_module_module_registration_hook(self._see_child)
        torch_module.register_module_parameter_registration_hook(self._see)
        torch_module.register_module_buffer_registration_hook(self._see)

    def _see(self, module: nn.Module, name: str, value: object) -> None:
        self.classes.setdefault(module, type(module))

    def _see_child(self, module: nn.Module, name: str, child: nn.Module | None) -> None:
        self._see(module, name, child)
        if child is not None:
            self._see(child, "", None)

    def search_memory(self) -> None:
        """Takes up the modules that no registration hook saw: those without parameters, children and parent, and copies."""
        for found in gc.get_objects():
            if issubclass(type(found), nn.Module) and "_modules" in found.__dict__:
                self.classes.setdefault(found, type(found))

    def leftovers(self) -> list[str]:
        """Lines about modules that something of the package hangs on; each module is named once."""
        lines = []
        for module, cls in list(self.classes.items()):
            found = list(leftovers_on(module, cls))
            if found:
                lines += found
                del self.classes[module]
        return lines + global_hooks() + replaced_forwards(set(self.classes.values()))


def leftovers_on(module: nn.Module, cls: type) -> Iterator[str]:
    if type(module) is not cls and is_package_name(type(module).__module__):
        yield f"the class of a {cls.__name__} was replaced by {type(module).__name__}"
    for name, value in vars(module).items():
        kind = type(value)
        if (kind in ATTRIBUTES or (name in METHODS and value is not None)) and from_package(value):
            yield f"{cls.__name__}.{name} of one instance was replaced"
        elif kind in HOOK_TABLES and value and name.endswith("_hooks") and any(map(from_package, value.values())):
            yield f"{cls.__name__}.{name} holds a hook of the package"
    for name, parameter in vars(module)["_parameters"].items():
        if parameter is not None and has_gradient_hook(parameter):
            yield f"{cls.__name__}.{name} has a gradient hook of the package"


def hooks_in(value: object) -> Iterable[object]:
    return list(value.values()) if isinstance(value, dict) else ()


def has_gradient_hook(tensor: Tensor) -> bool:
    first, second = tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)
    return bool(first or second) and any(map(from_package, [*hooks_in(first), *hooks_in(second)]))


def global_hooks() -> list[str]:
    places = {name: hooks_in(value) for name, value in vars(torch_module).items() if name.startswith("_global_") and value}
    ours = [name for name, hooks in places.items() if any(map(from_package, hooks))]
    return [f"torch.nn.modules.module.{name} holds a hook of the package" for name in ours]


def replaced_forwards(classes: set[type]) -> list[str]:
    ours = [c for c in classes if "forward" in vars(c) and not is_package_name(c.__module__) and from_package(vars(c)["forward"])]
    return [f"{c.__name__}.forward was replaced on the class" for c in ours]
