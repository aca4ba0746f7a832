"""Paths of nnsight's modules: ``from nnsight_graph.intervention.envoy import Envoy``.

What can be imported from them are the public names of this package. They hold no code: the parts of nnsight's machinery that have no
counterpart here are not there.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from .errors import ours

_PACKAGE = __name__.rpartition(".")[0]
PATHS = (
    "envoy", "intervention", "intervention.cache", "intervention.contexts", "intervention.envoy", "intervention.eproperty",
    "intervention.errors", "intervention.interleaver", "intervention.source", "intervention.tracer", "intervention.tracing",
    "intervention.tracing.base", "intervention.tracing.globals", "intervention.tracing.invoker", "intervention.tracing.tracer",
    "modeling", "modeling.base", "modeling.language", "modeling.transformers", "schema", "schema.config", "tracing", "tracing.globals",
    "tracing.hint", "tracing.tracer", "util",
)  # fmt: skip


class OldPath(ModuleType):
    """A module that gives what the package itself gives."""

    def __getattr__(self, name: str) -> Any:
        if name[:1] == "_":
            raise ours(AttributeError, f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(sys.modules[_PACKAGE], name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *sys.modules[_PACKAGE].__all__})


def put_there() -> None:
    """Make the paths importable."""
    for path in PATHS:
        name = f"{_PACKAGE}.{path}"
        sys.modules[name] = module = OldPath(name, f"The public names of {_PACKAGE}, where nnsight has them.")
        module.__path__ = []
        owner, _, last = name.rpartition(".")
        setattr(sys.modules[owner], last, module)
