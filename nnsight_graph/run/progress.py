"""A bar that shows how many forwards of a run are done."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


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
def progress(run: Any, total: int | None) -> Iterator[None]:
    """Show a bar with one tick per step of ``run``."""
    with bar("step", total) as advance:
        done = 0

        def tick(step: int) -> None:
            nonlocal done
            if step >= done:  # else it was counted as the first, when a module was called before the steps began
                done += 1
                advance()

        run.tick = tick
        try:
            yield
        finally:
            run.tick = None
