"""Names that belong to runs on a server and to other engines, which this version does not have: they say so."""

from __future__ import annotations

from typing import Any, NoReturn

from ..errors import RemoteError


def local(*_values: Any) -> NoReturn:
    """Lines of a remote run that run here; there are no remote runs in this version.

    Raises:
        RemoteError: always.

    Example:
        >>> import nnsight_graph as nnsight
        >>> nnsight.local()
        Traceback (most recent call last):
        nnsight_graph.errors.RemoteError: local() is for runs on a server, which are not part of this version: here every line is local.
    """
    raise RemoteError("local() is for runs on a server, which are not part of this version: here every line is local.")


class VLLM:
    """A model in the vLLM engine, which is not part of this version.

    Raises:
        RemoteError: always.

    Example:
        >>> import nnsight_graph as nnsight
        >>> nnsight.VLLM("gpt2")
        Traceback (most recent call last):
        nnsight_graph.errors.RemoteError: vLLM is not part of this version: LanguageModel runs models of transformers.
    """

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        raise RemoteError("vLLM is not part of this version: LanguageModel runs models of transformers.")
