"""No argument is swallowed: a name that neither the library nor the model knows is an error that says which is near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import RecordError, WrongTypeError
from ..serialize.allowed import GENERATE, GENERATE_ONLY
from .signatures import Signature, function_of, is_modality_of, is_named_within, signature_of

if TYPE_CHECKING:
    from .nnsight import NNsight

HAND_ON = "forward_kwargs"
"""The argument whose entries go to the model unlooked at."""

_OF = {
    "invoke": ("scan", "validate"),
    "graph.run": ("parameters", "limits"),
    "graph.check": ("parameters",),
    "trace": ("trace", "remote", "fn", "progress", "scan", "validate", "run"),
}
_OF["generate"] = tuple(name for name in _OF["trace"] if name != "fn")
_CALLS = {"trace": "model.trace(...)", "invoke": "tracer.invoke(...)", "graph.run": "graph.run(...)"}
_OF_GRAPHS = ("graph.run", "graph.check")
_SLIPS = ("parameter", "params", "limit")
_OF_PROCESSORS = frozenset({"image", "images", "video", "videos", "audio", "audios", "speech", "raw_speech"})


def check_names(model: NNsight, function: str, names: Iterable[str], call: str = "trace") -> None:
    """Refuse named arguments that nobody would take notice of.

    Args:
        model: The model.
        function: The method that is called, where it is not the forward.
        names: Of the arguments that are no arguments of the library's method.
        call: What they are given to: ``"trace"``, ``"invoke"``, ``"scan"`` ...

    Raises:
        RecordError: a name is unknown; the message says which is near.
    """
    method = function or "forward"
    taken = _taken(model, method)
    if taken is None:
        return
    takes, signature = taken
    if call == "the call":  # of the module itself: nothing of the library's stands between
        takes = signature.names
    for name in names:
        if name not in takes:
            _refuse_unknown(model, method, signature, takes, name, call)


def spread(model: NNsight, function: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Named arguments for the model, with what is to be handed on among them.

    Raises:
        RecordError: ``forward_kwargs`` is no dictionary, or holds what is given beside it.
    """
    if HAND_ON not in kwargs or _names_itself(model, function or "forward", HAND_ON):
        return dict(kwargs)
    own = {name: value for name, value in kwargs.items() if name != HAND_ON}
    more = kwargs[HAND_ON]
    if more is None:
        return own
    if not isinstance(more, Mapping) or not all(isinstance(name, str) for name in more):
        raise WrongTypeError(f"{HAND_ON} is a dictionary of named arguments for the model, not {type(more).__name__}")
    if twice := sorted(own.keys() & more.keys()):
        raise RecordError(f"{twice[0]} is given twice: by name, and in {HAND_ON}")
    return {**own, **more}


def _names_itself(model: NNsight, method: str, name: str) -> bool:
    taken = _taken(model, method)
    return taken is not None and name in taken[1].names


def _taken(model: NNsight, method: str) -> tuple[frozenset[str], Signature] | None:
    """What a method of the model takes, the library's own names for every call included; read once."""
    module, known = model._module, model._tree.takes
    function = function_of(module, method)
    if function is None:
        return None
    found = known.get(method)
    if found is None or found[0] is not function or found[1] is not module:
        signature = signature_of(module, method)
        if not model._returns_result:  # a subclass calls the model in its own way, and may keep arguments for itself
            signature = signature._replace(open=True)
        takes = signature.names | {HAND_ON} | model._named_options("" if method == "forward" else method)
        found = known[method] = (function, module, takes, signature)
    return found[2], found[3]


def _refuse_unknown(model: NNsight, method: str, signature: Signature, takes: frozenset[str], name: str, call: str) -> None:
    """Raise for a name that the method does not have; unless it may be handed on."""
    module, own = model._module, model._named_options("" if method == "forward" else method)
    options = (*_OF["trace"], *_OF.get(call, ()), HAND_ON, *own)
    if signature.documented and is_modality_of(module, name):
        return
    if signature.open and not signature.documented:
        strange = name in _OF_PROCESSORS or (name in GENERATE_ONLY and method != "generate") or (name in _SLIPS and call in _OF_GRAPHS)
        if not (strange or _closest(name, options)) or is_named_within(module, name):
            return
    raise RecordError(f"{name!r} {_reason(type(module).__name__, method, takes, name, call)}{_way_out(signature, name)}")


def _reason(kind: str, method: str, takes: frozenset[str], name: str, call: str) -> str:
    options = _OF.get(call, ())
    for other in ("trace", "invoke", "graph.run"):
        if name in _OF[other] and name not in options:
            return f"is an option of {_CALLS[other]}, not of {call}"
    if name in _SLIPS and call in _OF_GRAPHS:
        return f"is no argument of {call}: parameters={{...}}, limits=Limits(...)"
    if method != "generate" and name in GENERATE and name not in takes:
        return "is an argument of generate, and this is a forward: model.generate(prompt, ...)"
    if name in _OF_PROCESSORS:
        return f"is for a processor: give the model what the processor makes of it, by name ({_inputs(takes)})"
    known = [*options, *takes, *_OF["trace"]]
    near = dict.fromkeys([*_closest(name, known), *difflib.get_close_matches(name, known, 3, 0.75)])
    return f"is taken by nothing: neither {call} nor {kind}.{method} has it" + (f"; near: {', '.join(near)}" if near else "")


def _way_out(signature: Signature, name: str) -> str:
    return f". {HAND_ON}={{{name!r}: ...}} hands it to the model all the same" if signature.open else ""


def _inputs(takes: frozenset[str]) -> str:
    found = [name for name in ("pixel_values", "input_features", "input_values") if name in takes]
    return ", ".join(f"{name}=" for name in found) or "pixel_values=, input_features= ..."


def _closest(name: str, options: Iterable[str]) -> list[str]:
    """Options from which a name is no more than two letters away, nor more than a third of their letters."""
    found = ((_distance(name, option), option) for option in options if abs(len(name) - len(option)) <= 2)
    return [option for distance, option in sorted(found) if distance <= min(2, max(1, len(option) // 3)) and len(name) > 1]


def _distance(one: str, other: str) -> int:
    """Letters to put in, leave out, exchange, or swap with the next.

    >>> _distance("validat", "validate"), _distance("sacn", "scan"), _distance("mean", "scan")
    (1, 1, 2)
    """
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, row, earlier = row, [i], before
        for j, opposite in enumerate(other, 1):
            best = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != opposite))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == opposite:
                best = min(best, earlier[j - 2] + 1)
            row.append(best)
        before = last
    return row[-1]
