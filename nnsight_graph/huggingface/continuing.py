"""Continuing from a KV cache: what its name is, how long it is, and the mask and the numbers of the tokens that follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ..errors import RecordError
from .needs import CACHES, Needs


class Past(NamedTuple):
    """What stands before the tokens of a prompt.

    Attributes:
        length: How many tokens the cache holds, padding included.
        mask: Which of them are no padding, ``(rows, length)``; ``None`` where all are.
    """

    length: int
    mask: torch.Tensor | None = None

    def counts(self, rows: int) -> torch.Tensor:
        """How many tokens of each row are no padding, ``(rows,)``."""
        return torch.full((rows,), self.length) if self.mask is None else self.mask.ne(0).sum(1).cpu()

    def covering(self, mask: torch.Tensor) -> torch.Tensor:
        """The mask of the new tokens, with that of the cache before it."""
        before = mask.new_ones(mask.shape[0], self.length) if self.mask is None else self.mask.to(mask)
        return torch.cat([before, mask], 1)


def rename_cache(kwargs: Mapping[str, Any], needs: Needs) -> dict[str, Any]:
    """Arguments with the cache under the name that the forward has for it: that changes with the version of transformers.

    Raises:
        RecordError: it is given under two names, or the model takes none.
    """
    given = {name: kwargs[name] for name in CACHES if name in kwargs}
    if not given or needs.takes is None:
        return dict(kwargs)
    caches = {name: value for name, value in given.items() if value is not None}
    if len(caches) > 1:
        raise RecordError(f"{' and '.join(caches)} are two names of one argument: give one of them")
    rest = {name: value for name, value in kwargs.items() if name not in given}
    if needs.cache is None:
        if caches:
            raise RecordError(f"{needs.name} takes no {next(iter(caches))}: it keeps no keys and values")
        return rest
    return {**rest, needs.cache: next(iter(caches.values()), None)}


def cache_in(kwargs: Mapping[str, Any]) -> Any:
    """The cache among arguments, or ``None``."""
    return next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)


def cached_tokens(cache: Any) -> int | None:
    """How many tokens a cache holds; ``None`` where it does not tell.

    >>> cached_tokens(None), cached_tokens(object())
    (0, None)
    """
    if cache is None:
        return 0
    try:
        if isinstance(cache, (tuple, list)):  # as versions before 5 had it
            return int(cache[0][0].shape[-2])
        return int(cache.get_seq_length())
    except (AttributeError, IndexError, TypeError, ValueError, NotImplementedError):
        return None


def split_mask(
    mask: torch.Tensor | list[torch.Tensor] | None, lengths: list[int], before: int | None, made_here: bool
) -> tuple[torch.Tensor | list[torch.Tensor] | None, Past | None]:
    """The mask of a prompt behind a cache: of its own tokens, and what is known of those in the cache.

    Args:
        mask: As it was given, or made with the ids: for the prompt alone, for the cache alone, or for both.
        lengths: The number of tokens of each row.
        before: The number of tokens in the cache; ``None`` where it does not tell.
        made_here: Whether it was made with bare ids, and says nothing.

    Returns:
        The mask of the prompt's tokens, and the past; ``None`` for both where a model without a mask attends to all.

    Raises:
        RecordError: nothing says which of the cache's tokens are padding, and some may be; or the mask fits nothing.
    """
    if isinstance(mask, torch.Tensor) and mask.dim() != 2:
        return mask, None
    one, ragged = len(lengths) == 1, len(set(lengths)) > 1
    widths = lengths if mask is None else [len(row) for row in mask]
    if widths == lengths:
        if ragged or not (one or mask is None or made_here):
            raise RecordError(
                "which of the cache's tokens are padding is known only to its maker: pass attention_mask= for the tokens of the cache "
                "and those of the prompt, row by row, or give each row a trace"
            )
        if mask is None or all(bool(row.ne(0).all()) for row in mask):
            return None, None
        if before is None:
            raise RecordError("how many tokens this cache holds is not known: pass an attention_mask= that covers them, too")
        return mask, Past(before)
    assert mask is not None
    if before is not None and widths == [before] * len(lengths):
        return [row.new_ones(length) for row, length in zip(mask, lengths, strict=True)], Past(before, torch.stack(list(mask)))
    if before is not None and widths == [before + length for length in lengths]:
        return [row[before:] for row in mask], Past(before, torch.stack([row[:before] for row in mask]))
    if before is None or min(width - length - before for width, length in zip(widths, lengths, strict=True)) > 0:
        return mask, None  # of a cache that has room for more
    raise RecordError(
        f"attention_mask has {min(widths)} columns, but the cache holds {before} tokens and the prompt has {max(lengths)}: it covers the "
        "prompt, the cache, or both"
    )


def check_whole(lengths: list[int], mask: Any, before: int | None) -> None:
    """Refuse a prompt for ``generate`` that holds only what follows a cache: it takes the whole text, and cuts it itself.

    Raises:
        RecordError: the prompt is no longer than the cache.
    """
    wide = isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] > max(lengths)
    if before and min(lengths) <= before and not wide:
        raise RecordError(
            f"with a cache, generate takes the whole text, what the cache holds ({before} tokens) included: the prompt has {min(lengths)}"
        )
