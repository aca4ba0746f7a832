"""Variables of rewritten code, read and written from outside it, and what a variable may hold besides a value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CellType
from typing import Any

from .emitter import UNBOUND
from .frames import read, write


class Maybe:
    """A name that is unset on some paths; ``value`` is the merged value."""

    __slots__ = ("name", "value")

    def __init__(self, name: str, value: Any) -> None:
        self.name = name
        self.value = value


class Refused:
    """A name whose value depends on a traced condition and cannot be recorded, such as a module."""

    __slots__ = ("name", "values")

    def __init__(self, name: str, *values: Any) -> None:
        self.name = name
        self.values = values

    def __str__(self) -> str:
        kinds = " or ".join(dict.fromkeys("unset" if v is UNBOUND else f"a {type(v).__name__}" for v in self.values if v is not self))
        return (
            f"which object `{self.name}` is ({kinds}) depends on a traced condition or loop; only values can, not modules or other "
            f"objects. Use `{self.name}` inside the branch that sets it, or choose between values: torch.where(condition, a, b)."
        )


class Global:
    """A module's variable, with the interface of a cell."""

    __slots__ = ("_name", "_namespace")

    def __init__(self, namespace: dict[str, Any], name: str) -> None:
        self._namespace = namespace
        self._name = name

    @property
    def cell_contents(self) -> Any:
        if self._name not in self._namespace:
            raise ValueError(self._name)
        return self._namespace[self._name]

    @cell_contents.setter
    def cell_contents(self, value: Any) -> None:
        self._namespace[self._name] = value

    @cell_contents.deleter
    def cell_contents(self) -> None:
        del self._namespace[self._name]


class Names:
    """The variables that functions, never called, mention: ``lambda: (x, y)``."""

    __slots__ = ("names", "_cells")

    def __init__(self, *mentions: Callable[[], Any] | None) -> None:
        pairs: dict[str, Any] = {}
        for mention in mentions:
            pairs.update(_variables(mention) if mention is not None else ())
        self.names = list(pairs)
        self._cells: list[CellType] = list(pairs.values())

    def read(self) -> list[Any]:
        """Their values."""
        return [read(cell) for cell in self._cells]

    def write(self, values: list[Any]) -> None:
        """Set or unset them."""
        for cell, value in zip(self._cells, values, strict=True):
            write(cell, value)

    def fill(self, value: Any) -> None:
        """Set them all to one value."""
        self.write([value] * len(self._cells))

    def replace(self, old: Any, new: Any) -> None:
        """Let every one that holds ``old`` hold ``new``."""
        for cell in self._cells:
            if read(cell) is old:
                write(cell, new)


def _variables(mention: Any) -> Iterator[tuple[str, Any]]:
    code = mention.__code__
    yield from zip(code.co_freevars, mention.__closure__ or (), strict=True)
    for name in code.co_names:
        yield name, Global(mention.__globals__, name)
