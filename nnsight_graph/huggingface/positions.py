"""The numbers of a batch's tokens: each row is numbered as if it stood alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..errors import RecordError
from .needs import Needs
from .prompts import Prompt


def number_tokens(
    prompts: Sequence[Prompt], starts: Sequence[int], width: int, mask: torch.Tensor | None, needs: Needs, generate: bool = False
) -> torch.Tensor | None:
    """The ``position_ids`` of a batch, ``(rows, width)``; ``None`` where the model's own numbers are right.

    They are right where every row begins in the first column (padding on the right comes after what counts), where the
    model counts the mask, and in ``generate``, which counts it too. A mask of the user's that begins with zeros is
    padding in an invoke of several rows. In an invoke of one row it is a token hidden on purpose, which keeps its number.

    Args:
        prompts: What the invokes gave.
        starts: The columns of padding added on the left of each row.
        width: The columns of the batch.
        mask: The batch's attention mask.
        needs: What the model wants.
        generate: Whether the call is a ``generate``.

    Raises:
        RecordError: numbers that mean something else once there is an attention mask.

    >>> prompts = [Prompt([3], {}, {}), Prompt([1], {}, {})]
    >>> number_tokens(prompts, [0, 2], 3, None, Needs(positions="index"))
    tensor([[0, 1, 2],
            [0, 0, 0]])
    """
    given = any("position_ids" in prompt.inputs for prompt in prompts)
    if not given and (generate or needs.positions != "index"):
        return None
    past = prompts[0].past if len(prompts) == 1 and prompts[0].rows > 1 else None
    begins = [start + hidden for start, hidden in zip(starts, (n for prompt in prompts for n in _leading_zeros(prompt)), strict=True)]
    if not given and not any(begins) and (past is None or past.mask is None or bool(past.mask.all())):
        return None
    if needs.positions == "mask" and mask is not None:
        numbers = (mask.cumsum(-1) - 1).clamp(min=0)
    else:
        numbers = (torch.arange(width) - torch.tensor(begins).unsqueeze(1)).clamp(min=0) + needs.first
        numbers = numbers if past is None else numbers + past.counts(len(begins)).unsqueeze(1)
    return _with_given(numbers, prompts, starts, mask) if given else numbers


def _leading_zeros(prompt: Prompt) -> list[int]:
    mask = prompt.inputs.get("attention_mask")
    if mask is None or (prompt.rows == 1 and not prompt.filled):
        return [0] * prompt.rows
    if isinstance(mask, torch.Tensor) and (mask.dim() != 2 or mask.shape[1] != prompt.lengths[0] or bool(mask[:, 0].all())):
        return [0] * prompt.rows
    return [int(row.ne(0).int().argmax()) for row in mask]


def _with_given(numbers: torch.Tensor, prompts: Sequence[Prompt], starts: Sequence[int], mask: torch.Tensor | None) -> torch.Tensor:
    numbers, at = numbers.clone(), 0
    for prompt in prompts:
        rows = prompt.inputs.get("position_ids")
        if rows is not None:
            if mask is not None and "attention_mask" not in prompt.inputs:
                _check_steps(rows)
            for row, own in enumerate(_repeated(rows, prompt.rows), at):
                if own.shape != (prompt.lengths[row - at],):
                    raise RecordError(f"position_ids: a row of {prompt.lengths[row - at]} tokens has numbers of shape {tuple(own.shape)}")
                numbers[row, starts[row] : starts[row] + len(own)] = own.to(numbers.device)
        at += prompt.rows
    return numbers


def _repeated(rows: torch.Tensor | list[torch.Tensor], count: int) -> list[torch.Tensor]:
    return [rows[0]] * count if len(rows) == 1 else list(rows)


def _check_steps(rows: torch.Tensor | list[torch.Tensor]) -> None:
    """Transformers takes numbers that do not go up by one for several packed texts - unless there is an attention mask."""
    if any(row.dim() and bool((row.diff() != 1).any()) for row in rows):
        raise RecordError("position_ids that jump need an attention_mask= beside them here: without one they mean several texts in one row")
