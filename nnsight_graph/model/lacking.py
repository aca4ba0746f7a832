"""What a model lacks to run the program of a file, and what such a program may not ask of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from ..errors import MissedSiteError, NNsightError, RecordError
from ..graph import Site
from ..ops.data import delivered
from ..run.attention import NAME as WEIGHTS
from ..run.instrument import instrumented
from ..run.wrapped import innermost
from ..serialize.allowed import GENERATE
from .arguments import HAND_ON
from .invoker import Call

if TYPE_CHECKING:
    from .nnsight import NNsight

_FROM_FILES = frozenset({"truncation", "max_length", "padding_side", "truncation_side", "add_special_tokens"})
"""Options for a tokenizer that make nothing large, and name no code."""


def lacking(model: NNsight, sites: Iterable[Site]) -> list[str]:
    """What of the sites a model lacks."""
    modules = model._tree.index.modules
    wanted = dict.fromkeys((site.path, site.point == "parameter") for site in sites if site.point not in ("grad", "result"))
    found = []
    for path, is_parameter in wanted:
        owner, _, name = path.rpartition(".")
        module = modules.get(owner if is_parameter else path)
        if is_parameter:
            there = module is not None and isinstance(getattr(module, name, None), torch.Tensor)
        else:
            there = module is not None or path.startswith("generator") or _has_operation(modules, path)
        found += [] if there else [path]
    return found


def _has_operation(modules: Mapping[str, torch.nn.Module], path: str) -> bool:
    """Whether a path is one of an operation inside a forward; of what that calls in turn, only the first is looked for."""
    owner, sign, rest = f".{path}".partition(".source.")
    module = modules.get(owner[1:])
    if not sign or module is None:
        return False
    name = rest.partition(".")[0]
    if name == WEIGHTS:  # a run tells
        return True
    try:
        return name in instrumented(innermost(module.forward)).names
    except NNsightError:
        return False


def refuse(model: NNsight, sites: Iterable[Site], edited: bool = False) -> None:
    """Raise what keeps a model from running a program with these sites; ``edited``: it may have edits of its own."""
    if not hasattr(model, "_tree"):
        raise RecordError(f"a graph runs on a model of this library, not on a {type(model).__name__}: NNsight(model) makes one")
    if model._edits and not edited:
        raise RecordError("this model has edits of its own, and the graph holds those of the model it was recorded on: run it on that")
    if names := lacking(model, sites):
        raise MissedSiteError(lacks(model, names))


def lacks(model: NNsight, names: list[str]) -> str:
    """What a model has not, for people."""
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    hint = model._tree.names.hint(model._module, "", names[0].rpartition(".")[2], dir(model)) if hasattr(model._tree, "names") else ""
    return f"{type(model._module).__name__} has no {shown}, which the program names{hint}"


def vet(model: NNsight, call: Call) -> None:
    """Refuse arguments that a program from a file may not give: those of transformers that name code to load are among them."""
    takes = inspect.signature(model._module.forward).parameters
    known = {name for name, parameter in takes.items() if parameter.kind is not inspect.Parameter.VAR_KEYWORD}
    generates = call.function == "generate"
    placed = list(inspect.signature(model._callable("generate")).parameters)[1 : len(call.args)] if generates else []
    strange = [name for name in (*placed, *call.kwargs) if name not in known and not (generates and name in GENERATE)]
    if strange:
        raise RecordError(f"a session from a file may not give {strange[0][:50]!r} to {call.function or 'forward'}")
    try:
        delivered((call.args, call.kwargs))
    except TypeError as error:
        raise RecordError(f"the arguments of a call in a session from a file: {error}") from None


def vet_names(model: NNsight, function: str, names: Iterable[str]) -> None:
    """Refuse arguments of a program from a file that mean something to the library alone, and are gone when the call is vetted."""
    strange = [name for name in names if name == HAND_ON or (name in model._named_options(function) and name not in _FROM_FILES)]
    if strange:
        raise RecordError(f"a session from a file may not give {strange[0][:50]!r} to {function or 'forward'}")
