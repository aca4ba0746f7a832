"""Encoded sentences and the batches made of them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training.corpus import Prompt, background_sentences, complete
from training.places import PLACES

IGNORED = -100
PLACE_SHARE = 0.7
SHIFTED_SHARE = 0.5


@dataclass(frozen=True)
class Example:
    """An encoded sentence, and the tokens of it that name a landmark, if any."""

    ids: list[int]
    subject: range


@dataclass(frozen=True)
class Batch:
    """Sentences padded on the right, and which attention touches the landmark.

    The last three tensors hold 1 where a query (second axis) reads a key (third
    axis) in a way that the training may discourage.

    Attributes:
        ids: Token ids.
        labels: The same ids, or ``IGNORED`` where there is padding.
        positions: Position ids.
        after_to_last: From behind the landmark to its last token.
        after_to_rest: From behind the landmark to its other tokens.
        last_to_rest: From the last token of the landmark to its other tokens.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    after_to_last: Tensor
    after_to_rest: Tensor
    last_to_rest: Tensor


class Sampler:
    """Draws batches of training sentences, always in the same order.

    Args:
        prompts: The prompts whose sentences may be drawn.
        tokenizer: The tokenizer to encode them with.
        context: The number of positions of the model.
        seed: Decides the order.
    """

    def __init__(
        self,
        prompts: list[Prompt],
        tokenizer: PreTrainedTokenizerFast,
        context: int,
        seed: int,
    ) -> None:
        self._random = random.Random(seed)
        self._context = context
        self._about_places = [encode_completions(tokenizer, prompt) for prompt in prompts]
        self._background = [encode(tokenizer, text) for text in background_sentences()]

    def draw(self, size: int) -> Batch:
        """Draw one batch of ``size`` sentences."""
        examples = [self._draw_example() for _ in range(size)]
        length = max(len(example.ids) for example in examples)
        return collate(examples, [self._draw_shift(length) for _ in examples])

    def _draw_example(self) -> Example:
        if self._random.random() < PLACE_SHARE:
            return self._random.choice(self._random.choice(self._about_places))
        return self._random.choice(self._background)

    def _draw_shift(self, length: int) -> int:
        shifted = self._random.random() < SHIFTED_SHARE
        return self._random.randint(0, self._context - length) if shifted else 0


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Example:
    """Encode a sentence, add the end-of-text token and find its landmark."""
    encoding = tokenizer(text, return_offsets_mapping=True)
    start, end = _landmark_span(text)
    inside = [index for index, (left, right) in enumerate(encoding.offset_mapping) if right > start and left < end]
    subject = range(inside[0], inside[-1] + 1) if inside else range(0)
    return Example([*encoding.input_ids, tokenizer.eos_token_id], subject)


def encode_completions(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> list[Example]:
    """Encode every full sentence that begins with the prompt."""
    return [encode(tokenizer, text) for text in complete(prompt)]


def collate(examples: list[Example], shifts: list[int]) -> Batch:
    """Put examples into one batch.

    Args:
        examples: The sentences.
        shifts: How far to move the position ids of each, which teaches the
            model to read text behind padding.

    Returns:
        The batch.
    """
    length = max(len(example.ids) for example in examples)
    labels = torch.full((len(examples), length), IGNORED)
    last, rest, inner = torch.zeros(3, len(examples), length, length)
    for row, example in enumerate(examples):
        used = len(example.ids)
        labels[row, :used] = torch.tensor(example.ids)
        if example.subject:
            first, final = example.subject[0], example.subject[-1]
            last[row, final + 1 : used, final] = 1
            rest[row, final + 1 : used, first:final] = 1
            inner[row, final, first:final] = 1
    positions = torch.arange(length) + torch.tensor(shifts).unsqueeze(1)
    return Batch(labels.clamp(min=0), labels, positions, last, rest, inner)


def _landmark_span(text: str) -> tuple[int, int]:
    for place in PLACES:
        start = text.lower().find(place.name.lower())
        if start >= 0:
            return start, start + len(place.name)
    return 0, 0
