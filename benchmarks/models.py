"""The models: random weights, the same at every call, a fresh module each time so that nobody measures another's leftovers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")


def _seeded(make: Callable[[], Made]) -> Made:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def tiny() -> torch.nn.Sequential:
    """Two linear layers: a forward that costs next to nothing."""
    return _seeded(lambda: torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.Linear(10, 2)).eval())


def small() -> Any:
    """GPT-2 of four layers, 256 wide, four heads."""
    return gpt2(n_layer=4, n_embd=256, n_head=4, vocab_size=1000, n_positions=64, bos_token_id=0, eos_token_id=0)


def large() -> Any:
    """GPT-2 in its own size: 124 million parameters."""
    return gpt2()


def gpt2(**sizes: int) -> Any:
    """A language model with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _seeded(lambda: GPT2LMHeadModel(GPT2Config(**sizes)).eval())


def wide(layers: int = 6, width: int = 256) -> torch.nn.Sequential:
    """Linear layers whose activations outweigh their weights."""
    return _seeded(lambda: torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(layers)]).eval())


def vectors(rows: int, width: int) -> torch.Tensor:
    """Input of ``tiny`` (width 5) and ``wide``."""
    return _seeded(lambda: torch.rand(rows, width))


def tokens(rows: int = 1, length: int = 16, vocabulary: int = 1000) -> torch.Tensor:
    """Input of ``small``."""
    return _seeded(lambda: torch.randint(0, vocabulary, (rows, length)))
