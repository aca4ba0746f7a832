"""What passes while the twin of a model runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..graph import Site
from .fakes import Fakes, fake_of
from .named_objects import Objects
from .specs import spec_of


class Visits:
    """Notes what passes while a twin runs, from inside its modules' calls: no hook runs, not even a global one."""

    __slots__ = ("_calls", "_changes", "_mode", "_objects", "_paths", "at", "values")

    def __init__(self, changes: Mapping[Site, Any], mode: Fakes) -> None:
        self._changes, self._mode = changes, mode
        self.values: dict[Site, Any] = {}
        self.at: str | None = None
        self._calls: dict[str, int] = {}
        self._objects, self._paths = Objects(), set[str]()

    def listen(self, twin: torch.nn.Module) -> None:
        for path, module in twin.named_modules():
            self._paths.add(path)
            module.__dict__["_compiled_call_impl"] = functools.partial(self.call, path, module)
            module.__dict__["_apply"] = functools.partial(_converted, module)

    def call(self, path: str, module: torch.nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        number = self._calls[path] = self._calls.get(path, -1) + 1
        self.at = None
        args, kwargs = self.note(Site(path, "inputs", number), (args, kwargs))
        try:
            output = _called(module, args, kwargs)
        except BaseException:
            self.at = self.at if self.at is not None else path
            raise
        return self.note(Site(path, "output", number), output)

    def note(self, site: Site, value: Any) -> Any:
        if self._changes:
            value = self._objects.put(value, fake_of(self._changes[site], self._mode) if site in self._changes else value)
        self.values[site] = spec_of(value)
        return value

    def places(self) -> dict[Site, int]:
        return {site: place for place, site in enumerate(self.values)}

    def unreached(self) -> frozenset[str]:
        return frozenset(self._paths - self._calls.keys())


def _called(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a module of a twin returns; a hook that it has now was put there by its own forward."""
    output = module.forward(*args, **kwargs)
    for key, hook in list(module._forward_hooks.items()):
        changed = hook(module, args, kwargs, output) if key in module._forward_hooks_with_kwargs else hook(module, args, output)
        output = output if changed is None else changed
    return output


def _converted(twin: torch.nn.Module, change: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> torch.nn.Module:
    """What ``.to(...)`` and its kin do in a forward of a twin: torch's own way swaps contents, which it refuses for fakes."""
    for child in twin.children() if recurse else ():
        child._apply(change)
    tables: tuple[dict[str, Any], ...] = (twin._parameters, twin._buffers)
    for table in tables:
        for name, tensor in [(name, tensor) for name, tensor in table.items() if tensor is not None]:
            with torch.no_grad():
                changed: Any = change(tensor)
            if changed is not tensor and table is tables[0]:
                changed._is_param = True
                changed.requires_grad_(tensor.requires_grad)
            table[name] = changed
    return twin
