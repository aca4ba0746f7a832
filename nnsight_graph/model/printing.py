"""How an envoy prints: as its module, with the properties of its own that have a description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .eproperty import eproperty

if TYPE_CHECKING:
    from .envoy import Envoy

_NATIVE: Any = torch.nn.Module.__repr__
_LIST: Any = torch.nn.ModuleList.__repr__


def printed(envoy: Envoy) -> str:
    """The tree of modules, as torch prints it; described properties stand in front of the submodules, with a dot.

    Further names of a module stand beside its own; those of modules further below, behind the submodules.

    >>> import torch, nnsight_graph as nnsight
    >>> class Rows(nnsight.Envoy):
    ...     @nnsight.eproperty(key="output", description="first row")
    ...     def row(self): ...
    >>> nnsight.NNsight(torch.nn.Sequential(torch.nn.ReLU()), envoys=Rows)
    Sequential(
      (0): ReLU(
        .row: first row
      )
    )
    """
    if envoy._tree.kinds is None and not envoy._tree.names.at and not described(type(envoy)):
        return repr(envoy._module)
    return _lines(envoy)


def described(kind: type) -> list[str]:
    """The lines for the described properties of an envoy class.

    >>> described(int)
    []
    """
    names = {name: None for cls in reversed(kind.__mro__) for name in vars(cls)}
    found = ((name, getattr(kind, name, None)) for name in names)
    return [f".{name}: {own.description}" for name, own in found if isinstance(own, eproperty) and own.description]


def _lines(envoy: Envoy) -> str:
    module = envoy._module
    native: Any = type(module).__repr__
    if native is not _NATIVE and native is not _LIST:
        return repr(module)
    names = envoy._tree.names.below(envoy._path)
    beside = dict.fromkeys(() if native is _LIST else module._modules, "")
    beside.update((name, ", ".join([name, *(new for new, old in names.items() if old == name)])) for name in beside)
    children = [(beside.get(name, name), _lines(child)) for name in module._modules if (child := envoy._child(name)) is not None]
    grouped = _grouped(children) if native is _LIST else [f"({name}): {text}" for name, text in children]
    extra = [line for line in module.extra_repr().split("\n") if line]
    further = [f"({new}): the module at {old}" for new, old in names.items() if old not in beside]
    below = [*described(type(envoy)), *grouped, *further]
    if not below and len(extra) <= 1:
        return f"{module._get_name()}({''.join(extra)})"
    return f"{module._get_name()}(\n  " + "\n  ".join(map(_indented, [*extra, *below])) + "\n)"


def _grouped(children: list[tuple[str, str]]) -> list[str]:
    """Equal items of a list on one line, as torch prints them: ``(0-5): 6 x Block``."""
    groups: list[tuple[str, int, int]] = []
    for place, (_, text) in enumerate(children):
        if groups and groups[-1][0] == text:
            groups[-1] = text, groups[-1][1], place
        else:
            groups.append((text, place, place))
    return [f"({first}): {text}" if first == last else f"({first}-{last}): {last - first + 1} x {text}" for text, first, last in groups]


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")
