"""What control flow needs of whatever records: a protocol, so that this folder knows no torch and no recorder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Unbound:
    """The kind of :data:`UNBOUND`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<unbound>"


UNBOUND: Any = Unbound()
"""Stands for the value of a name that has none."""


class Emitter(Protocol):
    """Records the regions of one trace.

    Calls come properly nested: ``begin_if``, the then-branch, ``begin_else``, the else-branch, ``end_if``; ``begin_loop``,
    for a ``while`` exactly one ``check_loop``, the body, ``end_loop``.
    """

    def traced(self, value: Any, /) -> bool:
        """Whether ``value`` is one of the open trace; asked often, so it must be cheap."""

    def items(self, value: Any, /) -> Any:
        """The items of a value of the open trace, if it is known how many there are; else ``None``."""

    def steps(self, value: Any, statement: str, /) -> bool:
        """Whether ``value`` is a range of steps whose body is recorded once, in a ``"for"`` or in a ``"with"``."""

    def recordable(self, value: Any, /) -> bool:
        """Whether ``value`` can be merged and carried: traced, a plain constant, or a container of such."""

    def records(self, owner: Any, /) -> bool:
        """Whether ``owner.x = ...`` and ``owner[i] = ...`` are recorded rather than done at once."""

    def begin_if(self, test: Any, /) -> None:
        """Open the then-branch."""

    def begin_else(self) -> None:
        """Close the then-branch and open the else-branch; called even where that is empty."""

    def end_if(self, merges: Sequence[tuple[str, Any, Any]], /) -> list[Any]:
        """Close the else-branch; ``(name, value in then, value in else)``, either may be UNBOUND. The merged values."""

    def begin_loop(self, kind: str, source: Any, carried: Sequence[tuple[str, Any]], /) -> tuple[Any, list[Any]]:
        """Open a loop.

        Args:
            kind: ``for``, ``while`` or ``steps``.
            source: The traced collection, ``None``, or the range of steps.
            carried: ``(name, initial value or UNBOUND)``.

        Returns:
            The item, and a value for each carried name as it is when a turn begins.
        """

    def check_loop(self, test: Any, current: Sequence[Any], /) -> None:
        """Leave the loop here if ``test`` is false, with the carried values as they are now."""

    def end_loop(self, leave: Any, following: Sequence[Any], /) -> list[Any]:
        """Close the loop.

        Args:
            leave: Whether to stop after this turn: False, True or traced.
            following: The carried values for the next turn; UNBOUND where a name has none or cannot have one.

        Returns:
            The carried values after the loop.
        """

    def call(self, name: str, /, *operands: Any, **keywords: Any) -> Any:
        """Record a named operation: ``not_``, ``contains``, ``len``, ``sorted`` ...; ``unpack`` gives a sequence."""

    def lift(self, container: Any, /) -> Any:
        """A list, dict or set as a traced one with these contents; the original gets the final contents after the run."""

    def raise_(self, error: Any, /, *traced_parts: Any) -> None:
        """Record that an error is raised here."""

    def print_(self, *args: Any, **kwargs: Any) -> None:
        """Record a ``print``."""

    def bound(self, name: str, value: Any, /) -> Any:
        """The use of a name that may be unset on the path taken."""

    def save(self, value: Any, /) -> Any:
        """``value.save()`` for a value that may have no such method."""

    def poison(self, error: BaseException, /) -> None:
        """The trace may not run any more, whatever becomes of ``error``."""
