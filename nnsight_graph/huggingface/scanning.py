"""Scans of transformers' models: what keeps their forwards from running on fakes, and how a step of ``generate`` calls them."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.utils import import_utils

from ..run.scan import PLAIN_FORWARD, Arguments, Forward
from .needs import CACHES

_ASKS_NO_FAKES = hasattr(import_utils, "is_fake_tensor")
_SAY_NO = ("warn_if_padding_and_no_attention_mask", "_cache_dependant_input_preparation", "prepare_inputs_for_generation")
_MASKS = ("attention_mask", "decoder_attention_mask")


class ModelForward(Forward):
    """A plain call of a model of transformers.

    Attention mostly gets no mask where the given one is all ones: transformers looks at its numbers, which a fake does not
    have. So they are looked at here. (Transformers 4 asks the fake, and is told; 5 does not ask: the mask is left out.)

    Args:
        kwargs: The named arguments of the real call.
    """

    def __init__(self, kwargs: dict[str, Any]) -> None:
        self._ones = tuple(name for name in _MASKS if _is_ones(kwargs.get(name)))
        self._full = all(name in self._ones for name in _MASKS if kwargs.get(name) is not None)
        self._known: frozenset[int] = frozenset()

    @property
    def key(self) -> tuple[Any, ...]:
        """The masks of ones, and whether those are all."""
        return (*super().key, self._ones, self._full)

    def adapt(self, twin: torch.nn.Module) -> None:
        """Leave out what looks at numbers where shapes do not depend on it: routing to experts, frequencies that grow."""
        for module in twin.modules():
            config: Any = getattr(module, "config", None)
            if getattr(config, "_experts_implementation_internal", None) is not None:
                config._experts_implementation_internal = "batched_mm"
            if "rope_type" in module.__dict__:
                module.rope_type = _without_growth(module.rope_type)
            if "_hf_hook" in module.__dict__:
                _keep_weights(module)
            if _ASKS_NO_FAKES and getattr(module, "_supports_sdpa", False) and _is_innermost(module):
                module.__dict__["forward"] = functools.wraps(module.forward)(functools.partial(self._call, module.forward))

    def arguments(self, twin: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments as they are."""
        self._known = frozenset(id(kwargs[name]) for name in self._ones)
        return args, kwargs

    def number(self, tensor: torch.Tensor) -> bool | None:
        """For what decides whether a mask is needed: whether all masks are of ones; and that nothing needs a warning."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename.endswith(("masking_utils.py", "attn_mask_utils.py")):
                return self._full
            if frame.f_code.co_name in _SAY_NO:
                return False
            frame = frame.f_back
        return None

    def _call(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the innermost model, where masks are looked at, without those of ones."""
        known = self._known
        plain = [None if id(value) in known else value for value in args]
        return forward(*plain, **{name: None if id(value) in known else value for name, value in kwargs.items()})


