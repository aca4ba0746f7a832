"""What a scan found, for the user's eyes: the sites of a model and what passes there."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ..graph import Site
from ..run.scan import Scan, Unknown
from .envoy import Envoy

NOT_SCANNED = Scan({}, {}, stopped="no input was scanned yet: model.scan(input), or model.sites(pattern, input)")
"""Stands for the scan of a model of which there is none."""


class SiteRow(NamedTuple):
    """One line of a table of sites.

    Attributes:
        name: As it is written in a trace, such as ``model.transformer.h.0.mlp.output``.
        value: What passes, tensors as specs; an :class:`~nnsight_graph.run.scan.Unknown` where that is not known.
    """

    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.name}  {description(self.value)}"


class SiteTable(tuple[SiteRow, ...]):
    """The sites of a model in the order in which its forward visits them; prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        width = max((len(row.name) for row in self), default=0)
        return "\n".join(f"{row.name:<{width}}  {description(row.value)}" for row in self) or "no site matches"

    __repr__ = __str__


def sites(envoy: Envoy, scan: Scan, pattern: str = "*") -> SiteTable:
    """The inputs and outputs of the modules below ``envoy``, in the order of the forward; those that it does not reach come last.

    Args:
        envoy: A model or a part of it.
        scan: What a scan of the whole model found.
        pattern: Which modules, by path, as in ``"*.mlp"`` or ``"model.layers.3.*"``.

    Example:
        >>> import torch, nnsight_graph as nnsight
        >>> from nnsight_graph.run.scan import scan
        >>> model = nnsight.NNsight(torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.ReLU()))
        >>> sites(model, scan(model._module, (torch.rand(1, 5),)), "*.0")
        model.0.input   float32[1, 5] on cpu
        model.0.output  float32[1, 10] on cpu
    """
    paths = {child._path for child in envoy.modules() if fnmatchcase(child.path, pattern) or fnmatchcase(child._path, pattern)}
    visited = [row for site in scan.order if site.path in paths and site.point != "result" for row in _rows(site, scan)]
    reached = {site.path for site in scan.order}
    missed = [SiteRow(_name(Site(path, "output")), scan.value(Site(path, "output"))) for path in sorted(paths - reached)]
    return SiteTable((*visited, *missed))


def _rows(site: Site, scan: Scan) -> Iterator[SiteRow]:
    shown = site._replace(point="input") if site.point == "inputs" else site
    value = scan.value(shown)
    if not (site.point == "inputs" and isinstance(value, Unknown)):  # called without arguments
        yield SiteRow(_name(shown), value)


def _name(site: Site) -> str:
    return f"model.{site}"


def description(value: Any) -> str:
    """What passes, in a few words.

    >>> description((1, None))
    '(1, None)'
    """
    if isinstance(value, dict):
        return f"{type(value).__name__}({', '.join(f'{key}={description(item)}' for key, item in value.items())})"
    if isinstance(value, (tuple, list)):
        inner = ", ".join(map(description, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    return str(value)
