"""Make the small language model that ships with the package.

Run ``python -m training.capitals`` in the root of the repository. The run is
deterministic, needs no network and takes a few minutes on one CPU core.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from training.batches import Sampler, collate, encode_completions
from training.card import write_card
from training.corpus import Prompt, split_prompts
from training.figures import Figures, accuracy, choose_pairs, patch, showcase_pair
from training.learning import Recipe, prediction_loss, train
from training.tokenizer import train_tokenizer

FOLDER = Path(__file__).parents[1] / "nnsight_graph" / "huggingface" / "models" / "capitals"
CONTEXT = 96
SEED = 0
TESTED_PAIRS = 39


def main() -> None:
    """Train the model, measure it and write its folder."""
    make_deterministic(SEED)
    tokenizer = train_tokenizer(CONTEXT)
    model = build_model(tokenizer)
    seen, held_out = split_prompts()
    start = time.perf_counter()
    losses = train(model, Sampler(seen, tokenizer, CONTEXT, SEED), Recipe())
    print(f"trained in {time.perf_counter() - start:.0f} seconds")
    figures = Figures(
        training_loss=sum(losses[-100:]) / len(losses[-100:]),
        held_out_loss=sentence_loss(model, tokenizer, held_out),
        seen_accuracy=accuracy(model, tokenizer, seen),
        held_out_accuracy=accuracy(model, tokenizer, held_out),
        showcase=patch(model, tokenizer, showcase_pair()),
        tested=[patch(model, tokenizer, pair) for pair in choose_pairs(tokenizer, TESTED_PAIRS, SEED)],
    )
    print(figures.summary())
    save(model, tokenizer)
    write_card(FOLDER / "README.md", model, tokenizer, figures)


def make_deterministic(seed: int) -> None:
    """Fix everything that could differ between two runs on one machine."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def build_model(tokenizer: PreTrainedTokenizerFast) -> GPT2LMHeadModel:
    """Return the untrained model, in the shape of GPT-2 and without dropout."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=96,
        n_layer=8,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    return GPT2LMHeadModel(config)


@torch.no_grad()
def sentence_loss(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt]) -> float:
    """Return the loss per token on every sentence that the prompts begin."""
    examples = [row for prompt in prompts for row in encode_completions(tokenizer, prompt)]
    batch = collate(examples, [0] * len(examples))
    return prediction_loss(model(batch.ids).logits, batch.labels).item()


def save(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the weights, the configuration and the tokenizer."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(FOLDER)
    (FOLDER / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(FOLDER)
    # The class name that every version of transformers knows.
    path = FOLDER / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