class GenerationStep(ModelForward):
    """One forward inside ``generate``, greedy or sampling: the prompt's (step 0), or that of one more token.

    Args:
        kwargs: The named arguments of the real call of ``generate``, those that go on to the model.
        step: 0, or 1 for any later step (whose cache is one token longer than the prompt's).
    """

    def __init__(self, kwargs: dict[str, Any], step: int) -> None:
        super().__init__(kwargs)
        self._step = min(step, 1)

    @property
    def key(self) -> tuple[Any, ...]:
        """The masks of ones, and the step."""
        return (*super().key, self._step)

    def arguments(self, twin: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """What ``generate`` would call the model with."""
        model: Any = twin
        ids, given = _prepared(model, args, kwargs, self._full)
        call = _inputs(model, ids, given, 0)
        self._note_masks(call)
        if self._step:
            output = model(**call, return_dict=True)
            given = model._update_model_kwargs_for_generation(output, given, is_encoder_decoder=model.config.is_encoder_decoder)
            call = _inputs(model, torch.cat([ids, ids[:, -1:]], dim=-1), given, ids.shape[1])
            self._note_masks(call)
        return (), {**call, "return_dict": True}

    def _note_masks(self, call: dict[str, Any]) -> None:
        if self._full:
            self._known = frozenset(id(call[name]) for name in _MASKS if call.get(name) is not None)


def forward_of(model: torch.nn.Module, kwargs: dict[str, Any]) -> Forward:
    """How a plain call of ``model`` is scanned.

    >>> forward_of(torch.nn.Linear(2, 2), {}) is PLAIN_FORWARD
    True
    """
    return ModelForward(kwargs) if any(isinstance(module, PreTrainedModel) for module in model.modules()) else PLAIN_FORWARD


def _is_innermost(module: torch.nn.Module) -> bool:
    return isinstance(module, PreTrainedModel) and sum(isinstance(each, PreTrainedModel) for each in module.modules()) == 1


def _is_ones(mask: Any) -> bool:
    return isinstance(mask, torch.Tensor) and mask.device.type != "meta" and bool((mask == 1).all())


def _without_growth(kind: Any) -> Any:
    if isinstance(kind, dict):
        return {name: _without_growth(each) for name, each in kind.items()}
    return "default" if isinstance(kind, str) and ("dynamic" in kind or kind == "longrope") else kind


def _keep_weights(module: Any) -> None:
    """Let accelerate's hooks of a twin move what passes, but not weights: those are where they are needed."""
    for hook in getattr(module._hf_hook, "hooks", (module._hf_hook,)):
        if getattr(hook, "offload", False):
            hook.offload, hook.weights_map = False, None
            device = torch.device("cuda", hook.execution_device) if isinstance(hook.execution_device, int) else hook.execution_device
            for table in (module._parameters, module._buffers):
                for name, fake in table.items():
                    table[name] = fake if fake is None or fake.device == torch.device(device) else fake.detach().to(device)


def _prepared(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], full: bool) -> tuple[Any, dict[str, Any]]:
    """The ids that a generation begins with, and the arguments that go with it from step to step."""
    given = {**kwargs, "use_cache": True}
    ids = args[0] if args else given.pop("input_ids")
    takes, encodes = inspect.signature(model.forward).parameters, model.config.is_encoder_decoder
    if given.get("attention_mask") is None and not (encodes and _numbers_tokens(model)):
        given["attention_mask"] = torch.ones_like(ids)
    if encodes:
        ids = _encode(model, ids, given)
    elif _numbers_tokens(model):
        if "position_ids" in takes:
            given.setdefault("position_ids", given["attention_mask"].long().cumsum(-1) - 1)
        given["attention_mask"] = None if full else given["attention_mask"]
    if "logits_to_keep" in takes:
        given.setdefault("logits_to_keep", 1)
    if not _numbers_tokens(model):
        given["cache_position"] = torch.arange(ids.shape[1], device=ids.device)
    return ids, {_cache_name(model): _empty_cache(model), **given}


def _cache_name(model: Any) -> str:
    """The name that ``generate`` has for a cache: that of its own parameter in transformers 5, ``past_key_values`` before."""
    return next((name for name in CACHES if name in inspect.signature(model.prepare_inputs_for_generation).parameters), CACHES[1])


def _encode(model: Any, ids: Any, given: dict[str, Any]) -> Any:
    """Run the encoder, as ``generate`` does before its first step; the ids that the decoder starts from."""
    given["encoder_outputs"] = model.get_encoder()(input_ids=ids, attention_mask=given.get("attention_mask"), return_dict=True)
    return given.pop("decoder_input_ids", ids.new_ones((ids.shape[0], 1)))


def _empty_cache(model: Any) -> Any:
    config = model.config.get_text_config(decoder=True)
    cache = DynamicCache(config=config)
    return EncoderDecoderCache(cache, DynamicCache(config=config)) if model.config.is_encoder_decoder else cache


def _numbers_tokens(model: Any) -> bool:
    """Whether ``generate`` is transformers 5's, which numbers the tokens before the first step, and says how many are new."""
    return hasattr(model, "_prepare_position_ids_for_generation")


def _inputs(model: Any, ids: Any, given: dict[str, Any], past: int) -> dict[str, Any]:
    new = {"next_sequence_length": 1 if past else None, "is_first_iteration": not past} if _numbers_tokens(model) else {}
    call: dict[str, Any] = model.prepare_inputs_for_generation(ids, **new, **given)
    return call
