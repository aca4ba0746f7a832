"""Text -> token ids, with the options that ``tokenizer(...)`` takes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import MisuseError, RecordError, WrongTypeError
from .needs import Needs

OPTIONS = frozenset(
    """add_special_tokens padding truncation max_length stride is_split_into_words pad_to_multiple_of padding_side truncation_side
    return_tensors tokenizer_kwargs""".split()
)
"""Arguments of traces and invokes that are for the tokenizer; ``tokenizer_kwargs`` holds any others."""

NONE: Mapping[str, Any] = MappingProxyType({})
"""No options, or no arguments."""

_FOR_ANY_PROMPT = frozenset({"padding", "padding_side", "return_tensors"})
_LONGEST = (True, "longest")
NO_INPUTS = ("special_tokens_mask", "offset_mapping", "length", "overflow_to_sample_mapping", "overflowing_tokens", "num_truncated_tokens")
"""What an encoding tells the tokenizer's user, and no model."""


def options_for(generate: bool) -> frozenset[str]:
    """The options that are the tokenizer's: ``max_length`` is an argument of ``generate`` itself.

    >>> "max_length" in options_for(False), "max_length" in options_for(True)
    (True, False)
    """
    return OPTIONS - {"max_length"} if generate else OPTIONS


def take_options(kwargs: Mapping[str, Any], needs: Needs, generate: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options for the tokenizer, and the other arguments; those that the forward itself has are among the latter.

    >>> take_options({"truncation": True, "use_cache": False}, Needs(), generate=False)
    ({'truncation': True}, {'use_cache': False})

    Raises:
        RecordError: ``tokenizer_kwargs`` is no dictionary, or a side is none.
    """
    own = needs.takes or frozenset[str]()
    names = options_for(generate) - own
    taken = {name: value for name, value in kwargs.items() if name in names}
    rest = {name: value for name, value in kwargs.items() if name not in names}
    more = taken.pop("tokenizer_kwargs", None)
    if more is not None and not isinstance(more, Mapping):
        raise WrongTypeError(f"tokenizer_kwargs is a dictionary of options for the tokenizer, not {type(more).__name__}")
    taken.update(more or {})
    if taken.get("padding_side") not in (None, "left", "right"):
        raise MisuseError(f"padding_side is 'left' or 'right', not {taken['padding_side']!r}")
    return taken, rest


def refuse_options(options: Mapping[str, Any]) -> None:
    """Refuse options that only a tokenizer could follow, for a prompt that is no text.

    Raises:
        RecordError: names the option.
    """
    strange = [name for name in options if name not in _FOR_ANY_PROMPT and options[name] is not None]
    strange += ["padding"] if options.get("padding") not in (None, False, "do_not_pad", *_LONGEST) else []
    if strange:
        raise RecordError(f"{strange[0]} is for the tokenizer, but this prompt is no text: give it to the invokes whose prompts are")


def tokenize(tokenizer: Any, prompt: str | Sequence[str], options: Mapping[str, Any], needs: Needs, generate: bool) -> dict[str, Any]:
    """Rows by name, by one call of the tokenizer, which is left as it is.

    They are padded only if the options ask for more than the longest row: padding to that is made for the whole batch.

    Raises:
        RecordError: there is no tokenizer, or it does not take the options.
    """
    if tokenizer is None:
        raise RecordError("this model was given without a tokenizer: pass token ids, or LanguageModel(model, tokenizer=...)")
    own = {name: value for name, value in options.items() if name != "return_tensors"}
    _check_names(tokenizer, own)
    if fills(own):
        if generate and needs.decoder is None:
            own.setdefault("padding_side", "left")
    else:
        own.pop("padding", None)
        own.pop("padding_side", None)
    text = [prompt] if isinstance(prompt, str) and not own.get("text_pair") else prompt if isinstance(prompt, str) else list(prompt)
    try:
        made = dict(tokenizer(text, **own))
    except (TypeError, ValueError) as error:
        if not own:
            raise
        raise RecordError(f"the tokenizer cannot follow {', '.join(own)}: {error}") from error
    return without_extras(made, needs)


def _check_names(tokenizer: Any, options: Mapping[str, Any]) -> None:
    """Refuse options that transformers' tokenizers would take in their ``**kwargs``, and not follow."""
    if not options or OPTIONS.issuperset(options) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return
    known = {*OPTIONS, *inspect.signature(type(tokenizer).__call__).parameters, "split_special_tokens", "add_prefix_space"}
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 2, 0.75)
            raise RecordError(f"the tokenizer has no option {name!r}" + (f"; near: {', '.join(near)}" if near else ""))


def fills(options: Mapping[str, Any]) -> bool:
    """Whether the tokenizer has to pad, and not only the batch."""
    padding = options.get("padding")
    return padding not in (None, False, "do_not_pad") and (padding not in _LONGEST or options.get("pad_to_multiple_of") is not None)


def without_extras(encoding: Mapping[str, Any], needs: Needs) -> dict[str, Any]:
    """An encoding without what a tokenizer tells its user, and the model has no use for."""
    return {name: value for name, value in encoding.items() if name not in NO_INPUTS or (needs.takes is not None and name in needs.takes)}
