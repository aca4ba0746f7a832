"""Replaced attributes of torch, transformers and the builtins."""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from types import FunctionType

import torch

from tests.leftovers.origin import from_package

PLACES = {
    "builtins": "",
    "torch": "",
    "torch.autograd": "",
    "torch.autograd.graph": "",
    "torch.nn.functional": "",
    "torch.nn.modules.module": "Module",
    "torch.nn.parameter": "Parameter",
    "torch._tensor": "Tensor",
    "torch._C": "TensorBase",
    "torch.overrides": "",
    "torch.utils.checkpoint": "",
    "torch.utils._python_dispatch": "",
    "transformers.generation.utils": "GenerationMixin",
    "transformers.modeling_utils": "PreTrainedModel",
}
TORCH_FOLDER = str(Path(torch.__file__).parent)


class Namespace:
    """One module or class and the callables in it."""

    def __init__(self, name: str, names: dict[str, object]) -> None:
        self.name = name
        self.names = names
        self.keys: list[str] = []
        self.values: list[object] = []
        self.remember()

    def remember(self) -> None:
        found = {k: v for k, v in list(self.names.items()) if callable(v) and k != "_"}
        self.keys, self.values, self.size = list(found), list(found.values()), len(self.names)

    def replaced(self) -> list[str]:
        """What is another object now. Torch replaces some of its own functions when a part of it is first used; that is its affair."""
        same = not any(map(operator.is_not, map(self.names.get, self.keys), self.values))
        if same and len(self.names) == self.size:
            return []
        old = dict(zip(self.keys, self.values, strict=True))
        found = [key for key, value in old.items() if self.names.get(key) is not value and not from_torch(self.names.get(key))]
        found += [k for k, v in list(self.names.items()) if k not in old and k != "_" and isinstance(v, FunctionType) and from_package(v)]
        self.remember()
        return [f"{self.name}.{key} was replaced" for key in found]


def from_torch(value: object) -> bool:
    code = getattr(value, "__code__", None)
    in_torch = code is None or code.co_filename.startswith(TORCH_FOLDER)
    return in_torch and str(getattr(value, "__module__", "")).startswith("torch") and not from_package(value)


class Namespaces:
    """The namespaces of `PLACES`; those of a library that is not loaded yet are taken up when it is."""

    def __init__(self) -> None:
        self.known: dict[str, Namespace] = {}

    def replaced(self) -> list[str]:
        """Lines about what was replaced since the last call."""
        found = [line for space in self.known.values() for line in space.replaced()]
        for name, names in loaded_places(self.known):
            self.known[name] = Namespace(name, names)
        return found


def loaded_places(known: dict[str, Namespace]) -> Iterator[tuple[str, dict[str, object]]]:
    for module_name, path in PLACES.items():
        name = f"{module_name}.{path}" if path else module_name
        if name not in known and module_name in sys.modules:
            place = sys.modules[module_name] if module_name != "builtins" else builtins
            yield name, vars(reduce(getattr, path.split("."), place) if path else place)  # type: ignore[misc]
