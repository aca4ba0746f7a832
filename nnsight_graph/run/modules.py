"""The modules of a model by path: one module, one canonical path, however many names it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ..errors import NNsightError
from ..ops.nested import storage_of

_Step = tuple[dict[str, "torch.nn.Module | None"], str, torch.nn.Module]


class ModuleIndex:
    """Paths and modules of one model.

    Attributes:
        root: The model.
        modules: Module by canonical path: the first under which ``named_modules()`` meets it.
    """

    __slots__ = (
        "__weakref__", "_canonical", "_children", "_device", "_lineage", "_lines", "_overwrites", "_tables",
        "modules", "overwriting", "root",
    )  # fmt: skip

    def __init__(self, root: torch.nn.Module) -> None:
        self.root = root
        self.modules: dict[str, torch.nn.Module] = dict(root.named_modules())
        self._device: tuple[torch.device, ...] | None = None  # none where constants may stay where they are
        self._overwrites: bool | None = None
        self.overwriting: dict[tuple[str, str], bool] = {}
        self._children: list[tuple[dict[str, Any], tuple[Any, ...]]] = []
        self._tables: list[dict[str, Any]] = []
        self._canonical: dict[int, str] = {id(module): path for path, module in self.modules.items()}
        self._lineage: dict[str, tuple[_Step, ...]] = {}
        self._lines: dict[tuple[str, ...], tuple[_Step, ...]] = {}

    def canonical(self, module: torch.nn.Module, path: str) -> str:
        """The canonical path of ``module``; ``path`` itself for one that is not in the model."""
        return self._canonical.get(id(module), path)

    def lineage(self, path: str) -> tuple[_Step, ...]:
        """The module at ``path`` and every module above it, each with the table and the name under which it stands."""
        line = self._lineage.get(path)
        if line is None:
            owner, steps = self.root, [({"": self.root}, "", self.root)]
            for name in path.split(".") if path else ():
                steps.append((owner._modules, name, owner.get_submodule(name)))  # type: ignore[arg-type]
                owner = steps[-1][2]
                if type(owner).__name__ == "OptimizedModule":
                    raise self._refusal(path, owner)
            line = self._lineage[path] = tuple(steps)  # type: ignore[arg-type]
        return line

    def are_as_listed(self, paths: Iterable[str]) -> bool:
        """Whether the modules at ``paths`` are still those that were there when the modules were listed.

        Raises:
            NNsightError: one of them, or one above it, was compiled in place by ``torch.compile``; it has a ``path``.
        """
        key = tuple(paths)
        for table, name, module in self._lines.get(key) or self._line(key):
            if table.get(name) is not module:
                return False
            if module._compiled_call_impl is not None:
                path = next(path for path in key if path in self.modules and any(step[2] is module for step in self.lineage(path)))
                raise self._refusal(path, module)
        return True

    def _line(self, paths: tuple[str, ...]) -> tuple[_Step, ...]:
        """The modules at ``paths`` and those above them, each once; what passes outside modules is left out."""
        steps = [step for path in paths if path in self.modules for step in self.lineage(path)]
        if len(self._lines) > 1000:
            self._lines.clear()
        line = self._lines[paths] = tuple({(id(step[0]), step[1]) if step[1] else None: step for step in steps}.values())
        return line

    def _refusal(self, path: str, module: torch.nn.Module) -> NNsightError:
        name = next((name for name, other in self.modules.items() if other is module), "") or "the model itself"
        error = NNsightError(
            f"{name} ({type(module).__name__}) was compiled by torch.compile, which ignores hooks, "
            f"so {path or 'what it takes and returns'} cannot be reached. Trace the model as it was before compiling."
        )
        error.path = path  # type: ignore[attr-defined]
        return error

    @property
    def overwrites(self) -> bool:
        """Whether a module of the model says that it works in place."""
        if self._overwrites is None:
            self._overwrites = any(module.__dict__.get("inplace") is True for module in self.modules.values())
        return self._overwrites

    def beside(self, constants: list[Any]) -> list[Any]:
        """Captured tensors on the model's accelerator, if all of the model lies on one: moved once, not at each operation."""
        if self._device is None:
            devices = {tensor.device for tensor in self.root.parameters()}
            only = devices.pop() if len(devices) == 1 else torch.device("cpu")
            self._device = () if only.type in ("cpu", "meta") else (only,)
        return on_device(constants, *self._device) if self._device and constants else constants

    def owned(self) -> set[int]:
        """The storage of the parameters and buffers that the model has now: an edit of it would stay."""
        if not self._tables or any(tuple(table.values()) != children for table, children in self._children):
            modules = list(self.root.modules())
            self._children = [(module._modules, tuple(module._modules.values())) for module in modules]
            self._tables = [table for module in modules for table in (module._parameters, module._buffers)]
        return {storage_of(tensor) for table in self._tables for tensor in table.values() if tensor is not None} - {0}

    def parameter(self, path: str) -> torch.Tensor:
        """The parameter or buffer at ``path``."""
        owner, _, name = path.rpartition(".")
        module = self.root.get_submodule(owner)
        tensor: torch.Tensor = getattr(module, name)
        return tensor if tensor.device.type != "meta" else _offloaded(module, name, path)


def on_device(constants: list[Any], device: torch.device) -> list[Any]:
    """``constants`` with every tensor of at least one dimension on ``device``; dtypes stay.

    >>> on_device([torch.ones(2), 3], torch.device("meta"))[0].device
    device(type='meta')
    """
    def moved(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) and value.dim() and value.device != device else value

    return list(map(moved, constants))


def _offloaded(module: torch.nn.Module, name: str, path: str) -> torch.Tensor:
    """A parameter that accelerate keeps elsewhere until its module's turn."""
    hook: Any = getattr(module, "_hf_hook", None)
    for one in getattr(hook, "hooks", (hook,)):
        if getattr(one, "weights_map", None) is not None:
            tensor: torch.Tensor = one.weights_map[name]
            return tensor if one.execution_device is None else tensor.to(one.execution_device)
    raise NNsightError(f"{path} is on the meta device: it has no values to read")
