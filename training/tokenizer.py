"""The byte-level BPE tokenizer of the model."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from training.corpus import tokenizer_text
from training.places import CITIES

END = "<|endoftext|>"
PAD = "<|pad|>"

VOCABULARY_LIMIT = 1400
LEAST_FREQUENCY = 50

# What GPT-2 splits text by, before the merges.
_GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def train_tokenizer(context: int) -> PreTrainedTokenizerFast:
    """Learn the merges from the corpus.

    Any text can be encoded. Each city of the corpus is one token when a space
    comes before it, ``" New York"`` as well.

    Args:
        context: The greatest number of tokens the model can read.

    Returns:
        The tokenizer, which pads on the left.
    """
    two_words = "|".join(f" {name}" for name in CITIES if " " in name)
    words = Regex(f"{two_words}|{_GPT2_WORDS}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_LIMIT,
        min_frequency=LEAST_FREQUENCY,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(tokenizer_text(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        unk_token=END,
        pad_token=PAD,
        padding_side="left",
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
