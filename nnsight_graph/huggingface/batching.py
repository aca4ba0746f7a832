"""The inputs of many invokes -> one call of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from ..errors import MisuseError, RecordError
from ..ops.nested import tensors_in
from .continuing import cached_tokens, rename_cache
from .needs import CACHES, Needs
from .positions import number_tokens
from .prompts import DECODER, TOKENS, Prompt, as_given, read_prompt
from .tokenizing import take_options

_IGNORED = -100  # a label that no loss of transformers counts
_BY_COLUMN = frozenset({"input_ids", "inputs_embeds", "attention_mask", "token_type_ids"})


class Batch(NamedTuple):
    """One call of the model.

    Attributes:
        inputs: Its named arguments.
        rows: The first row of each invoke that has an input, and the row after its last.
        size: All rows.
        padded: The sides on which any of them is padded; ``True`` for the left.
    """

    inputs: dict[str, Any]
    rows: tuple[tuple[int, int], ...]
    size: int
    padded: frozenset[bool] = frozenset()


class _Layout(NamedTuple):
    """Where the rows lie: how wide the batch is, on which side each is padded, and the padding before each row."""

    width: int
    left: list[bool]
    starts: list[int]
    padded: bool


def make_batch(
    tokenizer: Any,
    needs: Needs,
    invokes: Sequence[tuple[Sequence[Any], Mapping[str, Any]]],
    shared: Mapping[str, Any] | None = None,
    *,
    generate: bool = False,
) -> Batch:
    """Many invokes as one call of the model: :func:`~.prompts.read_prompt` on each, then :func:`join_prompts`.

    Args:
        tokenizer: For text, and for the side and the token of padding; ``None`` where there is none. It is not changed.
        needs: What the model wants: ``read_needs(model)``.
        invokes: The arguments and named arguments of each; those without any have no input, and no rows of their own.
        shared: Arguments for the model that belong to the call as a whole.
        generate: Whether the call is ``model.generate`` and not the forward.

    Raises:
        RecordError: inputs that are wrong, or that do not go into one call.

    Example:
        >>> batch = make_batch(None, Needs(positions="index", shifts=True), [(([5, 6, 7],), {}), (([8],), {})])
        >>> batch.rows, batch.inputs["attention_mask"].tolist(), batch.inputs["position_ids"].tolist()
        (((0, 1), (1, 2)), [[1, 1, 1], [0, 0, 1]], [[0, 1, 2], [0, 0, 0]])
    """
    options, around = take_options(shared or {}, needs, generate)
    given = [(args, *take_options(kwargs, needs, generate)) for args, kwargs in invokes if args or kwargs]
    prompts = [
        read_prompt(tokenizer, args, kwargs, needs, {**options, **own}, around, generate=generate) for args, own, kwargs in given
    ]
    return join_prompts(tokenizer, needs, prompts, around, generate=generate)


def join_prompts(
    tokenizer: Any, needs: Needs, prompts: Sequence[Prompt], shared: Mapping[str, Any] | None = None, *, generate: bool = False
) -> Batch:
    """Prompts that were read already as one call of the model.

    A row that is padded keeps the numbers of its prompt run alone: padding is hidden by the attention mask, and where the model
    would number columns, the tokens are numbered (see :func:`~.positions.number_tokens`). One prompt without padding is
    passed on as it is.

    Padding goes to the tokenizer's side, with two exceptions: a decoder's own input is padded on its right, since
    nothing hides what stands before a token there; and ``generate`` continues a row at its end, so a model without an encoder
    gets its padding on the left.

    What ids padding has does not matter under the mask: without a padding token it is the end of text, or 0.

    Args:
        tokenizer: See :func:`make_batch`.
        needs: See :func:`make_batch`.
        prompts: At least one.
        shared: See :func:`make_batch`.
        generate: See :func:`make_batch`.

    Raises:
        RecordError: there are no prompts, or they do not go into one call.
    """
    if not prompts:
        raise MisuseError('a batch of nothing: give a prompt to the trace or to an invoke, as in tracer.invoke("The Eiffel Tower is in")')
    options = _options(prompts, rename_cache(shared or {}, needs))
    layout = _layout(tokenizer, needs, prompts, generate)
    if len(prompts) == 1 and not prompts[0].ragged:
        inputs = as_given(prompts[0])
    else:
        inputs = _joined(tokenizer, needs, prompts, layout, options)
    if not generate:
        _start_decoder(inputs, options, needs, layout, sum(prompt.rows for prompt in prompts))
    if len(prompts) > 1 or "position_ids" not in inputs:
        numbers = number_tokens(prompts, layout.starts, layout.width, inputs.get("attention_mask"), needs, generate)
        inputs |= {} if numbers is None else {"position_ids": numbers}
    if len(prompts) == 1 and prompts[0].past is not None and inputs.get("attention_mask") is not None:
        inputs["attention_mask"] = prompts[0].past.covering(inputs["attention_mask"])
    ends = list(accumulate(prompt.rows for prompt in prompts))
    return Batch({**inputs, **options}, tuple(zip([0, *ends], ends, strict=False)), ends[-1], _padded_sides(prompts, layout))


def _padded_sides(prompts: Sequence[Prompt], layout: _Layout) -> frozenset[bool]:
    """The sides on which there is padding, of ours or in encodings of several rows; ``True`` for the left."""
    lengths = [length for prompt in prompts for length in prompt.lengths]
    sides = {side for side, length in zip(layout.left, lengths, strict=True) if length < layout.width}
    for prompt in prompts:
        mask = prompt.inputs.get("attention_mask")
        if mask is not None and (prompt.filled or prompt.rows > 1):
            sides |= {end == 0 for end in (0, -1) for row in mask if row.dim() == 1 and not row[end]}
    decoded = [row for prompt in prompts for name in DECODER if name in prompt.inputs for row in prompt.inputs[name]]
    return frozenset(sides | {False} if len({len(row) for row in decoded if row.dim()}) > 1 else sides)


def _layout(tokenizer: Any, needs: Needs, prompts: Sequence[Prompt], generate: bool) -> _Layout:
    lengths = [length for prompt in prompts for length in prompt.lengths]
    width, left = max(lengths), _pads_left(tokenizer, needs, generate)
    sides = [left if prompt.left is None else prompt.left for prompt in prompts for _ in prompt.lengths]
    added = [length < width for length in lengths]
    padded = any(added)
    if padded and not needs.accepts("attention_mask"):
        raise RecordError(f"{needs.name} takes no attention_mask, which would hide padding: give prompts of one length, or a trace to each")
    first, last = (any(_filled(prompt, end) for prompt in prompts) for end in (0, -1))
    on_left = first or any(side and more for side, more in zip(sides, added, strict=True))
    if on_left and needs.positions == "ids" and any("inputs_embeds" in prompt.inputs for prompt in prompts):
        where = "pad inputs_embeds on the right, model.tokenizer.padding_side = 'right'"
        raise RecordError(f"{needs.name} numbers tokens by their ids: {where}")
    if on_left and not needs.left:
        where = "padding before a text would move its tokens, since the model numbers columns"
        raise RecordError(f"{needs.name} cannot be padded on the left ({where}): set model.tokenizer.padding_side = 'right'")
    if generate and needs.decoder is None and (last or any(more and not side for side, more in zip(sides, added, strict=True))):
        raise RecordError("generate continues a row at its end, and padding on the right stands there: pad on the left")
    return _Layout(width, sides, [width - length if side else 0 for length, side in zip(lengths, sides, strict=True)], padded)


def _filled(prompt: Prompt, end: int) -> bool:
    """Whether the tokenizer has padded a row at its first or its last place."""
    mask = prompt.inputs.get("attention_mask")
    return prompt.filled and mask is not None and any(not row[end] for row in mask)


def _pads_left(tokenizer: Any, needs: Needs, generate: bool) -> bool:
    if generate and needs.decoder is None:
        return True
    return bool(getattr(tokenizer, "padding_side", "left" if needs.shifts else "right") == "left")


def _options(prompts: Sequence[Prompt], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that belong to the whole call, from wherever they were given."""
    for name, value in shared.items():
        if (name in TOKENS or name in DECODER) and value is not None:
            raise RecordError(f"{name} has rows: give it to the invokes whose rows they are, not to the trace around them")
    options, inputs = dict(shared), {name for prompt in prompts for name in prompt.inputs}
    for prompt in prompts:
        for name, value in prompt.options.items():
            if name in inputs and value is None:
                continue  # labels=None says that there are none
            if name in inputs or (name in options and not _same(options[name], value)):
                raise RecordError(f"{name} has two values, but all invokes are one call of the model: give it once, or use two traces")
            options[name] = value
    return {name: value for name, value in options.items() if name not in inputs}


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        both = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        return one is other or (both and one.dtype == other.dtype and one.device == other.device and torch.equal(one, other))
    try:
        return one is other or bool(one == other)
    except (ValueError, RuntimeError):  # arrays, and what holds tensors, are not compared by one truth
        return False


