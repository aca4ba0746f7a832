"""Edits in place of what lies on a weight or a buffer are refused, wherever these have been moved since the last run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from nnsight_graph import NNsight, NNsightError

X = torch.ones(2, 3)


class Table(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        if kind == "buffer":
            self.register_buffer("kept", torch.ones(4, 3))
        else:
            self.kept = nn.Parameter(torch.ones(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.kept[:2]


class Model(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.table = nn.Sequential(Table(kind))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + self.table(x)


def _load(model: Model) -> None:
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)


def _assign(model: Model) -> None:
    table = model.table[0]
    table.kept = nn.Parameter(torch.ones(4, 3)) if isinstance(table.kept, nn.Parameter) else torch.ones(4, 3)


def _set(model: Model) -> None:
    model.table[0].kept.data = torch.ones(4, 3)


def _exchange(model: Model) -> None:
    model.table[0] = Table("buffer")


def _move(model: Model) -> None:
    model.table.double().float()


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
@pytest.mark.parametrize("change", [_load, _assign, _set, _move, _exchange])
def test_edits_of_weights_are_refused(kind: str, change: Callable[[Model], None]) -> None:
    model = NNsight(Model(kind))
    for again in (False, True):
        if again:
            change(model._module)
        with pytest.raises(NNsightError, match="for good"), torch.no_grad(), model.trace(X):
            model.table.output[0] = 7
        assert bool((model._module.table[0].kept == 1).all())
