"""Whether a row of a batch gets the numbers that its prompt gets alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..errors import NNsightError
from ..model.invoker import Call, Invoke

_DECODED = ("decoder_input_ids", "decoder_inputs_embeds")


class Pair(NamedTuple):
    """What a row gets in a batch, and what its prompt gets alone: its real tokens, padding left out."""

    name: str
    batched: torch.Tensor
    alone: torch.Tensor

    @property
    def difference(self) -> float:
        """The largest difference of two numbers."""
        return (self.batched - self.alone).abs().max().item() if self.alone.numel() else 0.0


def compare_rows(
    run: Callable[..., Any], invokes: Sequence[Invoke], join: Callable[[Sequence[Invoke]], Call], rtol: float, atol: float
) -> list[float]:
    """The largest difference of each invoke between the batch and the invoke alone.

    Raises:
        NNsightError: a difference beyond the tolerances; or the model returns nothing that has a row for each prompt.
    """
    with torch.no_grad():
        batch = join(invokes)
        together = dict(results(run(**batch.kwargs), batch.rows[0].size))
        worst = []
        for number, (invoke, rows) in enumerate(zip(invokes, batch.rows, strict=True)):
            call = join([invoke])
            alone = dict(results(run(**call.kwargs), rows.stop - rows.start))
            found = list(pairs(together, batch.kwargs, rows.start, alone, call.kwargs))
            if not found:
                raise NNsightError("what the model returns has no row for each prompt: there is nothing to compare")
            worst.append(max(pair.difference for pair in found))
            if not all(torch.allclose(pair.batched, pair.alone, rtol=rtol, atol=atol) for pair in found):
                raise NNsightError(f"prompt {number} gets other numbers in the batch than alone: the largest difference is {worst[-1]:.3g}")
    return worst


def results(value: Any, rows: int, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of fractional numbers that a model returns with one entry for each row, by name."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and value.dim() and value.shape[0] == rows:
            yield name, value
    elif isinstance(value, (dict, tuple, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from results(item, rows, f"{name}.{key}" if name else str(key))


def pairs(
    together: Mapping[str, torch.Tensor], batch: Mapping[str, Any], start: int, alone: Mapping[str, torch.Tensor], own: Mapping[str, Any]
) -> Iterator[Pair]:
    """What the rows of a prompt get in a batch, beside what they get alone.

    Args:
        together: What the batch gave.
        batch: The arguments of its call.
        start: The first row of the prompt.
        alone: What the prompt gave alone.
        own: The arguments of that call.
    """
    for name, values in alone.items():
        if name not in together:
            continue
        of_decoder = any(key in batch for key in _DECODED) and not name.startswith("encoder")
        for row, value in enumerate(values):
            batched = _real(together[name][start + row], batch, start + row, of_decoder)
            value = _real(value, own, row, of_decoder)
            if of_decoder and value.dim() and batched.shape[:1] > value.shape[:1]:
                batched = batched[: len(value)]  # a decoder's input is padded on its right
            if batched.shape == value.shape:
                yield Pair(name, batched, value)


def _real(value: torch.Tensor, inputs: Mapping[str, Any], row: int, of_decoder: bool) -> torch.Tensor:
    """What a row has for its real tokens, where it has an entry for each column."""
    mask = inputs.get("decoder_attention_mask" if of_decoder else "attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.dim() != 2 or value.dim() < 1 or mask.shape[1] != value.shape[0]:
        return value
    return value[mask[row].bool().to(value.device)]
