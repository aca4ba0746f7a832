"""Prompts, as people write them -> the inputs of a model, row by row, not padded yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from ..errors import MisuseError, RecordError, WrongTypeError
from ..ops.nested import tensors_in
from .chats import as_texts, conversations
from .continuing import Past, cache_in, cached_tokens, check_whole, rename_cache, split_mask
from .needs import INPUTS, Needs
from .tokenizing import NONE, fills, refuse_options, tokenize, without_extras

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
        left: Whether its rows are to be padded on the left, where it says so.
        filled: Whether the tokenizer has padded them.
        past: What stands before its tokens, where it continues from a cache.
    """

    lengths: list[int]
    inputs: dict[str, Rows]
    options: dict[str, Any]
    left: bool | None = None
    filled: bool = False
    past: Past | None = None

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.lengths)

    @property
    def ragged(self) -> bool:
        """Whether its own rows need padding."""
        return any(isinstance(rows, list) and len({row.shape for row in rows}) > 1 for rows in self.inputs.values())


def read_prompt(
    tokenizer: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    needs: Needs | None = None,
    options: Mapping[str, Any] = NONE,
    shared: Mapping[str, Any] = NONE,
    *,
    generate: bool = False,
) -> Prompt:
    """What one invoke gives to the model.

    Args:
        tokenizer: For prompts that are text; ``None`` where there is none.
        args: At most one prompt: a string, a conversation (a list of messages), token ids (a list, a tensor or an array), a list of
            several of one kind, an encoding or another mapping of names to values.
        kwargs: Arguments for the model; they win over what the prompt brings.
        needs: What is known about the model.
        options: For the tokenizer.
        shared: Arguments of the trace around it: a cache among them counts here, too.
        generate: Whether the call is ``model.generate`` and not the forward.

    Raises:
        RecordError: there is no prompt, one without tokens, one too long for the model, or one that nothing can be made of.

    >>> read_prompt(None, [[[5, 6], [7]]], {}).lengths
    [2, 1]
    """
    needs = needs or Needs()
    if len(args) > 1:
        raise RecordError(f"one prompt, not {len(args)}: put several in a list, and pass the model's other arguments by name")
    chats = conversations(args[0]) if args else None
    if chats is not None:
        args, options = [as_texts(tokenizer, chats)], {"add_special_tokens": False, **options}  # the template has written them
    is_text = bool(args) and _kinds(args[0]) == {"strings"}
    if not is_text:
        refuse_options(options)
    fields = {**(_fields(tokenizer, args[0], options, needs, generate) if args else {}), **kwargs}
    fields = _input_ids(rename_cache(fields, needs), needs, generate)
    if args and not isinstance(args[0], Mapping) and "attention_mask" not in kwargs and not needs.accepts("attention_mask"):
        fields.pop("attention_mask", None)
    main = _main(fields, bool(args), needs)
    if main not in _WANTED:
        return _by_name(main, fields)
    rows = _main_rows(main, fields[main])
    lengths = [rows.shape[1]] * rows.shape[0] if isinstance(rows, torch.Tensor) else [row.shape[0] for row in rows]
    cache = cache_in({**shared, **fields})
    past, before = None, cached_tokens(cache) if needs.decoder is None else 0
    _check_lengths(lengths, args, needs, None if generate else before or 0)
    if generate:
        check_whole(lengths, fields.get("attention_mask"), before)
    elif before != 0:
        mask = fields.pop("attention_mask", None)
        mask = None if mask is None else _as_rows("attention_mask", mask, len(lengths))
        made_here = not is_text and bool(args) and not isinstance(args[0], Mapping) and "attention_mask" not in kwargs
        mask, past = split_mask(mask, lengths, before, made_here)
        fields |= {} if mask is None else {"attention_mask": mask}
    if _kinds(fields.get("labels")) == {"strings"}:
        cut = {name: value for name, value in options.items() if name in _CUT} if needs.decoder is None else {}
        fields["labels"] = tokenize(tokenizer, fields["labels"], cut, needs, generate)["input_ids"]
    side = options.get("padding_side")
    made = _split({**fields, main: rows}, lengths)
    return made._replace(left=None if side is None else side == "left", filled=is_text and fills(options), past=past)


def _input_ids(fields: dict[str, Any], needs: Needs, generate: bool) -> dict[str, Any]:
    """``inputs=`` of ``generate`` is another name for what the model takes first."""
    if not generate or fields.get("inputs") is None or "inputs" in (needs.takes or ()):
        return fields
    if fields.get(needs.main) is not None:
        raise RecordError(f"inputs and {needs.main} are two names of one argument: give one of them")
    return {needs.main if name == "inputs" else name: value for name, value in fields.items() if name != needs.main}


