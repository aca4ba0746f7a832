"""Whether a row of a batch gets the numbers that its prompt gets alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import NNsightError
from ..model.invoker import Call, Invoke
from ..ops.nested import tensors_in
from ..ops.rows import rows_of


def compare_rows(
    run: Callable[..., Any], invokes: Sequence[Invoke], join: Callable[[Sequence[Invoke]], Call], rtol: float, atol: float
) -> list[float]:
    """The largest difference of each invoke between the batch and the invoke alone.

    Raises:
        NNsightError: a difference beyond the tolerances.
    """
    with torch.no_grad():
        batch = join(invokes)
        together = _first(run(**batch.kwargs))
        worst = []
        for number, (invoke, rows) in enumerate(zip(invokes, batch.rows, strict=True)):
            call = join([invoke])
            alone, mine = _first(run(**call.kwargs)), rows_of(together, rows)
            pairs = _tokens(mine, batch.kwargs, rows.start, rows.stop), _tokens(alone, call.kwargs, 0, rows.stop - rows.start)
            worst.append(_difference(number, *pairs, rtol, atol))
    return worst


def _first(result: Any) -> torch.Tensor:
    return next(tensor for tensor in tensors_in(result) if tensor.is_floating_point() and tensor.dim() > 1)


def _tokens(output: torch.Tensor, inputs: dict[str, Any], start: int, stop: int) -> list[torch.Tensor]:
    """What the model returns for the real tokens of each row, padding left out."""
    mask = inputs.get("decoder_attention_mask", None if "decoder_input_ids" in inputs else inputs.get("attention_mask"))
    if mask is None or mask.dim() != 2 or output.dim() < 3 or mask.shape[1] != output.shape[1]:
        return list(output)
    return [row[keep.bool()] for row, keep in zip(output, mask[start:stop].to(output.device), strict=True)]


def _difference(number: int, mine: list[torch.Tensor], alone: list[torch.Tensor], rtol: float, atol: float) -> float:
    worst = 0.0
    for one, other in zip(mine, alone, strict=True):
        worst = max(worst, (one - other).abs().max().item())
        if not torch.allclose(one, other, rtol=rtol, atol=atol):
            raise NNsightError(f"prompt {number} gets other numbers in the batch than alone: the largest difference is {worst:.3g}")
    return worst