def _joined(
    tokenizer: Any, needs: Needs, prompts: Sequence[Prompt], layout: _Layout, options: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    names = dict.fromkeys(name for prompt in prompts for name in prompt.inputs)
    names_of_caches = [name for name in CACHES if options.get(name) is not None and (len(prompts) > 1 or prompts[0].past is None)]
    for name in (*names_of_caches, "encoder_outputs"):
        if options.get(name) is not None and (name == "encoder_outputs" or cached_tokens(options[name]) != 0):
            raise RecordError(f"{name} belongs to rows that only its maker knows: use it in a trace with one prompt")
    if "input_ids" in names and "inputs_embeds" in names:
        raise RecordError("input_ids and inputs_embeds cannot be mixed in one call: give every invoke one or the other")
    if layout.padded or any(prompt.past is not None for prompt in prompts):
        names["attention_mask"] = None
    names.pop("position_ids", None)  # numbered when the mask is there
    return {name: _join(name, tokenizer, needs, prompts, layout) for name in names}


def _join(name: str, tokenizer: Any, needs: Needs, prompts: Sequence[Prompt], layout: _Layout) -> torch.Tensor:
    whole = None if layout.padded else _whole(name, prompts)
    if whole is not None:
        return whole
    rows = [row for prompt in prompts for row in _rows(name, prompt, prompts, needs)]
    lengths = [length for prompt in prompts for length in prompt.lengths]
    for_decoder = name in DECODER or (name == "labels" and needs.decoder is not None)
    by_column = all(row.dim() and row.shape[0] == length for row, length in zip(rows, lengths, strict=True))
    if not by_column and not for_decoder and (len({row.shape for row in rows}) > 1 or (layout.padded and name in _BY_COLUMN)):
        shapes = ", ".join(sorted({str(list(row.shape)) for row in rows}))
        raise RecordError(f"{name}: rows of shapes {shapes} do not fit rows of {', '.join(map(str, sorted({*lengths})))} tokens")
    if name == "labels" and needs.shifts and by_column:
        rows = [_without_first(row) if start else row for row, start in zip(rows, layout.starts, strict=True)]
    return _stack(name, rows, _fill(name, tokenizer, needs), [False] * len(rows) if for_decoder else layout.left)


def _whole(name: str, prompts: Sequence[Prompt]) -> torch.Tensor | None:
    """The usual case, without taking tensors apart: all alike, and with an entry for each row."""
    given = [prompt.inputs.get(name) for prompt in prompts]
    tensors = [each for each in given if isinstance(each, torch.Tensor)]
    if len(tensors) < len(prompts) or len({(each.shape[1:], each.dtype, each.device) for each in tensors}) > 1:
        return None
    fits = all(each.shape[0] == prompt.rows for each, prompt in zip(tensors, prompts, strict=True))
    return torch.cat(tensors) if fits else None


def _rows(name: str, prompt: Prompt, prompts: Sequence[Prompt], needs: Needs) -> list[torch.Tensor]:
    """The rows that a prompt gives, or those that mean that it gave none."""
    own = prompt.inputs.get(name)
    if own is not None:
        if len(own) not in (1, prompt.rows):
            raise RecordError(f"{name} has {len(own)} rows, but the invoke has {prompt.rows}")
        return [own[0]] * prompt.rows if len(own) == 1 else list(own)
    if name == "attention_mask":
        return [torch.ones(length, dtype=torch.long) for length in prompt.lengths]
    if name == "token_type_ids":
        return [torch.zeros(length, dtype=torch.long) for length in prompt.lengths]
    other = next(prompt.inputs[name][0] for prompt in prompts if name in prompt.inputs)
    if name == "labels" and needs.decoder != "own" and not other.is_floating_point():
        lengths = prompt.lengths if needs.decoder is None else _decoder_lengths(prompt)
        return [torch.full((length,) if other.dim() else (), _IGNORED) for length in lengths]
    if name == "decoder_input_ids" and needs.decoder == "start" and "labels" not in prompt.inputs:
        return [torch.tensor([_start(needs)])] * prompt.rows
    if name == "decoder_attention_mask":
        return [torch.ones(length, dtype=torch.long) for length in _decoder_lengths(prompt)]
    raise RecordError(f"{name} is given to some invokes and not to others: give it to all of them")


def _decoder_lengths(prompt: Prompt) -> list[int]:
    given = next((prompt.inputs[name] for name in ("decoder_input_ids", "decoder_inputs_embeds", "labels") if name in prompt.inputs), None)
    return [1] * prompt.rows if given is None else [row.shape[0] for row in given]


def _without_first(labels: torch.Tensor) -> torch.Tensor:
    """A row's first token is predicted by nothing; behind padding the loss would take the padding's prediction for it."""
    return torch.cat([torch.full_like(labels[:1], _IGNORED), labels[1:]])


def _fill(name: str, tokenizer: Any, needs: Needs) -> int:
    if name in ("input_ids", "decoder_input_ids"):
        return _padding_id(tokenizer, needs)
    if name == "token_type_ids":
        return getattr(tokenizer, "pad_token_type_id", 0)
    return _IGNORED if name == "labels" else 0


def _padding_id(tokenizer: Any, needs: Needs) -> int:
    """An id that the model knows; mostly it does not matter which one, since the mask hides it."""
    first = needs.pad if needs.positions == "ids" else None
    known = (first, getattr(tokenizer, "pad_token_id", None), needs.pad, getattr(tokenizer, "eos_token_id", None))
    return next((id for id in known if isinstance(id, int) and 0 <= id < (needs.vocabulary or id + 1)), 0)


def _stack(name: str, rows: list[torch.Tensor], fill: int, left: list[bool]) -> torch.Tensor:
    first = rows[0]
    if len({row.dtype for row in rows}) > 1:
        if any(row.is_floating_point() for row in rows):
            raise RecordError(f"{name} has several dtypes, {', '.join(sorted({str(row.dtype) for row in rows}))}: convert all to one")
        rows = [row.long() for row in rows]
    if len({row.device for row in rows}) > 1:
        rows = [row.to(first.device) for row in rows]
    if all(row.shape == first.shape for row in rows):
        return torch.stack(rows)
    if len({row.shape[1:] for row in rows}) > 1:
        raise RecordError(f"{name}: rows differ in more than their length, {', '.join(sorted({str(list(row.shape)) for row in rows}))}")
    if len(set(left)) == 1:
        return pad_sequence(rows, batch_first=True, padding_value=fill, padding_side="left" if left[0] else "right")
    width = max(row.shape[0] for row in rows)
    padding = [row.new_full((width - row.shape[0], *row.shape[1:]), fill) for row in rows]
    return torch.stack([torch.cat([more, row] if side else [row, more]) for row, more, side in zip(rows, padding, left, strict=True)])


def _start_decoder(inputs: dict[str, Any], options: Mapping[str, Any], needs: Needs, layout: _Layout, size: int) -> None:
    """A forward of an encoder-decoder needs something to decode: without any, the token that decoding starts from."""
    if needs.decoder is None or any(name in inputs for name in ("decoder_input_ids", "decoder_inputs_embeds")):
        return
    if needs.decoder == "start" and "labels" not in inputs:
        first = next(tensors_in([*inputs.values(), *options.values()]))
        inputs["decoder_input_ids"] = torch.full((size, 1), _start(needs), device=first.device)
    elif needs.decoder == "own" and any(layout.starts):
        raise RecordError(f"{needs.name} decodes its own input, padding included: pass decoder_input_ids=, or pad on the right")


def _start(needs: Needs) -> int:
    if needs.start is None:
        raise RecordError("the config names no decoder_start_token_id: pass decoder_input_ids= or labels=")
    return needs.start
