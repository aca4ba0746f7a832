"""Attention weights as numbers: recomputed from queries and keys where a layer keeps none, and a layer's result made of changed ones.

The layer's own result stays what it is, unless the weights are changed: then it is computed from them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..errors import NNsightError
from .checkpoints import apart, saves_are_counted

NAME = "attention_weights"
INTERFACE = "attention_interface_"
_EAGER = "eager_attention_forward"
_FLASH = "flash_attention_forward"
_SDPA = "sdpa_attention_forward"
_HALVES = (torch.float16, torch.bfloat16)

Bring = Callable[[Any, Any], Any]
"""Called with weights, and with the tensor that the layer has made its result of, if it has; returns what they were changed to."""


def is_told(target: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether an attention function of transformers is one of which the weights are known without looking into it."""
    kind = _kind(target)
    return kind == _EAGER or (kind in (_SDPA, _FLASH) and _eager_of(args) is not None)


def interface(bring: Bring, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an attention function of transformers that :func:`is_told`; its weights pass by ``bring``, which may change them.

    Raises:
        NNsightError: what it makes of changed weights cannot be told.
    """
    eager = _kind(target) == _EAGER
    if eager or not kwargs.get("dropout"):
        result = target(*args, **kwargs)
    else:  # weights of one draw: the layer's result has to come from the same
        result = _eagerly(target, args, kwargs, kwargs["dropout"])
    own = result[1] if isinstance(result[1], torch.Tensor) else None
    weights = bring(aside(lambda: _eagerly(target, args, kwargs, 0.0)[1]) if own is None else own, own)
    if weights is None:
        return result

    def again() -> Any:
        return target(*args, **{**kwargs, "dropout": 0.0}) if eager else _eagerly(target, args, kwargs, 0.0)

    return _from_weights(weights, args[3], again), weights


def _from_weights(weights: torch.Tensor, value: torch.Tensor, eagerly: Callable[[], Any]) -> torch.Tensor:
    """What an eager attention function, called again, makes of these weights in place of its own.

    Some do more than multiply: sinks take their part.
    """
    with _Instead(weights) as instead:
        result, used = eagerly()
    if instead.met == 1 and used.shape == weights.shape:
        return result  # type: ignore[no-any-return]
    plain, its = eagerly()
    return _multiplied(weights, value, its, plain)


class _Instead(TorchFunctionMode):
    """Weights in place of the result of a softmax."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self._weights, self.met = weights, 0

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") != "softmax" or result.shape != self._weights.shape:
            return result
        self.met += 1
        return self._weights.to(result.dtype)


def returned(bring: Bring, result: Any, value: torch.Tensor) -> Any:
    """The result of an attention function of anybody's, the second part of which is weights; they have passed by ``bring``."""
    before = result[1].detach().clone()
    weights = bring(result[1], result[1])
    return result if weights is None else (_multiplied(weights, value, before, result[0]), weights, *result[2:])


def _multiplied(weights: torch.Tensor, value: torch.Tensor, before: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    """What weights make of the values, if what they were before has made the layer's ``plain`` result.

    Raises:
        NNsightError: it has not.
    """
    was = attended(before, value).transpose(1, 2)
    if was.shape != plain.shape or not torch.allclose(was.float(), plain.float(), rtol=0.02, atol=0.02 * float(plain.abs().max())):
        raise NNsightError("this layer does more than multiply values by its attention weights: they can be read, and not changed")
    made: torch.Tensor = attended(weights, value)
    return made.transpose(1, 2).contiguous()


def aside(compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Weights that are computed for the trace alone: the backward pass of a checkpoint does not compute them again."""
    if not saves_are_counted():
        return compute()
    with apart():
        return compute()


def changed(weights: torch.Tensor, bring: Callable[[Any], Any], own: Any, derives: bool) -> torch.Tensor | None:
    """The weights that a trace has made of them, or whose gradient it asks for; ``None`` if it has left them.

    Args:
        weights: The weights.
        bring: Takes them to the run.
        own: The tensor that the layer has made its result of already, if it has.
        derives: Whether a line of the trace may differentiate with respect to any of its values.
    """
    before = weights.clone() if weights.is_inference() else weights._version  # inference tensors have no counters
    made: torch.Tensor | None = bring(weights)
    if made is not None:
        return made
    edited = not torch.equal(weights, before) if isinstance(before, torch.Tensor) else weights._version != before
    if edited:
        return weights
    # one that the layer has used already knew of no graph that starts here
    listened = weights._backward_hooks or weights.retains_grad or (derives and weights.requires_grad)
    heard = (weights.is_leaf and weights.requires_grad) or (weights is not own and listened)
    if heard and saves_are_counted():
        raise NNsightError(
            "these attention weights were recomputed, and lie in an activation checkpoint, whose backward pass would not compute them "
            'again: switch checkpointing off, or load the model with attn_implementation="eager"'
        )
    return weights if heard else None


def attended(weights: torch.Tensor, value: torch.Tensor, dropout: float = 0.0) -> Any:
    """What weights make of the values, ``[batch, heads, queries, head dimension]``."""
    if dropout:
        weights = functional.dropout(weights, dropout)
    if value.dim() > 3 and weights.shape[-3] != value.shape[-3]:
        value = value.repeat_interleave(weights.shape[-3] // value.shape[-3], dim=-3)
    return weights.to(value.dtype) @ value


def fused(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:  # fmt: skip
    """What torch's ``scaled_dot_product_attention`` does, in two: its weights (before dropout), and what they make of the values.

    Raises:
        NNsightError: it is given nested tensors.
    """
    if query.is_nested or key.is_nested:
        raise NNsightError("attention weights of nested tensors have no one shape: give padded tensors and a mask")

    def weights() -> torch.Tensor:
        precise = torch.float32 if query.dtype in _HALVES else query.dtype
        keys = key.repeat_interleave(query.shape[-3] // key.shape[-3], dim=-3) if enable_gqa else key
        scores = query.to(precise) @ keys.to(precise).transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        mask = attn_mask
        if mask is not None and hasattr(mask, "_materialize"):  # torch.nn.attention.bias
            mask = mask._materialize(query.device)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is None:
            return scores.softmax(-1).to(query.dtype)
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else scores + mask
        made: torch.Tensor = torch.ops.aten._safe_softmax(scores, -1)  # rows that see nothing are zero, as in the fused function
        return made.to(query.dtype)

    return weights, lambda made: attended(made, value, dropout_p)


def _kind(target: Callable[..., Any]) -> str:
    return str(getattr(target, "__name__", type(target).__name__))


def _eager_of(args: tuple[Any, ...]) -> Any:
    """The eager attention function that stands beside a module's class."""
    return getattr(sys.modules.get(type(args[0]).__module__), _EAGER, None) if len(args) > 3 else None


def untold(target: Callable[..., Any], args: tuple[Any, ...]) -> NNsightError:
    """The error of an attention function that tells no weights."""
    owner = f" for {type(args[0]).__name__}" if args and isinstance(args[0], torch.nn.Module) else ""
    return NNsightError(
        f'the attention weights of {_kind(target)} cannot be recomputed{owner}: load the model with attn_implementation="eager"'
    )


def _eagerly(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], dropout: float) -> tuple[Any, torch.Tensor]:
    """What the eager attention function makes of the arguments of another one: the result, and the weights."""
    module, query, key, value, *rest = args
    kind = _kind(target)
    named = {name: given for name, given in kwargs.items() if name not in ("attention_mask", "dropout", "is_causal")}
    mask = rest[0] if rest else kwargs.get("attention_mask")
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    named.setdefault("scaling", query.shape[-1] ** -0.5)
    mask = _additive(mask, query, key, bool(causal), kwargs.get("sliding_window") if kind == _FLASH else None, kind == _FLASH)
    made: tuple[Any, torch.Tensor] = _eager_of(args)(module, query, key, value, mask, dropout=dropout, **named)
    return made


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
