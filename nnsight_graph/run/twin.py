"""The structural twin of a model: the same modules, with fake tensors in place of all tensors.

A forward of the twin changes nothing of the model, whatever it assigns, appends or registers, and however it ends: there is
nothing to restore.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import sys
import weakref
from collections import deque
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from .apart import own_attributes
from .fakes import fake_from
from .specs import PLAIN, Spec, map_items

_SHARED = PLAIN | {type, ModuleType, BuiltinFunctionType}
_SHARED_FROM = sys.stdlib_module_names | {"torch", "numpy", "tokenizers"}
"""Packages whose objects are not copied: locks, loggers, generators, process groups, arrays."""

_COLLECTING = "transformers.utils.output_capturing"

_TABLES = frozenset(name for name, value in torch.nn.Module().__dict__.items() if isinstance(value, dict))
_HOOKS = _TABLES - {"_parameters", "_buffers", "_modules"}


class Mirror:
    """Copies what a model holds, so that the copy holds fakes; one object has one copy, however often it is met.

    Args:
        mode: The mode that the fakes belong to.
        device: Where fakes of tensors on the meta device shall seem to lie; by default on the meta device.
    """

    __slots__ = ("_copies", "_device", "_mode")

    def __init__(self, mode: FakeTensorMode, device: torch.device | None = None) -> None:
        self._mode = mode
        self._device = device
        self._copies: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        """The copy of ``value``; ``value`` itself where it can hold neither tensors nor modules."""
        if type(value) in _SHARED:
            return value
        known = self._copies.get(id(value))
        if known is None:
            known = self._copies[id(value)] = self._copy(value)
        return known

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, torch.nn.Module):
            return self._module(value)
        if isinstance(value, Spec):
            return fake_from(value, self._mode)
        if isinstance(value, (FunctionType, MethodType, functools.partial)):
            return self._callable(value)
        if isinstance(value, type):
            return value
        if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
            return self._container(value)
        if isinstance(value, weakref.ref):
            return weakref.ref(self(value())) if isinstance(value(), torch.nn.Module) else value
        return self._instance(value)

    # ------------------------------------------------------------------ tensors

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        device = self._device or tensor.device if tensor.device.type == "meta" else tensor.device
        fake: torch.Tensor
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided and not tensor.is_quantized:
            empty = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")
            fake = FakeTensor(self._mode, empty, device)
        else:
            fake = self._mode.from_tensor(tensor, static_shapes=True)
        if isinstance(tensor, torch.nn.Parameter):
            fake._is_param = True  # what nn.Parameter(fake) does, without an operation on a fake
            fake.requires_grad_(tensor.requires_grad)
        elif tensor.requires_grad:
            fake = fake.requires_grad_() if tensor.is_leaf else fake.requires_grad_().clone()
        if tensor.__dict__ and type(tensor) is not FakeTensor:
            self._copies[id(tensor)] = fake
            fake.__dict__.update({name: self(value) for name, value in tensor.__dict__.items() if name not in fake.__dict__})
        return fake

    # ------------------------------------------------------------------ modules and other objects

    def _module(self, module: torch.nn.Module) -> torch.nn.Module:
        twin = self._copies[id(module)] = object.__new__(type(module))
        own = twin.__dict__
        for name, value in own_attributes(module).items():  # another thread may run the model
            own[name] = self._hooks(value) if name in _HOOKS else value if type(value) in _SHARED else self(value)
        own.pop("_compiled_call_impl", None)
        if "_orig_mod" in own["_modules"]:  # torch.compile's wrapper: its forward is compiled code around the original
            own["forward"] = own["_modules"]["_orig_mod"]
        return twin

    def _hooks(self, table: dict[int, Any]) -> dict[int, Any]:
        """Those by which a model collects its own hidden states; a mark of its own says that they are there already."""
        own: dict[int, Any] = type(table)()
        own.update({key: self(hook) for key, hook in list(table.items()) if getattr(hook, "__module__", None) == _COLLECTING})
        return own

    def _container(self, value: Any) -> Any:
        if type(value) is list:
            items: list[Any] = []
            self._copies[id(value)] = items  # before its items: it may hold itself
            items.extend(map(self, value))
            return items
        if type(value) is dict:
            table: dict[Any, Any] = {}
            self._copies[id(value)] = table
            table.update({key: self(item) for key, item in list(value.items())})
            return table
        try:
            return deque(map(self, value), value.maxlen) if isinstance(value, deque) else map_items(value, self)
        except Exception:  # a class of its own that cannot be made anew
            return value

    def _instance(self, value: Any) -> Any:
        """An object with attributes: a config, a cache, a hook of accelerate."""
        kind = type(value)
        own = getattr(value, "__dict__", None)
        if type(own) is not dict or not own or isinstance(value, enum.Enum) or kind.__module__.partition(".")[0] in _SHARED_FROM:
            return value
        try:
            fresh = self._copies[id(value)] = object.__new__(kind)
            fresh.__dict__.update({name: self(item) for name, item in list(own.items())})
        except (TypeError, AttributeError):  # built on a class of C
            return value
        return fresh

    # ------------------------------------------------------------------ functions

    def _callable(self, value: Any) -> Any:
        """A replaced ``forward``: bound to the twin, whether as a method, by ``partial`` or through its closure."""
        if isinstance(value, MethodType):
            return MethodType(self(value.__func__), self(value.__self__))
        if isinstance(value, functools.partial):
            fresh = functools.partial(self(value.func), *map(self, value.args), **self(value.keywords))
            fresh.__dict__.update(self(value.__dict__))
            return fresh
        return self._function(value) if value.__closure__ else value

    def _function(self, value: FunctionType) -> FunctionType:
        """A copy with its closure's contents copied; the function itself if they need none."""
        cells = tuple(CellType() for _ in value.__closure__ or ())
        fresh = self._copies[id(value)] = FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
        fresh.__kwdefaults__ = value.__kwdefaults__
        fresh.__dict__.update(value.__dict__)
        needed = False
        for cell, original in zip(cells, value.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a cell that is still empty
                content = original.cell_contents
                cell.cell_contents = self(content)
                needed |= cell.cell_contents is not content
        return fresh if needed else value


def build_twin(module: torch.nn.Module, mode: FakeTensorMode, device: torch.device | None = None) -> torch.nn.Module:
    """A model of the same structure that computes on fake tensors, and shares no state with ``module``.

    Hooks are left out, but for those with which transformers collects hidden states; tied modules and tied parameters stay tied;
    configs and other attributes are copies. To be called outside ``mode``.

    Args:
        module: The model; it may be on the meta device.
        mode: The mode that the fakes belong to.
        device: Where fakes of what is on the meta device shall seem to lie.

    Example:
        >>> twin = build_twin(torch.nn.Linear(2, 3), mode := FakeTensorMode())
        >>> with mode:
        ...     print(twin(torch.ones(5, 2)).shape)
        torch.Size([5, 3])
    """
    with torch.inference_mode(False), torch.enable_grad():
        twin: torch.nn.Module = Mirror(mode, device)(module)
    return twin


def dissolve(twin: torch.nn.Module) -> None:
    """Take a twin apart that is not needed any more: it may hold itself, and its fakes shall not wait for the garbage collector."""
    for module in list(twin.modules()):
        module.__dict__.clear()
