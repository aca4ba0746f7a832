"""Runs every operation that a file may name, and that takes two integers or two tensors of them, on the smallest and largest ones.

`python -m tests.serialize.integer_runs` prints the operation and the operands before each is run, within limits: what stands last when the
process ends of a signal is what ended it.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from nnsight_graph import Limits
from nnsight_graph.ops.portable import is_portable, keywords_of, most_arguments
from nnsight_graph.ops.table import function_of, names
from nnsight_graph.run.limits import Meter

LIMITS = Limits(operations=1_000, value_bytes=1 << 16, integer_bits=256)
LENGTHS = (1, 17)  # a vector register holds fewer


def extremes(dtype: torch.dtype) -> list[int]:
    return [torch.iinfo(dtype).min, -1, 5, torch.iinfo(dtype).max]


def binary() -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """The operations that take two tensors of integers, in each of their modes."""
    for name in sorted(names()):
        most = most_arguments(name)
        if name[0] == "@" or not is_portable(name) or (most is not None and most < 2):
            continue
        try:
            function = function_of(name)
            Meter(LIMITS).evaluate(function, [torch.tensor([7, 6]), torch.tensor([1, 1])], {})
        except Exception:  # not of this torch, or no such operation
            continue
        for mode in (None, "trunc", "floor") if "rounding_mode" in keywords_of(name) else (None,):
            yield name, function, {} if mode is None else {"rounding_mode": mode}


def pairs() -> Iterator[tuple[Any, Any]]:
    for dtype in (torch.int64, torch.int32):
        for one, other in itertools.product(extremes(dtype), repeat=2):
            for length in LENGTHS:
                yield torch.full((length,), one, dtype=dtype), torch.full((length,), other, dtype=dtype)
            yield torch.tensor(one, dtype=dtype), torch.tensor(other, dtype=dtype)
            yield torch.full((3,), one, dtype=dtype), other
            yield one, torch.full((3,), other, dtype=dtype)
            yield one, other


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name, function, named in binary():
        print(name, named, flush=True)
        for one, other in pairs():
            try:
                Meter(LIMITS).evaluate(function, [one, other], named)
            except Exception:  # refused: the process goes on
                continue
    print("all")


if __name__ == "__main__":
    main()
