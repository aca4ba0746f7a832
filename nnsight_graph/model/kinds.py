"""Which class mirrors which module: the ``envoys`` of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ours
from .names import warn_of_names

if TYPE_CHECKING:
    from .envoy import Envoy

FROM_CLASS: Any = type("FROM_CLASS", (), {"__repr__": lambda _: "<that of the class>"})()
"""The ``envoys`` of a call that names none; ``None`` means plain envoys."""


class Kinds:
    """A choice of envoy classes, by module class or by the end of a path; a class counts more, of ends of paths a longer one.

    Args:
        chosen: One class for all modules below the root, or classes by key. A ``*`` in the end of a path is any one name.
        envoy: The class that they are made from.

    Raises:
        TypeError: something that is no class of envoys.
    """

    __slots__ = ("_given",)

    def __init__(self, chosen: Any, envoy: type[Envoy]) -> None:
        given = chosen if isinstance(chosen, Mapping) else {torch.nn.Module: chosen}
        for kind in given.values():
            if not (isinstance(kind, type) and issubclass(kind, envoy)):
                raise ours(TypeError, f"envoys takes classes that are made from Envoy, not {kind!r}")
        wrong = [key for key in given if not (isinstance(key, str) or (isinstance(key, type) and issubclass(key, torch.nn.Module)))]
        if wrong:
            raise ours(TypeError, f"the keys of envoys are module classes and ends of paths, not {wrong[0]!r}")
        self._given: dict[Any, type[Envoy]] = dict(given)

    def of(self, path: str, module: torch.nn.Module, others: Iterable[str] = ()) -> type[Envoy] | None:
        """The class for a module with these other paths; ``None`` where nothing was chosen for it."""
        near = next((cls for cls in type(module).__mro__ if cls in self._given), None)
        if near is not None:
            return self._given[near]
        found = [key for key in self._given if isinstance(key, str) and _fits(key, module, (path, *others))]
        return self._given[max(found, key=len)] if found else None

    def warn_of_idle(self, root: torch.nn.Module, others: Mapping[str, list[str]]) -> None:
        """Tell of classes that mirror nothing, since no module answers to their keys."""
        below = {path: module for path, module in root.named_modules(remove_duplicate=False) if path}
        there = [(module, (path, *others.get(path, ()))) for path, module in below.items()]
        idle = {key: kind for key, kind in self._given.items() if not any(_fits(key, *each) for each in there)}
        used = {kind for key, kind in self._given.items() if key not in idle}
        paths = dict.fromkeys(path.rpartition(".")[2] for path in below)
        names = ", ".join([name for name in paths if not name.isdigit()][:12])
        classes = ", ".join(dict.fromkeys(type(module).__name__ for module in below.values()))
        said = []
        for key in [key for key, kind in idle.items() if kind not in used and key is not torch.nn.Module]:
            if isinstance(key, str):
                said.append(f"no module's path ends in {key!r}. Its modules are called {names or 'by numbers alone'}.")
            else:
                hint = " The model itself is mirrored by the class that wraps it." if isinstance(root, key) else ""
                said.append(f"no module below the model is a {key.__name__}. There are {classes or 'none'}.{hint}")
        if said:
            warn_of_names(f"envoys: {' '.join(said)}")


def _fits(key: Any, module: torch.nn.Module, paths: Iterable[str]) -> bool:
    return any(_ends_with(path, key) for path in paths) if isinstance(key, str) else isinstance(module, key)


def _ends_with(path: str, key: str) -> bool:
    wanted, parts = key.removeprefix(".").split("."), path.split(".")
    return len(wanted) <= len(parts) and all(want in ("*", part) for want, part in zip(reversed(wanted), reversed(parts), strict=False))
