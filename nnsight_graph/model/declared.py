"""``module.rows``: which dimension of what a module takes and returns holds the rows of a batch, said by you."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ours
from ..ops.layout import Answer, Held, declared
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
            raise ours(AttributeError, "rows")  # the module's own, or none
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


def as_data(declarations: Mapping[str, Any], model: int = 0) -> list[tuple[str, int | None, bool, int]]:
    """Declarations as they stand in a file: path, dimension, whether as tokens, number of the model."""
    data: list[tuple[str, int | None, bool, int]] = []
    for path, answer in declarations.items():
        data.append((path, answer.dim, answer.tokens, model) if type(answer) is Held else (path, None, False, model))
    return data


def from_data(rows: Iterable[Any], model: int = 0) -> dict[str, Any]:
    """The declarations of a model in a file."""
    return {one.path: Answer.NONE if one.dim is None else Held(one.dim, one.tokens) for one in rows if one.model == model}


def as_written(answer: Any) -> Any:
    """A declaration as it is written.

    >>> as_written(declared((0, "tokens")))
    (0, 'tokens')
    """
    if answer is Answer.NONE:
        return None
    return (answer.dim, "tokens") if answer.tokens else answer.dim


def text_of(rows: Iterable[tuple[str, int | None, bool, int]]) -> str:
    r"""Declarations in a file's text.

    >>> text_of([("gate", 0, True, 0)])
    "rows of gate: (0, 'tokens')\n"
    """
    return "".join(f"rows of {path}: {(dim, 'tokens') if tokens else dim}\n" for path, dim, tokens, _ in rows)
