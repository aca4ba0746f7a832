"""Further names of modules: ``rename={"transformer.h": "layers"}`` makes ``model.layers`` of ``model.transformer.h``.

A further name is only another way to an envoy: paths, sites and graphs keep the name that the model has.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from ..errors import ours
from ..source_location import on_users_line

Rename = Mapping[str, str | Sequence[str]]


class Names:
    """The further names in one model.

    Attributes:
        at: For each module that has them, by its path: further names, and the paths below it that they stand for.
        lacking: For each such module, names that it lacks, and what to say of them.
    """

    def __init__(self) -> None:
        self.at: dict[str, dict[str, str]] = {}
        self.lacking: dict[str, dict[str, str]] = {}

    def below(self, path: str) -> dict[str, str]:
        """The further names at the module at ``path``."""
        return self.at.get(path, {})

    def real(self, path: str, name: str) -> str | None:
        """The path from the root for a further name at ``path``."""
        found = self.below(path).get(name)
        return found if found is None or not path else f"{path}.{found}"

    def spellings(self, root: torch.nn.Module) -> dict[str, str]:
        """Every path with a further name in it, and the path that it stands for."""
        if not self.at:
            return {}
        modules = dict(root.named_modules(remove_duplicate=False))
        known: dict[str, list[str]] = {"": [""]}
        for path, module in modules.items():
            pairs = {**{name: name for name in module._modules}, **self.below(path)}
            for name, below in pairs.items():
                known.setdefault(_joined(path, below), []).extend(_joined(each, name) for each in known[path])
        return {other: path for path, others in known.items() if path in modules for other in others if other != path}

    def hint(self, module: torch.nn.Module, path: str, name: str, names: Sequence[str]) -> str:
        """The rest of the sentence that the module at ``path`` has no ``name``; ``names`` are those that it has."""
        lacking = self.lacking.get(path, {}).get(name)
        if lacking is not None:
            return f": {lacking}"
        near = difflib.get_close_matches(name, [each for each in names if not each.startswith(("_", "nns_", "E_"))], 3)
        below = [each for each, _ in module.named_modules() if each.split(".")[-1] == name][:3]
        hints = [f"Near: {', '.join(near)}."] if near else []
        hints += [f"Below it there is {', '.join(below)}."] if below else []
        if not hints:
            hints = [f"It has {', '.join(module._modules) or 'no submodules'}."]
        return f". {' '.join(hints)}"


def read_names(made: Names, root: torch.nn.Module, rename: Rename, taken: Iterable[str], taken_below: Iterable[str]) -> None:
    """Add the names that ``rename`` gives.

    Args:
        made: What they are added to.
        root: The model.
        rename: For each name of a module, or path to one, a further name, or several. A name is renamed wherever it occurs; so is
            a path, below every module that has it; a path that begins with a dot only at the root.
        taken: What a name at the root may not be.
        taken_below: What a name anywhere else may not be.

    Raises:
        TypeError: it is no such mapping.
        ValueError: a key matches nothing, or a name stands for something else already.

    >>> net = torch.nn.Sequential(torch.nn.Sequential(torch.nn.ReLU()))
    >>> names = Names()
    >>> read_names(names, net, {"0.0": "act"}, (), ())
    >>> names.at
    {'': {'act': '0.0'}}
    """
    if not isinstance(rename, Mapping):
        raise refused(TypeError, f"rename takes a dictionary, from a module's name or path to a new name, not {rename!r}")
    modules = dict(root.named_modules(remove_duplicate=False))
    reserved, below = frozenset(taken), frozenset(taken_below)
    for key, given in rename.items():
        places = list(_places(modules, key))
        if not places:
            raise refused(ValueError, _unmatched(modules, key))
        for name in given if isinstance(given, (list, tuple)) else [given]:
            plain: Any = name.removeprefix(".") if isinstance(name, str) else name
            for path, real in places:
                _check(modules, path, key, plain, below if path else reserved)
                add_name(made, modules, path, plain, real)


def with_aliases(rename: Rename | None, alias: Mapping[str, str] | None) -> Rename:
    """``rename`` with what ``alias`` says the other way round.

    >>> with_aliases({"h": "layers"}, {"blocks": "h"})
    {'h': ['layers', 'blocks']}
    """
    if not alias or not isinstance(rename, (Mapping, type(None))):
        return rename or {}
    made = {key: [names] if isinstance(names, str) else list(names) for key, names in (rename or {}).items()}
    for name, key in alias.items():
        made.setdefault(key, []).append(name)
    return made


def add_name(names: Names, modules: Mapping[str, torch.nn.Module], path: str, name: str, real: str) -> None:
    """Give the module at ``real`` below ``path`` a further name there.

    Raises:
        ValueError: the name stands for another module.
    """
    target, known = modules[_joined(path, real)], names.below(path).get(name)
    child = modules.get(_joined(path, name))
    if child is target:
        return
    if child is not None or known not in (None, real):
        other = name if child is not None else known
        raise refused(
            ValueError, f"rename: {name!r} for {real} would hide {_joined('model', _joined(path, other or ''))}. Choose another name."
        )
    names.at.setdefault(path, {})[name] = real


def _check(modules: Mapping[str, torch.nn.Module], path: str, key: str, name: str, taken: frozenset[str]) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise refused(ValueError, f"rename: {name!r} for {key!r} is no name: a further name is one word, and stands where its path begins")
    module, where = modules[path], _joined("model", path)
    if name in taken:
        raise refused(ValueError, f"rename: {name!r} for {key!r} would hide {where}.{name}, which every envoy there has. Choose another.")
    if name not in module._modules and (name in dir(type(module)) or any(name in table for table in _tables(module))):
        raise refused(ValueError, f"rename: {name!r} for {key!r} would hide the attribute {where}.{name}. Choose another name.")


def _tables(module: torch.nn.Module) -> tuple[dict[str, Any], ...]:
    return module.__dict__, module._parameters, module._buffers


def _places(modules: Mapping[str, torch.nn.Module], key: str) -> Iterator[tuple[str, str]]:
    """Where a key of ``rename`` matches: the path of a module, and the path below it."""
    if key.startswith("."):
        if key[1:] in modules and len(key) > 1:
            yield "", key[1:]
        return
    shortened = key[6:] if key.startswith("model.") and "model" not in modules else key
    for path in modules:
        if shortened and _joined(path, shortened) in modules:
            yield path, shortened


def _unmatched(modules: Mapping[str, torch.nn.Module], key: str) -> str:
    known = dict.fromkeys([*(path.rpartition(".")[2] for path in modules if path), *(path for path in modules if path)])
    near = difflib.get_close_matches(key.removeprefix("."), known, 3)
    return f"rename: the model has no module {key!r}." + (f" Near: {', '.join(near)}." if near else "")


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def refused(kind: type[BaseException], text: str) -> BaseException:
    """An error for arguments of a wrapper, which are given outside of blocks; it ends on the user's line."""
    return on_users_line(ours(kind, text))
