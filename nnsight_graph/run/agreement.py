"""What follows where a scan ended because data decides: that on which two different guesses agree."""

from __future__ import annotations

from typing import Any

import msgspec
import torch

from .likeness import are_alike
from .scan import Forward, Scan, scan_sizes


def completed(ended: Scan, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Forward) -> Scan:
    """A scan, with what two guesses agree on in place of what it does not know; itself, where it came to its end.

    The guesses give what depends on data different sizes, and questions different answers. Where all the same the same passes at a
    site, that does not depend on them, as a mixture of experts returns as many tokens as it was given. This is for those who ask
    for shapes; no program is refused because of it.

    Args:
        ended: The scan.
        module: The model.
        args: Arguments of its call.
        kwargs: Its named arguments.
        forward: How it is called.
    """
    if ended.complete or not ended.blind:
        return ended
    guesses = ((False, 2), (True, 3))
    one, other = (scan_sizes(module, args, kwargs, forward, truth, times=times, written=True)[0].values for truth, times in guesses)
    agreed = {site: value for site, value in one.items() if site in other and are_alike(value, other[site])}
    return msgspec.structs.replace(ended, values={**agreed, **ended.values})
