"""A bar that shows how many forwards of a run are done."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..ops.running import current
from .hooks import add_hook
from .undoing import Undo, undo_all


@contextmanager
def bar(unit: str, total: int | None = None) -> Iterator[Callable[[], Any]]:
    """Show a bar; gives what moves it on."""
    shown = importlib.import_module("tqdm.auto").tqdm(total=total, unit=unit)
    try:
        yield shown.update
    finally:
        if shown.total is not None and shown.n < shown.total:  # it ended before the longest it could have been
            shown.total = shown.n
            shown.refresh()
        shown.close()


@contextmanager
def progress(run: Any, root: torch.nn.Module, total: int | None) -> Iterator[None]:
    """Show a bar with one tick per forward of ``root`` in ``run``."""
    with bar("step", total) as advance:

        def tick(_module: torch.nn.Module, _args: Any, _output: Any) -> None:
            if current.get() is run and not run.busy:
                advance()

        undo: Undo = []
        try:
            add_hook(root, "_forward_hooks", tick, False, undo)
            yield
        finally:
            undo_all(undo)
