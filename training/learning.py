"""The training loop, with a penalty that shapes how a fact travels.

Left to itself a model this small lets the last position read the tokens of the
landmark straight from the embeddings. The penalty on attention asks it to first
gather the landmark at its last token, and to read it from there only in
``READING_LAYERS``. It adds nothing to the model: inference is plain GPT-2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from training.batches import IGNORED, Batch, Sampler

READING_LAYERS = range(4, 6)


@dataclass(frozen=True)
class Recipe:
    """The numbers of a training run.

    Attributes:
        steps: Number of batches.
        batch_size: Sentences in a batch.
        learning_rate: The highest learning rate, after the warm-up.
        weight_decay: Decay of the matrices.
        warm_up: Steps of linear warm-up.
        penalty_start: First step with the attention penalty.
        penalty_rise: Steps over which the penalty grows to its full weight.
        penalty_weights: Weight of the penalty at its start and in full.
    """

    steps: int = 1400
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.1
    warm_up: int = 100
    penalty_start: int = 300
    penalty_rise: int = 600
    penalty_weights: tuple[float, float] = (2.0, 100.0)

    def rate_at(self, step: int) -> float:
        """Return the factor on the learning rate: a warm-up, then a cosine."""
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        warmth = min(1.0, (step + 1) / self.warm_up)
        return warmth * (0.02 + 0.98 * cosine)

    def penalty_at(self, step: int) -> float:
        """Return the weight of the penalty, which grows geometrically."""
        if step < self.penalty_start:
            return 0.0
        start, full = self.penalty_weights
        progress = min(1.0, (step - self.penalty_start) / self.penalty_rise)
        return start * math.pow(full / start, progress)


def train(model: GPT2LMHeadModel, sampler: Sampler, recipe: Recipe) -> list[float]:
    """Train a model in place.

    Args:
        model: The model, with eager attention so that its weights are returned.
        sampler: Where the sentences come from.
        recipe: The numbers of the run.

    Returns:
        The language-modelling loss of every step.
    """
    optimizer = _make_optimizer(model, recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.rate_at)
    losses: list[float] = []
    model.train()
    for step in range(recipe.steps):
        batch = sampler.draw(recipe.batch_size)
        output = model(batch.ids, position_ids=batch.positions, output_attentions=True)
        loss = prediction_loss(output.logits, batch.labels)
        total = loss + recipe.penalty_at(step) * stray_attention(output.attentions, batch)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"step {step + 1}: loss {sum(losses[-100:]) / 100:.4f}", flush=True)
    model.eval()
    return losses


def prediction_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy of the next token."""
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def stray_attention(attentions: tuple[Tensor, ...], batch: Batch) -> Tensor:
    """Return the mean attention that leaves the route asked for.

    Args:
        attentions: For each layer, weights of shape (batch, head, query, key).
        batch: The batch they come from.

    Returns:
        The attention mass, averaged over layers, heads and the tokens behind
        landmarks.
    """
    total = attentions[0].new_zeros(())
    for layer, weights in enumerate(attentions):
        stray = batch.after_to_rest
        if layer not in READING_LAYERS:
            stray = stray + batch.after_to_last
        if layer >= READING_LAYERS.start:
            stray = stray + batch.last_to_rest
        total = total + (weights.mean(1) * stray).sum()
    return total / (len(attentions) * batch.after_to_last.sum().clamp(min=1))


def _make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [value for value in model.parameters() if value.ndim > 1]
    vectors = [value for value in model.parameters() if value.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
