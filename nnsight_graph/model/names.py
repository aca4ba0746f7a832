"""Further names of modules: ``rename={"transformer.h": "layers"}`` makes ``model.layers`` of ``model.transformer.h``.

A further name is only another way to an envoy: paths, sites and graphs keep the name that the model has.
"""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from ..errors import ours
from ..source_location import locate, on_users_line, user_place

Rename = Mapping[str | type, str | Sequence[str]] | Mapping[str, str | Sequence[str]]


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

    def others(self, root: torch.nn.Module) -> dict[str, list[str]]:
        """For each path that has them, its further spellings."""
        found: dict[str, list[str]] = {}
        for other, path in self.spellings(root).items():
            found.setdefault(path, []).append(other)
        return found

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
    """Add the names that ``rename`` gives; a key that matches nothing is left out, with a warning where nothing got its name.

    Args:
        made: What they are added to.
        root: The model.
        rename: For each name of a module, path to one, or module class, a further name, or several. A name is renamed wherever it
            occurs, a path below every module that has it, and may pass through further names that were given before; ``*`` in it is
            any one module. A class is the one module of it that another holds. A name with dots stands below its first parts.
        taken: What a name at the root may not be.
        taken_below: What a name anywhere else may not be.

    Raises:
        TypeError: it is no such mapping.
        ValueError: a key means several modules at one place, or a name stands for something else already.

    >>> net = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Tanh(), torch.nn.ReLU()))
    >>> names = Names()
    >>> read_names(names, net, {"0.1": "act", torch.nn.Sequential: "body", "body.1": "last", "*.0": "body.first"}, (), ())
    >>> names.at
    {'': {'act': '0.1', 'body': '0', 'last': '0.1'}, '0': {'first': '0'}}
    """
    if not isinstance(rename, Mapping):
        raise refused(TypeError, f"rename takes a dictionary, from a module's name, path or class to a new name, not {rename!r}")
    modules = dict(root.named_modules(remove_duplicate=False))
    reserved, below = frozenset(taken), frozenset(taken_below)
    given: list[tuple[str | type, str, list[Any]]] = []
    for key, names in ((_key(key), names) for key, names in rename.items()):
        first = key.partition(".")[0] if isinstance(key, str) else "*"
        given.append((key, first, list(names) if isinstance(names, (list, tuple)) else [names]))
    for name in [name for *_, names in given for name in names]:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.removeprefix(".").split(".")):
            raise refused(ValueError, f"rename: {name!r} is no name for a module: it is a word, or words with dots between them")
    idle = {key: names for key, _, names in given}
    for path in sorted(modules, key=lambda each: -each.count(".") if each else 1):  # parts first: paths pass through names given there
        for key, first, names in given:
            known = first == "*" or first in modules[path]._modules or first in made.below(path)
            found = _matches(made, modules, path, key) if known else []
            if not path and not known and first == "model" and key in idle:
                found = _matches(made, modules, "", str(key)[6:])  # as paths are printed
            if len({id(modules[each]) for each in found}) > 1:
                places = ", ".join(_joined("model", each) for each in found[:3])
                text = f"rename: {_text(key)} means {len(found)} modules in {_joined('model', path)} ({places}). Name one"
                raise refused(ValueError, text)
            for name in names if found else ():
                idle.pop(key, None)
                owner, real, last = _host(made, modules, path, found[0], name)
                _check(modules, owner, real, last, below if owner else reserved)
                add_name(made, modules, owner, last, real)
    _warn_of_idle(made, modules, idle)


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
    if child is not None or (known is not None and modules[_joined(path, known)] is not target):
        other = name if child is not None else known
        raise refused(
            ValueError, f"rename: {name!r} for {real} would hide {_joined('model', _joined(path, other or ''))}. Choose another name."
        )
    names.at.setdefault(path, {})[name] = real


