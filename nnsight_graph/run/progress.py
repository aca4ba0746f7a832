"""A bar that shows how many forwards of a run are done."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..ops.running import current


@contextmanager
def progress(run: Any, root: torch.nn.Module, total: int | None) -> Iterator[None]:
    """Show a bar with one tick per forward of ``root`` in ``run``."""
    bar = importlib.import_module("tqdm.auto").tqdm(total=total, unit="step")

    def tick(_module: torch.nn.Module, _args: Any, _output: Any) -> None:
        if current.get() is run and not run.busy:
            bar.update()

    hook = root.register_forward_hook(tick)
    try:
        yield
    finally:
        hook.remove()
        if bar.total is not None and bar.n < bar.total:  # it ended before the longest it could have been
            bar.total = bar.n
            bar.refresh()
        bar.close()