def _by_name(main: str, fields: dict[str, Any]) -> Prompt:
    """An input that is no text: features of a sound, pixels, or what an encoder has made."""
    value = fields[main]
    if (isinstance(value, (list, tuple)) and not any(True for _ in tensors_in(value))) or not hasattr(value, "__len__"):
        value = _as_rows(main, value, 0)
    first = next((tensor for tensor in tensors_in(value) if tensor.dim()), None)
    if first is None:
        raise RecordError(f"{main} has no rows: it is to be a tensor, or to hold some")
    return _split({**fields, main: value}, [1] * first.shape[0])


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


def _fields(tokenizer: Any, prompt: Any, options: Mapping[str, Any], needs: Needs, generate: bool) -> dict[str, Any]:
    if isinstance(prompt, Mapping):
        return without_extras(prompt, needs)
    if isinstance(prompt, (list, tuple)) and not prompt:
        raise MisuseError(f"{prompt!r} is no prompt: it has no rows")
    kinds = _kinds(prompt)
    if len(kinds) > 1:
        mixed = " and ".join(sorted(kinds))
        raise RecordError(f"a list of prompts holds one kind of them, not {mixed}: give each kind an invoke of its own")
    if kinds == {"strings"}:
        return tokenize(tokenizer, prompt, options, needs, generate)
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


def _main(fields: Mapping[str, Any], has_prompt: bool, needs: Needs) -> str:
    given = [name for name in ("input_ids", "inputs_embeds") if fields.get(name) is not None]
    if len(given) == 1:
        return given[0]
    if given:
        raise RecordError("input_ids and inputs_embeds are two forms of one input: give one of them")
    others = [name for name in (needs.main, *INPUTS) if fields.get(name) is not None]
    takes = needs.takes if needs.takes is not None else frozenset[str]() if has_prompt else fields
    others += [name for name, value in fields.items() if name in takes and name not in TOKENS and _has_rows(name, value, -1)]
    if others:
        return others[0]
    if has_prompt:
        raise RecordError("the prompt has neither input_ids nor inputs_embeds")
    raise MisuseError('a trace needs a prompt: model.trace("The Eiffel Tower is in")')


def _main_rows(name: str, value: Any) -> Rows:
    """The rows of the input that makes the others' lengths: each has tokens in one dimension, embeddings in two."""
    rows = _as_rows(name, value, 1)
    if isinstance(rows, torch.Tensor) and not rows.dim():
        raise RecordError(f"{name}: {_WANTED[name]}, not one number")
    if not len(rows):
        raise MisuseError(f"an empty {type(value).__name__} is no prompt: it has no rows")
    dims = 2 if name == "inputs_embeds" else 1
    for row in [rows[0]] if isinstance(rows, torch.Tensor) else rows:
        if row.numel() and (row.dim() != dims or row.is_floating_point() != (dims == 2)):
            raise RecordError(f"{name}: {_WANTED[name]}, not {row.dtype} in {row.dim() + 1}")
    return rows


_CUT = ("truncation", "max_length", "truncation_side", "add_special_tokens")  # of labels that are the prompt's own text
_WANTED = {
    "input_ids": "token ids are whole numbers in one or two dimensions, and embeddings go in as inputs_embeds=",
    "inputs_embeds": "embeddings are fractional numbers in two or three dimensions",
}


def _check_lengths(lengths: list[int], args: Sequence[Any], needs: Needs, before: int | None) -> None:
    if not min(lengths):
        raise MisuseError(f"the prompt {_prompt_of(args, lengths.index(0))!r} has no tokens")
    if needs.limit is not None and max(lengths) + (before or 0) > needs.limit:
        behind = f" behind {before} in the cache" if before else ""
        room = needs.limit - (before or 0)
        cut = f"truncation=True, max_length={room}"
        cut = f"tokenizer_kwargs=dict({cut})" if before is None else cut  # generate has a max_length of its own
        raise RecordError(
            f"a prompt has {max(lengths)} tokens{behind}, but {needs.name} has positions for {needs.limit}: shorten it, or pass {cut}"
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
    return name not in _OF_THE_CALL and isinstance(value, torch.Tensor) and value.dim() > 0 and rows in (-1, value.shape[0])


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
        raise WrongTypeError(f"{wanted}, not {type(value).__name__}") from error
    if rows != 1 or not (name in TOKENS or name in DECODER) or (name == "labels" and tensor.shape == (1,)):  # a text's class, there
        return tensor
    return tensor.unsqueeze(0) if tensor.dim() == (2 if name.endswith("_embeds") else 1) else tensor
