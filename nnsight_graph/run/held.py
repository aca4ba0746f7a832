"""How much of what a program made is still there: the memory of its tensors, wherever they lie, in names, containers or each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from ..errors import LimitError

_LOOKED = 16
"""How many storages are looked at for the price of one operation."""


class Held:
    """Counts the bytes of storages that operations made, until those are gone.

    Args:
        most: How many bytes there may be at one time.
        charge: Told of the work of looking through them, in operations.

    Example:
        >>> import torch
        >>> held, one = Held(100, print), torch.ones(10)
        >>> held.note([one, one[:5], torch.ones(5)])
        >>> held.expect(50)
        0.125
        >>> held.bytes
        40
    """

    def __init__(self, most: int, charge: Callable[[float], None]) -> None:
        self.bytes = 0
        self._most, self._charge = most, charge
        self._sizes: dict[int, tuple[StorageWeakRef, int]] = {}

    def expect(self, size: int) -> None:
        """Refuse what will take so much more.

        Raises:
            LimitError: it would be too much.
        """
        if self.bytes + size > self._most:
            self._look()
            if self.bytes + size > self._most:
                total = self.bytes + size
                raise LimitError(f"all that the program holds would take {total} bytes, more than {self._most}: Limits(held_bytes=...)")

    def note(self, made: Iterable[torch.Tensor]) -> None:
        """Count what was made.

        Raises:
            LimitError: it is too much.
        """
        for tensor in made:
            try:
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
            except (RuntimeError, NotImplementedError):  # it has none: sparse, or fake
                continue
            known = self._sizes.get(key)
            if known is None or known[1] != size:
                self.bytes += size - (known[1] if known else 0)
                self._sizes[key] = (StorageWeakRef(storage), size)
        self.expect(0)

    def _look(self) -> None:
        """Forget what is gone."""
        self._charge(len(self._sizes) / _LOOKED)
        self._sizes = {key: kept for key, kept in self._sizes.items() if not kept[0].expired()}
        self.bytes = sum(size for _, size in self._sizes.values())


def tensors_of(made: Any) -> list[torch.Tensor]:
    """The tensors that an operation of torch gave.

    >>> len(tensors_of((torch.ones(1), 2, [torch.ones(1)])))
    2
    """
    if isinstance(made, torch.Tensor):
        return [made]
    return [tensor for item in made for tensor in tensors_of(item)] if isinstance(made, (list, tuple)) else []


@lru_cache(4096)
def makes_anew(function: Any) -> bool:
    """Whether what an operation of aten gives lies on storage of its own.

    >>> makes_anew(torch.ops.aten.add.Tensor), makes_anew(torch.ops.aten.view.default), makes_anew(torch.ops.aten.add_.Tensor)
    (True, False, False)
    """
    return any(result.alias_info is None for result in function._schema.returns)


def in_backward() -> bool:
    """Whether a backward pass goes on, which leaves the gradients of all weights."""
    return bool(torch._C._current_graph_task_id() != -1)
