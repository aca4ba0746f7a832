"""Attention weights of a layer, whatever computes its attention: taken where there are any, recomputed from queries and keys elsewhere.

The layer's own result stays what it is, unless the weights are changed: then it is computed from them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import NNsightError

NAME = "attention_weights"
_INTERFACE = "attention_interface_"
_EAGER = "eager_attention_forward"
_FLASH = "flash_attention_forward"
_SDPA = "sdpa_attention_forward"
_DIRECT = "scaled_dot_product_attention"


def operation_with_weights(names: Sequence[str]) -> str | None:
    """The operation of an attention module's forward that has the weights, or that attends; ``None`` if there is none.

    >>> operation_with_weights(["self_c_attn_0", "attention_interface_0"])
    'attention_interface_0'
    """
    attending = [name for name in names if name.startswith(_INTERFACE)]
    for kind in ("softmax", _DIRECT):
        attending = attending or [name for name in names if name.rpartition("_")[0].endswith(kind)][-1:]
    return next(iter(attending), None)


def attend(name: str, bring: Callable[[Any], Any], target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Perform the operation; its weights pass by ``bring``, which may change them.

    Raises:
        NNsightError: the weights of this kind of attention cannot be told.
    """
    result = target(*args, **kwargs)
    if name.rpartition("_")[0].endswith(_DIRECT):
        weights = _changed(_scores(*args, **kwargs).softmax(-1), bring)
        return result if weights is None else _attended(weights, args[2] if len(args) > 2 else kwargs["value"])
    if not name.startswith(_INTERFACE):  # a softmax: its result is the weights
        if not isinstance(result, torch.Tensor):
            raise NNsightError(f"{name} returns a {type(result).__name__}, and no attention weights")
        changed = bring(result)
        return result if changed is None else changed
    weights = _changed(_weights(target, args, kwargs, result), bring)
    return result if weights is None else (_attended(weights, args[3]).transpose(1, 2).contiguous(), weights)


def _changed(weights: torch.Tensor, bring: Callable[[Any], Any]) -> torch.Tensor | None:
    """The weights that a trace has made of them; ``None`` if it has left them."""
    before = weights.clone() if weights.is_inference() else weights._version  # inference tensors have no counters
    changed: torch.Tensor | None = bring(weights)
    if changed is not None:
        return changed
    edited = not torch.equal(weights, before) if isinstance(before, torch.Tensor) else weights._version != before
    return weights if edited else None


def _attended(weights: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What weights make of the values, ``[batch, heads, queries, head dimension]``."""
    value = value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1) if weights.shape[1] != value.shape[1] else value
    return weights.to(value.dtype) @ value


def _scores(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    """The scores of torch's ``scaled_dot_product_attention``, masked."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1) if enable_gqa else key
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is None:
        return scores
    return scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype is torch.bool else scores + attn_mask


def _weights(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> torch.Tensor:
    if isinstance(result[1], torch.Tensor) and result[1].dim() == 4:
        return result[1]
    module, query, key, value, *rest = args
    if kwargs.get("dropout"):
        raise NNsightError("attention weights with dropout are those of one draw: take them in eval mode, or with eager attention")
    kind = getattr(target, "__name__", type(target).__name__)
    eager = getattr(sys.modules[type(module).__module__], _EAGER, None)
    if eager is None or kind not in (_SDPA, _FLASH):
        raise NNsightError(
            f"the attention weights of {kind} cannot be recomputed for {type(module).__name__}: load the model with "
            'attn_implementation="eager"'
        )
    named = {name: given for name, given in kwargs.items() if name not in ("attention_mask", "dropout", "is_causal")}
    mask = rest[0] if rest else kwargs.get("attention_mask")
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    named.setdefault("scaling", query.shape[-1] ** -0.5)
    mask = _additive(mask, query, key, bool(causal), kwargs.get("sliding_window") if kind == _FLASH else None, kind == _FLASH)
    weights: torch.Tensor = eager(module, query, key, value, mask, dropout=0.0, **named)[1]
    return weights


def _additive(mask: Any, query: torch.Tensor, key: torch.Tensor, causal: bool, window: int | None, at_the_end: bool) -> Any:
    """A mask that is added to scores, ``[batch, 1, queries, keys]``; ``None`` where nothing is masked."""
    queries, keys = query.shape[2], key.shape[2]
    if isinstance(mask, torch.Tensor) and mask.dim() == 4:
        allowed = mask[..., :keys]
        if mask.dtype is not torch.bool:
            return allowed
    elif mask is None or (isinstance(mask, torch.Tensor) and mask.dim() == 2):
        places = torch.arange(queries, device=query.device)[:, None] + (keys - queries if at_the_end else 0)
        allowed = torch.ones(1, 1, queries, keys, dtype=torch.bool, device=query.device)
        if causal and (queries > 1 or window):
            allowed = allowed & (torch.arange(keys, device=query.device) <= places)
        if window:
            allowed = allowed & (torch.arange(keys, device=query.device) > places - window)
        if mask is not None:
            allowed = allowed & mask[:, None, None, -keys:].bool()
        if bool(allowed.all()):
            return None
    else:
        raise NNsightError(f"attention weights cannot be recomputed from a {type(mask).__name__}")
    return torch.zeros_like(allowed, dtype=query.dtype).masked_fill(~allowed, torch.finfo(query.dtype).min)
