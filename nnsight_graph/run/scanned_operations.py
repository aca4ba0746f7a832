"""Operations inside the forwards of a twin, for scans that are asked what passes there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from ..errors import NNsightError
from ..graph import Site
from ..ops.running import current
from .detours import Leave
from .operations import install_operations

Note = Callable[[Site, Any], Any]


class _Listener:
    """What a run is to the operations of a twin."""

    busy, error, failed = False, None, None
    outside: dict[str, Any] = {}  # noqa: RUF012  (never filled)

    def __init__(self, paths: Sequence[str], note: Note) -> None:
        visits = [SimpleNamespace(path=path, nodes=(0,)) for path in paths]
        self.plan = SimpleNamespace(hooks={path: ((path, "inputs"), (path, "output")) for path in paths}, skips={}, visits=visits)
        self._note, self._calls = note, dict[tuple[str, str], int]()

    def share(self, *_given: Any) -> None:
        """Nothing is edited here."""

    def bringing(self, where: Any) -> Callable[[Any], None]:
        """What notes the values of an operation."""
        def bring(value: Any) -> None:
            self._calls[where] = call = self._calls.get(where, -1) + 1
            self._note(Site(where[0], where[1], call), value)

        return bring


@contextlib.contextmanager
def operations_of(twin: torch.nn.Module, paths: Sequence[str], note: Note) -> Iterator[None]:
    """While it lasts, what passes at operations of a twin is noted.

    Args:
        twin: The twin of a model.
        paths: The operations.
        note: Is told the site, and what passes.

    Raises:
        NNsightError: one of them is not there.
    """
    listener, undo = _Listener(paths, note), list[Callable[[], None]]()
    token = current.set(listener)
    try:
        modules: Any = SimpleNamespace(modules=dict(twin.named_modules()))
        install_operations(listener, modules, listener.bringing, undo)  # type: ignore[arg-type]
        yield
    except Leave:
        raise listener.error or NNsightError("an operation is not there") from None
    finally:
        for remove in reversed(undo):
            remove()
        current.reset(token)
