"""The first padded batch of a model is checked: its shortest prompt gets the numbers that it gets alone, or the batch is refused."""

from __future__ import annotations

import copy
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..config import CONFIG
from ..errors import NNsightError
from ..run.scan import has_hooks
from ..source_location import locate, user_place
from .needs import CACHES
from .padded_alike import BY_LENGTH, PADDED_ALIKE
from .prompts import Prompt
from .verify import Pair, pairs, results

Join = Callable[[Sequence[Prompt]], Mapping[str, Any]]
_CACHES = (*CACHES, "encoder_outputs")
_ULPS = 64


class PaddingCheck:
    """What is known of a model's padding.

    Args:
        name: The model's class.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._by_length = name.startswith(BY_LENGTH)
        self._right: set[bool] = set()
        self._said: set[str] = set()

    def wanted(self, left: bool) -> bool:
        """Whether a batch that is padded on this side is to be checked."""
        if CONFIG.APP.VERIFY_BATCH == "auto":
            return self._by_length or (left not in self._right and self._name not in PADDED_ALIKE)
        return bool(CONFIG.APP.VERIFY_BATCH)

    def check(
        self, module: torch.nn.Module, call: Callable[..., Any], prompts: Sequence[Prompt], inputs: Mapping[str, Any], join: Join,
        left: bool,
    ) -> None:  # fmt: skip
        """Run the shortest prompt alone, and beside the longest; the model is left as it was, random state included.

        Args:
            module: The model.
            call: How it is called.
            prompts: What the batch is made of.
            inputs: The arguments of its call.
            join: Makes the arguments of a call of some of the prompts.
            left: The side on which it is padded.

        Raises:
            NNsightError: the prompt gets other numbers when it is padded.
        """
        if reason := _why_not(module, inputs):
            self._say(reason)
            return
        rows = sorted((_row(prompt, row)._replace(left=left) for prompt in prompts for row in range(prompt.rows)), key=_length)
        by_length = {_length(row): row for row in reversed(rows)}
        for _, row in sorted(by_length.items(), key=lambda each: each[0])[: len(by_length) - 1 if self._by_length else 1]:
            if not self._is_right(module, call, join([rows[-1], row]), join([row]), left, row.lengths[0]):
                return
        self._right.add(left)

    def _is_right(
        self, module: torch.nn.Module, call: Callable[..., Any], batch: Mapping[str, Any], alone: Mapping[str, Any], left: bool, length: int
    ) -> bool:
        """Whether the second of two prompts was found right; ``False`` where that cannot be known."""
        found = self._compare(call, batch, alone)
        if found is None:
            return False
        worst = next((pair for pair in found if _differs(pair)), None)
        if worst is not None and worst.alone.dtype.itemsize < 4 and (single := _in_float32(module)) is not None:
            found = self._compare(single, _as_float32(batch), _as_float32(alone)) or []
            worst = next((pair for pair in found if _differs(pair)), None)
        if worst is not None:
            raise NNsightError(_differ(self._name, worst, left, length))
        return True

    def _compare(self, call: Callable[..., Any], batch: Mapping[str, Any], alone: Mapping[str, Any]) -> list[Pair] | None:
        """The numbers of the shortest prompt both ways; ``None`` where they cannot be compared."""
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() and torch.cuda.is_initialized() else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            before = _random_state(devices)
            try:
                together = dict(results(call(**batch), 2))
                after = _random_state(devices)
                _set_random_state(before, devices)
                single = dict(results(call(**alone), 1))
                found = list(pairs(together, batch, 1, single, alone))
                if all(map(torch.equal, before, after)) or not any(map(_differs, found)):
                    return found
                _set_random_state(after, devices)  # it draws: does what is drawn matter, or is it drawn alike every time?
                again = dict(results(call(**alone), 1))
            except Exception:
                return None  # the run itself shows it, on the lines that it concerns
        if any(map(_differs, pairs(again, alone, 0, single, alone))):
            self._say("it draws random numbers")
            return None
        return found

    def _say(self, reason: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            text = f"{self._name}: whether padding changes the numbers of a prompt was not checked, because {reason}"
            at = locate(user_place(sys._getframe(1)))
            warnings.warn_explicit(f"{text}. model.verify_batch(prompts) compares", UserWarning, at.named.file, at.line)


def _random_state(devices: Sequence[int]) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def _set_random_state(states: Sequence[torch.Tensor], devices: Sequence[int]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(devices, states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)


def _why_not(module: torch.nn.Module, inputs: Mapping[str, Any]) -> str:
    """Why a model cannot be run twice for a comparison; empty where it can."""
    modules = list(module.modules())
    if any(each.training for each in modules):
        return "it is in training mode"
    if any(inputs.get(name) is not None for name in _CACHES):
        return "a cache is among its arguments"
    if any("_hf_hook" in each.__dict__ for each in modules):
        return "its weights come when their module runs"
    if any(weight.is_meta or type(weight.data).__name__ == "DTensor" for weight in module.parameters()):
        return "its weights are sharded, or elsewhere"
    every = torch.nn.modules.module
    if any(map(has_hooks, modules)) or every._global_forward_hooks or every._global_forward_pre_hooks:
        return "it has hooks of yours"
    return ""


def _row(prompt: Prompt, row: int) -> Prompt:
    """One row of a prompt, as a prompt of its own; without the padding that it came with."""
    inputs = {name: rows[row : row + 1] if len(rows) > row else rows[:1] for name, rows in prompt.inputs.items()}
    mask = inputs["attention_mask"][0] if "attention_mask" in inputs and (prompt.filled or prompt.rows > 1) else None
    if mask is None or mask.dim() != 1 or bool(mask.all()) or not bool(mask.any()):
        return Prompt(prompt.lengths[row : row + 1], inputs, prompt.options)
    keep = mask.bool()
    own = {name: [rows[0][keep] if rows[0].shape[:1] == keep.shape else rows[0]] for name, rows in inputs.items() if name != "position_ids"}
    return Prompt([int(keep.sum())], dict(own), prompt.options)


def _length(prompt: Prompt) -> int:
    return prompt.lengths[0] + sum(len(prompt.inputs[name][0]) for name in ("decoder_input_ids", "labels") if name in prompt.inputs)


def _differs(pair: Pair) -> bool:
    """Whether two results differ by more than rounding can do."""
    largest = pair.alone.abs().max().item() if pair.alone.numel() else 0.0
    return not pair.difference <= _ULPS * torch.finfo(pair.alone.dtype).eps * largest  # a NaN differs


def _in_float32(module: torch.nn.Module) -> torch.nn.Module | None:
    """A copy in float32, where there is room for it."""
    weights = [*module.parameters(), *module.buffers()]
    size = sum(4 * weight.numel() for weight in weights)
    device = next((weight.device for weight in weights), torch.device("cpu"))
    if 2 * size > _free(device):
        return None
    try:
        return copy.deepcopy(module).float()
    except Exception:  # quantized, or made so that it cannot be copied
        return None


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 30


def _as_float32(inputs: Mapping[str, Any]) -> dict[str, Any]:
    fractional = {name for name, value in inputs.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}
    return {name: value.float() if name in fractional else value for name, value in inputs.items()}


def _differ(name: str, pair: Pair, left: bool, length: int) -> str:
    what = f"{pair.name or 'the result'} of one of {length} tokens"
    return (
        f"{name} gives a padded prompt other numbers than it gets alone: {what} differs by {pair.difference:.3g}, padded "
        f"on the {'left' if left else 'right'}. Models whose layers mix neighbouring tokens whatever the attention mask says (convolution, "
        "recurrence, approximate attention) cannot be padded. Give prompts of one length, or each prompt a trace of its own. "
        "CONFIG.APP.VERIFY_BATCH = False switches this check off."
    )
