"""What a model writes over in place after it has passed: found in the first run with a cache, and kept as a copy from then on.

A module may give on a tensor that its parent then works on in place (``mlp_output += attention_output``). Nothing in the module tells:
so in the first run that keeps what passes there, every operation of torch that writes into a tensor is seen before it does, and what was
kept on that memory gets memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

if TYPE_CHECKING:
    from .capture import Capture

Known = dict[tuple[str, str], bool]
"""Of what passes at a module, by its path and ``"inputs"`` or ``"output"``: whether the model writes over it."""


class Overwriting(TorchDispatchMode):
    """Sees what a run writes over of what its caches keep."""

    supports_higher_order_operators = True

    def __init__(self, captures: Iterable[Capture], known: Known) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._captures, self._known = tuple(captures), known

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; before one that writes, part what is kept from what it writes into."""
        schema = getattr(function, "_schema", None)
        if schema is not None and schema.is_mutable:
            for argument, value in _given(schema.arguments, args, kwargs or {}):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for capture in self._captures:
                        for place in capture.part(value):
                            self._known[place] = True
        return function(*args, **(kwargs or {}))

    def begin(self) -> Callable[[], None]:
        """See operations from here on; what is returned ends that, and does nothing where it has not begun."""

        def end() -> None:
            if _get_current_dispatch_mode() is self:
                self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

        return end

    def learn(self) -> None:
        """The model has run as a whole: what was not written over is known not to be, and what did not run is copied when it does."""
        for capture in self._captures:
            for place in capture.passed():
                self._known.setdefault(place, False)
            for place in capture.places():
                self._known.setdefault(place, True)


def watching(captures: Iterable[Capture]) -> Overwriting | None:
    """What sees writes, for the caches of a run of which some keep what is not known yet."""
    unknown = [capture for capture in captures if capture.aliases and not capture.known.keys() >= set(capture.places())]
    for capture in unknown:
        capture.watched = True
    return Overwriting(unknown, unknown[0].known) if unknown else None


def _given(arguments: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
    positional = list(zip(arguments, args, strict=False))
    return positional + [(argument, kwargs[argument.name]) for argument in arguments[len(args) :] if argument.name in kwargs]

