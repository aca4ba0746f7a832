"""What a method of a model takes by name: its own names, those of what wraps it, and what transformers documents besides."""

from __future__ import annotations

import dis
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, NamedTuple

import torch

_MODALITIES = ("image_", "video_", "audio_")  # transformers hands what follows on to the encoder of that modality
_OF_A_LOSS = frozenset({"shift_labels", "ignore_index"})
_OF_GENERATE = frozenset({"debug_io", "mm_encoder_outputs", "tokenizer", "assistant_tokenizer"})  # functions that it calls take them
_UNPACKED = re.compile(r"Unpack\[\"?'?(\w+)")
_PLAIN_CALL = torch.nn.Module.__call__


class Signature(NamedTuple):
    """The named arguments of a method.

    Attributes:
        names: Those that it names, or that what it is wrapped in names.
        open: Whether it takes others, too.
        documented: Whether the others are known: it is transformers' own.
    """

    names: frozenset[str]
    open: bool
    documented: bool


def function_of(module: torch.nn.Module, name: str) -> Any:
    """The function behind a method, one that was put on the module itself included."""
    return module.__dict__.get(name) or getattr(type(module), name, None)


def signature_of(module: torch.nn.Module, name: str) -> Signature:
    """What ``module``'s method takes by name.

    >>> signature_of(torch.nn.Linear(2, 2), "forward")
    Signature(names=frozenset({'input'}), open=False, documented=False)
    """
    layers = list(_layers(function_of(module, name)))
    names, is_open = set[str](), not layers or (name == "forward" and _is_called_in_its_own_way(module))
    for place, layer in enumerate(layers):
        parameters = _parameters(layer)
        if parameters is None:
            is_open = True
            continue
        names.update(_named(parameters))
        if place == 0 and any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            is_open = True
    documented = bool(layers) and str(getattr(layers[-1], "__module__", "")).startswith("transformers.")
    if documented and is_open:
        names |= _documented(module, name)
    return Signature(frozenset(names) - {"self"}, is_open, documented)


def is_named_within(module: torch.nn.Module, name: str) -> bool:
    """Whether any forward in ``module`` has a parameter of this name, or names it in its code: ``kwargs.pop("name")``."""
    forwards = {function_of(each, "forward") for each in module.modules()}
    return any(name in _words(layer) for forward in forwards for layer in _layers(forward))


def _layers(function: Any) -> Iterator[Callable[..., Any]]:
    """A function, and those that it wraps: decorators, ``functools.partial``, what accelerate puts in place of a forward."""
    seen = set[int]()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        yield function
        function = getattr(function, "__wrapped__", None) or getattr(function, "func", None) or getattr(function, "__func__", None)


def _parameters(layer: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    try:
        return dict(inspect.signature(layer, follow_wrapped=False).parameters)
    except (TypeError, ValueError):
        return None


def _named(parameters: dict[str, inspect.Parameter]) -> Iterator[str]:
    return (name for name, each in parameters.items() if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY))


def _is_called_in_its_own_way(module: torch.nn.Module) -> bool:
    """Whether arguments of the call may be no arguments of the forward: hooks may take them, and so may a ``__call__``."""
    return bool(module._forward_pre_hooks_with_kwargs) or type(module).__call__ is not _PLAIN_CALL


def _documented(module: torch.nn.Module, name: str) -> set[str]:
    """What transformers' own methods take in ``**kwargs``."""
    names = _typed_keys(getattr(sys.modules.get("transformers.utils.generic"), "TransformersKwargs", None))
    for each in [module, *(inner for inner in module.modules() if _is_pretrained(inner))]:
        names |= {f"output_{key}" for key in getattr(each, "_can_record_outputs", None) or ()}
        for layer in _layers(function_of(each, "forward")):
            names |= _taken_by(layer) | _unpacked(layer)
    names |= _OF_A_LOSS if "labels" in names else set()
    if name != "forward":
        for layer in _layers(function_of(module, name)):
            names |= _taken_by(layer)
    return names | (_for_generate(module, names) if name == "generate" else set())


