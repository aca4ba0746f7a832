"""``module.rows``: which dimension of what a module takes and returns holds the rows of a batch, said by you."""

from __future__ import annotations

from typing import Any

from ..ops.layout import Answer, declared
from .tree import Tree


class Declared:
    """The attribute ``rows`` of an envoy: a dimension, ``None`` for no rows, or ``(dimension, "tokens")``.

    A module with an attribute of that name keeps it: ``model.declare_rows("path", dim)`` does the same for it.
    """

    def __get__(self, envoy: Any, _kind: Any = None) -> Any:
        if envoy is None:
            return self
        known = envoy._tree.declared.get(envoy._output.path)
        if known is None or has_rows(envoy):
            raise AttributeError("rows")  # the module's own, or none
        return as_written(known)

    def __set__(self, envoy: Any, given: Any) -> None:
        declare(envoy._tree, envoy._output.path, given)


def has_rows(envoy: Any) -> bool:
    """Whether a module has an attribute of the name ``rows``."""
    return hasattr(envoy._module, "rows") and "_source" not in envoy.__dict__


def declare(tree: Tree, path: str, given: Any) -> None:
    """Say which dimension of what passes at a module, or an operation, holds rows.

    Raises:
        NNsightError: it is no dimension, nor ``None``, nor ``(dimension, "tokens")``.
    """
    tree.declared = {**tree.declared, path: declared(given)}


def as_written(answer: Any) -> Any:
    """A declaration as it is written.

    >>> as_written(declared((0, "tokens")))
    (0, 'tokens')
    """
    if answer is Answer.NONE:
        return None
    return (answer.dim, "tokens") if answer.tokens else answer.dim
