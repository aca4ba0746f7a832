"""Prompts, as people write them -> the inputs of a model, row by row, not padded yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from ..errors import RecordError
from .needs import Needs

Rows: TypeAlias = "torch.Tensor | list[torch.Tensor]"
"""One named input of an invoke: a tensor whose first dimension is its rows, or a list with a tensor for each row."""

TOKENS = frozenset({"input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids", "labels"})
DECODER = frozenset({"decoder_input_ids", "decoder_inputs_embeds", "decoder_attention_mask", "decoder_position_ids"})
# Tensors that belong to the call, whatever their first dimension happens to be.
_OF_THE_CALL = frozenset({"head_mask", "decoder_head_mask", "cross_attn_head_mask", "cache_position", "logits_to_keep"})
_OF_THE_CALL |= {"eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id"}


class Prompt(NamedTuple):
    """One invoke's input.

    Attributes:
        lengths: The number of tokens of each row.
        inputs: What has an entry for each row, by name.
        options: The model's other arguments.
    """

    lengths: list[int]
    inputs: dict[str, Rows]
    options: dict[str, Any]

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.lengths)

    @property
    def ragged(self) -> bool:
        """Whether its own rows need padding."""
        return any(isinstance(rows, list) and len({row.shape for row in rows}) > 1 for rows in self.inputs.values())


def read_prompt(tokenizer: Any, args: Sequence[Any], kwargs: Mapping[str, Any], needs: Needs | None = None) -> Prompt:
    """What one invoke gives to the model.

    Args:
        tokenizer: For prompts that are text; ``None`` where there is none.
        args: At most one prompt: a string, token ids (a list, a tensor or an array), a list of several of either,
            an encoding or another mapping of names to values.
        kwargs: Arguments for the model; they win over what the prompt brings.
        needs: What is known about the model.

    Raises:
        RecordError: there is no prompt, one without tokens, one too long for the model, or one that nothing can be made of.

    >>> read_prompt(None, [[[5, 6], [7]]], {}).lengths
    [2, 1]
    """
    needs = needs or Needs()
    if len(args) > 1:
        raise RecordError(f"one prompt, not {len(args)}: put several in a list, and pass the model's other arguments by name")
    fields = {**(_fields(tokenizer, args[0]) if args else {}), **kwargs}
    if not _wants_mask(args, kwargs, needs):
        fields.pop("attention_mask", None)
    main = _main(fields, bool(args))
    rows = _main_rows(main, fields[main])
    lengths = [rows.shape[1]] * rows.shape[0] if isinstance(rows, torch.Tensor) else [row.shape[0] for row in rows]
    _check_lengths(lengths, args, needs)
    if _kinds(fields.get("labels")) == {"strings"}:
        fields["labels"] = _tokenized(tokenizer, fields["labels"])["input_ids"]
    return _split({**fields, main: rows}, lengths)


def encode(tokenizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Named arguments for a call of the model with one prompt, whose rows are all of one length.

    Args:
        tokenizer: For prompts that are text.
        args: At most one prompt: see :func:`read_prompt`.
        kwargs: Arguments for the model; they win over what the prompt brings.

    Raises:
        RecordError: there is no prompt, or one that nothing can be made of.
    """
    prompt = read_prompt(tokenizer, args, kwargs)
    if prompt.ragged:
        raise RecordError(f"the prompts have different lengths, {min(prompt.lengths)} to {max(prompt.lengths)}")
    return {**as_given(prompt), **prompt.options}


def as_given(prompt: Prompt) -> dict[str, Any]:
    """The inputs of a prompt that needs no padding; the user's own tensors are passed on as they are."""
    return {name: rows if isinstance(rows, torch.Tensor) else torch.stack(rows) for name, rows in prompt.inputs.items()}


def _wants_mask(args: Sequence[Any], kwargs: Mapping[str, Any], needs: Needs) -> bool:
    """Whether to keep the mask of ones: a model may take none, and bare ids behind a cache need one that covers the cache too."""
    if "attention_mask" in kwargs or not args or isinstance(args[0], Mapping):
        return True
    return needs.accepts("attention_mask") and ("past_key_values" not in kwargs or _kinds(args[0]) == {"strings"})


def _fields(tokenizer: Any, prompt: Any) -> dict[str, Any]:
    if isinstance(prompt, Mapping):
        return dict(prompt)
    if isinstance(prompt, (list, tuple)) and not prompt:
        raise RecordError(f"{prompt!r} is no prompt: it has no rows")
    kinds = _kinds(prompt)
    if len(kinds) > 1:
        mixed = " and ".join(sorted(kinds))
        raise RecordError(f"a list of prompts holds one kind of them, not {mixed}: give each kind an invoke of its own")
    if kinds == {"strings"}:
        return _tokenized(tokenizer, prompt)
    ids = _main_rows("input_ids", prompt)
    mask = torch.ones_like(ids) if isinstance(ids, torch.Tensor) else [torch.ones_like(row) for row in ids]
    return {"input_ids": ids, "attention_mask": mask}  # as a tokenizer gives them


