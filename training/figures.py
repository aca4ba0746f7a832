"""What the trained model can do: held-out accuracy and activation patching."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from training.corpus import PHRASINGS, Prompt, make_prompt
from training.places import PLACES

SHOWCASE = ("the Eiffel Tower", "the Leaning Tower")


@dataclass(frozen=True)
class Pair:
    """Two prompts of one phrasing and one length that name different cities."""

    clean: Prompt
    corrupted: Prompt


@dataclass(frozen=True)
class Patching:
    """The share of the logit difference restored at each (layer, position)."""

    pair: Pair
    restored: Tensor

    @property
    def best(self) -> float:
        """The greatest share, the last layer left out."""
        return self.restored[:-1].max().item()

    @property
    def best_before_end(self) -> float:
        """The greatest share at a position before the last one."""
        return self.restored[:, :-1].max().item()

    @property
    def median(self) -> float:
        """The median share over all layers and positions."""
        return self.restored.flatten().quantile(0.5).item()


@dataclass(frozen=True)
class Figures:
    """Everything that is measured after training."""

    training_loss: float
    held_out_loss: float
    seen_accuracy: float
    held_out_accuracy: float
    showcase: Patching
    tested: list[Patching]

    def summary(self) -> str:
        """Return the figures as a Markdown table."""
        rows = [
            ("Training loss per token, mean of the last 100 steps", f"{self.training_loss:.3f}"),
            ("Loss per token on the held-out sentences", f"{self.held_out_loss:.3f}"),
            ("Accuracy on the training pairs", f"{self.seen_accuracy:.1%}"),
            ("Accuracy on the held-out pairs", f"{self.held_out_accuracy:.1%}"),
            *_patching_rows("Patching of the pair below", [self.showcase]),
            *_patching_rows(f"Patching, worst of {len(self.tested)} pairs", self.tested),
        ]
        lines = [f"| {name} | {value} |" for name, value in rows]
        return "\n".join(["| Figure | Value |", "|---|---|", *lines])


@torch.no_grad()
def accuracy(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> float:
    """Measure how often the city is the most probable next token.

    Args:
        model: The model to ask.
        tokenizer: Its tokenizer.
        prompts: The prompts to complete.

    Returns:
        The share of right answers, between 0 and 1.
    """
    right = 0
    for prompt in prompts:
        logits = model(**tokenizer(prompt.text, return_tensors="pt")).logits[0, -1]
        right += int(logits.argmax().item() == city_token(tokenizer, prompt))
    return right / len(prompts)


def city_token(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> int:
    """Return the id of the one token that names the city of the prompt."""
    (token,) = tokenizer(prompt.answer).input_ids
    return int(token)


def showcase_pair() -> Pair:
    """Return the pair of prompts that the model card shows."""
    places = {place.name: place for place in PLACES}
    clean, corrupted = SHOWCASE
    return Pair(make_prompt(places[clean], 0), make_prompt(places[corrupted], 0))


def choose_pairs(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> list[Pair]:
    """Draw pairs of prompts that differ in the landmark alone.

    Args:
        tokenizer: The tokenizer that tells the lengths.
        count: How many pairs to draw.
        seed: Decides which.

    Returns:
        The pairs, with the phrasings taking turns.
    """
    draw = random.Random(seed)
    pairs: list[Pair] = []
    for turn in range(count):
        prompts = [make_prompt(place, turn % len(PHRASINGS)) for place in PLACES]
        lengths = [len(tokenizer(prompt.text).input_ids) for prompt in prompts]
        candidates = [
            Pair(prompts[i], prompts[j])
            for i, j in combinations(range(len(prompts)), 2)
            if lengths[i] == lengths[j] and prompts[i].answer != prompts[j].answer
        ]
        pairs.append(draw.choice(candidates))
    return pairs


@torch.no_grad()
def patch(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, pair: Pair) -> Patching:
    """Move block outputs from the clean run into the corrupted one, one by one.

    Args:
        model: The model to patch.
        tokenizer: Its tokenizer.
        pair: The two prompts.

    Returns:
        The shares restored, of shape (layers, positions).
    """
    clean_ids = tokenizer(pair.clean.text, return_tensors="pt").input_ids
    corrupted_ids = tokenizer(pair.corrupted.text, return_tensors="pt").input_ids
    cities = [city_token(tokenizer, prompt) for prompt in (pair.clean, pair.corrupted)]
    high = _logit_difference(model, clean_ids, cities)
    low = _logit_difference(model, corrupted_ids, cities)
    every_position = corrupted_ids.expand(corrupted_ids.shape[1], -1)
    rows = []
    for block in model.transformer.h:
        with _recorded(block) as values:
            model(clean_ids)
        with _patched(block, values[0]):
            rows.append(_logit_difference(model, every_position, cities))
    return Patching(pair, (torch.stack(rows) - low) / (high - low))


def _patching_rows(label: str, patchings: list[Patching]) -> list[tuple[str, str]]:
    best = min(patching.best for patching in patchings)
    before_end = min(patching.best_before_end for patching in patchings)
    median = max(patching.median for patching in patchings)
    return [
        (f"{label}: best", f"{best:.2f}"),
        (f"{label}: best before the end", f"{before_end:.2f}"),
        (f"{label}: median", f"{median:.4f}"),
    ]


def _logit_difference(model: GPT2LMHeadModel, ids: Tensor, cities: list[int]) -> Tensor:
    logits: Tensor = model(ids).logits[:, -1, cities]
    return logits[:, 0] - logits[:, 1]


@contextmanager
def _recorded(block: nn.Module) -> Iterator[list[Tensor]]:
    values: list[Tensor] = []
    hook = block.register_forward_hook(lambda _module, _inputs, output: values.append(output))
    try:
        yield values
    finally:
        hook.remove()


@contextmanager
def _patched(block: nn.Module, value: Tensor) -> Iterator[None]:
    """Give row ``i`` of the batch the recorded value at position ``i``."""

    def replace(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        here = torch.eye(output.shape[1], dtype=torch.bool).unsqueeze(-1)
        return torch.where(here, value, output)

    hook = block.register_forward_hook(replace)
    try:
        yield
    finally:
        hook.remove()