def _check(modules: Mapping[str, torch.nn.Module], path: str, key: str, name: str, taken: frozenset[str]) -> None:
    module, where = modules[path], _joined("model", path)
    if module._modules.get(name) is modules[_joined(path, key)]:
        return
    if name in taken:
        raise refused(ValueError, f"rename: {name!r} for {key!r} would hide {where}.{name}, which every envoy there has. Choose another.")
    if name not in module._modules and (name in dir(type(module)) or any(name in table for table in _tables(module))):
        raise refused(ValueError, f"rename: {name!r} for {key!r} would hide the attribute {where}.{name}. Choose another name.")


def _tables(module: torch.nn.Module) -> tuple[dict[str, Any], ...]:
    return module.__dict__, module._parameters, module._buffers


def _key(key: Any) -> str | type:
    if isinstance(key, str):
        return key.removeprefix(".")
    if isinstance(key, type) and issubclass(key, torch.nn.Module):
        return key
    raise ours(TypeError, f"the keys of rename are names, paths and classes of modules, not {key!r}")


def _matches(names: Names, modules: Mapping[str, torch.nn.Module], path: str, key: str | type) -> list[str]:
    """The paths of the modules that a key means, seen from the module at ``path``."""
    if isinstance(key, type):
        return [_joined(path, name) for name, child in modules[path]._modules.items() if isinstance(child, key)]
    found = [path] if key else []
    for part in key.split("."):
        found = [below for each in found for below in _step(names, modules, each, part)]
    return found


def _step(names: Names, modules: Mapping[str, torch.nn.Module], path: str, part: str) -> list[str]:
    children = modules[path]._modules
    if part == "*":
        return [_joined(path, name) for name, child in children.items() if child is not None]
    real = part if children.get(part) is not None else names.below(path).get(part)
    return [] if real is None else [_joined(path, real)]


def _host(names: Names, modules: Mapping[str, torch.nn.Module], path: str, found: str, name: str) -> tuple[str, str, str]:
    """Where a name for the module at ``found`` stands, the module's path from there, and the name's last part."""
    before, _, last = name.removeprefix(".").rpartition(".")
    for owner in _matches(names, modules, path, before) if before else [path]:
        if not owner or found.startswith(f"{owner}."):
            return owner, found[len(owner) + 1 :] if owner else found, last
    raise ours(ValueError, f"rename: {before!r} in {name!r} holds no {_joined('model', found)}: what a name begins with holds the module")


def _warn_of_idle(made: Names, modules: Mapping[str, torch.nn.Module], idle: Mapping[str | type, Sequence[str]]) -> None:
    """Tell of names that nothing has, since their keys match nothing; the keys may be made for several models."""
    there = {path.rpartition(".")[2] for path in modules} | {name for names in made.at.values() for name in names}
    lost: dict[str, list[str | type]] = {}
    for key, names in idle.items():
        for name in names:
            if name.rpartition(".")[2] not in there:
                lost.setdefault(name, []).append(key)
    said = []
    for name, keys in lost.items():
        first = _text(keys[0]).strip("'")
        known = {".".join(path.split(".")[-1 - first.count(".") :]) for path in modules}
        near = difflib.get_close_matches(first, sorted(known), 3)
        hint = f" (near: {', '.join(near)})" if near else ""
        said.append(f"nothing is called {name}, for the model has no module {' or '.join(map(_text, keys))}{hint}")
    if said:
        warn_of_names(f"rename: {'; '.join(said)}")


def warn_of_names(text: str) -> None:
    """Warn at the line of the user's that names something which is not there."""
    at = locate(user_place(sys._getframe()))
    warnings.warn_explicit(text, UserWarning, at.named.file, at.line)


def _text(key: str | type) -> str:
    return key.__name__ if isinstance(key, type) else repr(key)


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def refused(kind: type[BaseException], text: str) -> BaseException:
    """An error for arguments of a wrapper, which are given outside of blocks; it ends on the user's line."""
    return on_users_line(ours(kind, text))