def _for_generate(module: Any, of_forwards: set[str]) -> set[str]:
    """What ``generate`` takes: options of a generation, and what it checks by itself when it has begun."""
    kind = getattr(sys.modules.get("transformers"), "GenerationConfig", None)
    configs = [getattr(module, "generation_config", None), None if kind is None else kind()]
    names = {name for config in configs if config is not None for name in vars(config) if name[0] != "_"}
    for layer in _layers(function_of(module, "prepare_inputs_for_generation")):
        names |= _taken_by(layer)
    names |= {f"decoder_{name}" for name in of_forwards} if getattr(module.config, "is_encoder_decoder", False) else set()
    return names | _OF_GENERATE


def is_modality_of(module: torch.nn.Module, name: str) -> bool:
    """Whether a name is one that transformers hands on to the encoder of a modality: ``image_cu_seqlens``."""
    return name.startswith(_MODALITIES) and is_named_within(module, name.partition("_")[2])


def _is_pretrained(module: torch.nn.Module) -> bool:
    return any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__)


def _typed_keys(kind: Any) -> set[str]:
    return {key for one in getattr(kind, "__mro__", (kind,)) for key in getattr(one, "__annotations__", {})}


def _unpacked(layer: Any) -> set[str]:
    """The keys of ``**kwargs: Unpack[Keys]``."""
    for each in (_parameters(layer) or {}).values():
        if each.kind is each.VAR_KEYWORD:
            text = _UNPACKED.search(each.annotation) if isinstance(each.annotation, str) else None
            kind = layer.__globals__.get(text.group(1)) if text is not None else next(iter(getattr(each.annotation, "__args__", ())), None)
            return _typed_keys(kind)
    return set()


def _words(layer: Any) -> set[str]:
    """The names of a function's parameters, and those that stand in its code as strings: it may read them from any dictionary."""
    code = getattr(layer, "__code__", None)
    if not isinstance(code, CodeType):
        return set()
    return {word for word in code.co_consts if isinstance(word, str) and word.isidentifier()} | set(_named(_parameters(layer) or {}))


def _taken_by(layer: Any) -> set[str]:
    """The names of a function's parameters, those that it takes out of its ``**kwargs``, and those that its decorator was made with."""
    code, parameters = getattr(layer, "__code__", None), _parameters(layer) or {}
    if not isinstance(code, CodeType):
        return set()
    more = next((name for name, each in parameters.items() if each.kind is each.VAR_KEYWORD), None)
    lines = [] if more is None else [(line.argval, _is_constant(line)) for line in dis.get_instructions(code)]
    taken = set(_named(parameters)) | {word for word in _held(layer) if word.isidentifier()}
    for place, (value, constant) in enumerate(lines):
        if constant and isinstance(value, str) and any(_loads(other, more) for other, _ in _around(lines, place)):
            taken.add(value)
    return {name for name in taken if name.isidentifier()}


def _around(lines: list[tuple[Any, bool]], place: int) -> list[tuple[Any, bool]]:
    """Where ``kwargs`` stands in ``kwargs.pop("name")``, ``kwargs["name"]`` and ``"name" in kwargs``: up to two before, or one after."""
    return [*lines[max(place - 2, 0) : place], *lines[place + 1 : place + 2]]


def _loads(value: Any, name: str | None) -> bool:
    return value == name or (isinstance(value, tuple) and name in value)


def _is_constant(line: dis.Instruction) -> bool:
    return "CONST" in line.opname


def _held(layer: Any) -> set[str]:
    """The strings of a decorator's closure: the old name of an argument, and the new one."""
    held = set()
    for cell in layer.__closure__ or ():
        try:
            held |= {cell.cell_contents} if isinstance(cell.cell_contents, str) else set()
        except ValueError:  # not filled yet
            continue
    return held
