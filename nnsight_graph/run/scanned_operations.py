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


class _At:
    """The passes of an operation, which are counted: all are looked at."""

    def __init__(self, path: str, point: str) -> None:
        self.path, self.point, self.calls = path, point, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(0, 0), (0, 1)])


class _Listener:
    """What a run is to the operations of a twin."""

    busy, error, failed = False, None, None
    outside: dict[str, Any] = {}  # noqa: RUF012  (never filled)

    def __init__(self, paths: Sequence[str], note: Note) -> None:
        visits = [SimpleNamespace(path=path, nodes=(0,)) for path in paths]
        hooks = {path: (_At(path, "inputs"), _At(path, "output")) for path in paths}
        self.plan = SimpleNamespace(hooks=hooks, skips={}, visits=visits, by_calls=False, derives=False, edited=())
        self._note = note

    def share(self, *_given: Any) -> None:
        """Nothing is edited here."""

    def bringing(self, where: _At) -> Callable[[Any], None]:
        """What notes the values of an operation."""
        def bring(value: Any) -> None:
            where.calls += 1
            self._note(Site(where.path, where.point, where.calls - 1), value)

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