def _kinds(prompt: Any) -> set[str]:
    if isinstance(prompt, str):
        return {"strings"}
    return {_kind(item) for item in prompt} if isinstance(prompt, (list, tuple)) else set()


def _kind(item: Any) -> str:
    if isinstance(item, str):
        return "strings"
    return "lists of token ids" if isinstance(item, (list, tuple)) or getattr(item, "ndim", False) else "token ids"


def _tokenized(tokenizer: Any, prompt: str | Sequence[str]) -> dict[str, Any]:
    """Rows by name, not padded, by one call of the tokenizer, which is left as it is."""
    if tokenizer is None:
        raise RecordError("this model was given without a tokenizer: pass token ids, or LanguageModel(model, tokenizer=...)")
    return dict(tokenizer([prompt] if isinstance(prompt, str) else list(prompt)))


def _main(fields: Mapping[str, Any], has_prompt: bool) -> str:
    given = [name for name in ("input_ids", "inputs_embeds") if fields.get(name) is not None]
    if len(given) == 1:
        return given[0]
    if given:
        raise RecordError("input_ids and inputs_embeds are two forms of one input: give one of them")
    if has_prompt:
        raise RecordError("the prompt has neither input_ids nor inputs_embeds")
    raise RecordError('a trace needs a prompt: model.trace("The Eiffel Tower is in")')


def _main_rows(name: str, value: Any) -> Rows:
    """The rows of the input that makes the others' lengths: each has tokens in one dimension, embeddings in two."""
    rows = _as_rows(name, value, 1)
    if isinstance(rows, torch.Tensor) and not rows.dim():
        raise RecordError(f"{name}: {_WANTED[name]}, not one number")
    if not len(rows):
        raise RecordError(f"an empty {type(value).__name__} is no prompt: it has no rows")
    dims = 2 if name == "inputs_embeds" else 1
    for row in [rows[0]] if isinstance(rows, torch.Tensor) else rows:
        if row.numel() and (row.dim() != dims or row.is_floating_point() != (dims == 2)):
            raise RecordError(f"{name}: {_WANTED[name]}, not {row.dtype} in {row.dim() + 1}")
    return rows


_WANTED = {
    "input_ids": "token ids are whole numbers in one or two dimensions, and embeddings go in as inputs_embeds=",
    "inputs_embeds": "embeddings are fractional numbers in two or three dimensions",
}


def _check_lengths(lengths: list[int], args: Sequence[Any], needs: Needs) -> None:
    if not min(lengths):
        raise RecordError(f"the prompt {_prompt_of(args, lengths.index(0))!r} has no tokens")
    if needs.limit is not None and max(lengths) > needs.limit:
        raise RecordError(
            f"a prompt has {max(lengths)} tokens, but {needs.name} has positions for {needs.limit}: shorten it, "
            f"or pass model.tokenizer(prompt, truncation=True, max_length={needs.limit})"
        )


def _prompt_of(args: Sequence[Any], row: int) -> Any:
    several = bool(args) and isinstance(args[0], (list, tuple)) and len(args[0]) > row
    return args[0][row] if several else args[0] if args else []


def _split(fields: Mapping[str, Any], lengths: list[int]) -> Prompt:
    inputs: dict[str, Rows] = {}
    options: dict[str, Any] = {}
    for name, value in fields.items():
        if _has_rows(name, value, len(lengths)):
            inputs[name] = _as_rows(name, value, len(lengths))
        else:
            options[name] = value
    return Prompt(lengths, inputs, options)


def _has_rows(name: str, value: Any, rows: int) -> bool:
    if name in TOKENS or name in DECODER:
        return value is not None
    return name not in _OF_THE_CALL and isinstance(value, torch.Tensor) and value.dim() > 0 and value.shape[0] == rows


def _as_rows(name: str, value: Any, rows: int) -> Rows:
    """An entry for each row; where there is one row, it may have been written without the dimension for it."""
    try:
        if isinstance(value, (list, tuple)) and any(_kind(item) != "token ids" for item in value):
            return [torch.as_tensor(item) for item in value]
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        wanted = (
            "a prompt is a string, token ids, a tensor or an encoding" if name == "input_ids" else f"{name} is rows of numbers, or a tensor"
        )
        raise RecordError(f"{wanted}, not {type(value).__name__}") from error
    if rows != 1 or not (name in TOKENS or name in DECODER) or (name == "labels" and tensor.shape == (1,)):  # a text's class, there
        return tensor
    return tensor.unsqueeze(0) if tensor.dim() == (2 if name.endswith("_embeds") else 1) else tensor
