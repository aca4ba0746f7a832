"""Which class mirrors which module: the ``envoys`` of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..errors import NNsightError, ours

if TYPE_CHECKING:
    from .envoy import Envoy


class Kinds:
    """A choice of envoy classes, by module class or by the end of a path; the end of a path counts more, a longer one most.

    Args:
        chosen: One class for all modules below the root, or classes by key.
        envoy: The class that they are made from.
        root: The model.

    Raises:
        TypeError: something that is no class of envoys.
        NNsightError: a key that no module below the root answers to.
    """

    __slots__ = ("_by_class", "_by_path", "_default")

    def __init__(self, chosen: Any, envoy: type[Envoy], root: torch.nn.Module) -> None:
        given = chosen if isinstance(chosen, Mapping) else {torch.nn.Module: chosen}
        for kind in given.values():
            if not (isinstance(kind, type) and issubclass(kind, envoy)):
                raise ours(TypeError, f"envoys takes classes that are made from Envoy, not {kind!r}")
        wrong = [key for key in given if not (isinstance(key, str) or (isinstance(key, type) and issubclass(key, torch.nn.Module)))]
        if wrong:
            raise ours(TypeError, f"the keys of envoys are module classes and ends of paths, not {wrong[0]!r}")
        self._by_path: dict[str, type[Envoy]] = {key: kind for key, kind in given.items() if isinstance(key, str)}
        self._by_class: dict[type, type[Envoy]] = {key: kind for key, kind in given.items() if not isinstance(key, str)}
        if isinstance(chosen, Mapping):
            _refuse_idle(given, root)

    def of(self, path: str, module: torch.nn.Module) -> type[Envoy] | None:
        """The class for a module; ``None`` where nothing was chosen for it."""
        found = [key for key in self._by_path if _ends_with(path, key)]
        if found:
            return self._by_path[max(found, key=len)]
        near = next((cls for cls in type(module).__mro__ if cls in self._by_class), None)
        return None if near is None else self._by_class[near]


def _ends_with(path: str, key: str) -> bool:
    return path == key or path.endswith("." + key)


def _refuse_idle(given: Mapping[Any, Any], root: torch.nn.Module) -> None:
    below = [(path, module) for path, module in root.named_modules(remove_duplicate=False) if path]
    for key in given:
        if isinstance(key, str):
            if not any(_ends_with(path, key) for path, _ in below):
                names = dict.fromkeys(path.rpartition(".")[2] for path, _ in below)
                known = ", ".join([name for name in names if not name.isdigit()][:12])
                raise NNsightError(f"envoys: no module's path ends in {key!r}. Its modules are called {known or 'by numbers alone'}.")
        elif not any(isinstance(module, key) for _, module in below):
            classes = ", ".join(dict.fromkeys(type(module).__name__ for _, module in below))
            hint = " The model itself is mirrored by the class that wraps it." if isinstance(root, key) else ""
            raise NNsightError(f"envoys: no module below the model is a {key.__name__}. There are {classes or 'none'}.{hint}")
