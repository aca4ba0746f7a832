"""Prompts, as people write them -> the arguments of a model's call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import RecordError

_INPUTS = ("input_ids", "inputs_embeds")


def encode(tokenizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Named arguments for a call of the model.

    Args:
        tokenizer: For prompts that are text.
        args: At most one prompt: a string, token ids (a list or a tensor, of one row or several), an encoding or
            another mapping of names to tensors.
        kwargs: Arguments for the model; they win over what the prompt brings.

    Raises:
        RecordError: there is no prompt, or one that nothing can be made of.
    """
    if len(args) > 1:
        raise RecordError(f"one prompt, not {len(args)}: pass the model's other arguments by name")
    if not args:
        if not any(name in kwargs for name in _INPUTS):
            raise RecordError('a trace needs a prompt: model.trace("The Eiffel Tower is in")')
        return kwargs
    inputs = {**_tensors(tokenizer, args[0]), **kwargs}
    ids = inputs.get("input_ids")
    if isinstance(ids, torch.Tensor) and ids.numel() == 0:
        raise RecordError(f"the prompt {args[0]!r} has no tokens")
    return inputs


def _tensors(tokenizer: Any, prompt: Any) -> dict[str, Any]:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise RecordError("this model was given without a tokenizer: pass token ids, or LanguageModel(model, tokenizer=...)")
        return dict(tokenizer(prompt, return_tensors="pt"))
    if isinstance(prompt, Mapping):
        return {name: torch.as_tensor(value) if isinstance(value, list) else value for name, value in prompt.items()}
    ids = _ids(prompt)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _ids(prompt: Any) -> torch.Tensor:
    try:
        ids = prompt if isinstance(prompt, torch.Tensor) else torch.tensor(prompt)
    except (TypeError, ValueError) as error:
        raise RecordError(f"a prompt is a string, token ids, a tensor or an encoding, not {type(prompt).__name__}") from error
    if ids.is_floating_point() or ids.dim() > 2:
        what = f"{ids.dtype} in {ids.dim()}"
        raise RecordError(f"token ids are whole numbers in one or two dimensions, not {what}; embeddings go in as inputs_embeds=")
    return ids.unsqueeze(0) if ids.dim() == 1 else ids
