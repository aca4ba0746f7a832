"""What to write instead, where a module is taken for a value, for a tracer, or for one of another family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch

from ..errors import RecordError, ours
from ..graph import Site

if TYPE_CHECKING:
    from .envoy import Envoy

_OF_TRACERS = {
    "invoke": "with model.trace() as tracer: with tracer.invoke(prompt): ...",
    "stop": "with model.trace(prompt) as tracer: ...; tracer.stop()",
    "result": "with model.trace(prompt) as tracer: out = tracer.result.save()",
    "cache": "with model.trace(prompt) as tracer: cache = tracer.cache()",
    "barrier": "with model.trace() as tracer: barrier = tracer.barrier(2)",
    "cond": "with model.trace(prompt) as tracer: with tracer.cond(value): ...",
    "log": "with model.trace(prompt) as tracer: tracer.log(value)",
    "graph": "with model.trace(prompt) as tracer: ..., and below it tracer.graph",
}
_WRITE = "Change an activation in a trace: with model.trace(prompt): model.h[0].output[:] = 0, with the paths that print(model) shows"
_CACHE = "with model.trace(prompt) as tracer: cache = tracer.cache() keeps all; one is model.h[0].output.save() in the block"
_ELSEWHERE = {
    "run_with_cache": _CACHE,
    "run_with_hooks": _WRITE,
    "add_hook": _WRITE,
    "reset_hooks": "No hook stays on a model when a trace is over: there is nothing to take away",
    "to_tokens": "Use model.tokenizer(text)",
    "to_string": "Use model.tokenizer.decode(ids)",
    "to_str_tokens": "Use model.tokenizer.tokenize(text)",
    "to_single_token": "Use model.tokenizer.encode(text)",
    "logits": "What the forward returns has them: model.output.logits.save() in the block",
}
"""What other libraries, and outputs, have by these names: what to write for it."""

_OF_MODELS = frozenset(("trace", "generate", "scan", "session", "edit"))
_USUAL = frozenset(
    "model transformer gpt_neox backbone decoder encoder layers h blocks layer embed_tokens wte lm_head embed_out norm ln_f".split()
)
"""What the parts of language models are called in one family or another."""


def mistaken(envoy: Envoy, name: str) -> str:
    """The rest of the sentence that a module has no attribute of this name, where it is one of a value, a tracer, or another family."""
    if name in envoy._tree.names.lacking.get(envoy._path, ()):
        return ""
    if name in _ELSEWHERE:
        return f". {_ELSEWHERE[name]}"
    if name in _OF_MODELS:
        return f": a whole model has it. with model.{name}(...): ..., then {envoy.path}.output in the block"
    if name in _OF_TRACERS:
        return f": that is the tracer's. {_OF_TRACERS[name]}"
    if name == "save" or (name[:1] != "_" and hasattr(torch.Tensor, name) and name not in _USUAL):
        form = f"{name}()" if callable(getattr(torch.Tensor, name, len)) else name
        return f": it is a module, and not a value. Write {envoy.path}.output.{form}"
    if name in _USUAL and not envoy._path and hasattr(type(envoy), "generate"):
        parts = ", ".join(path for path in ("", *envoy._module._modules) if path)
        names = 'LanguageModel(..., rename="standard") gives the parts of all families the same names: model.layers[0].mlp'
        return f". It has {parts}; print(model) shows all. {names}"
    return ""


def own_sites(module: torch.nn.Module, path: str) -> dict[str, Site]:
    """The sites of a module by their points; what has no forward, such as a list of modules, is never called, and has none.

    >>> sorted(own_sites(torch.nn.ReLU(), "act")), sorted(own_sites(torch.nn.ModuleList(), "h"))
    (['call', 'input', 'inputs', 'output'], ['call'])
    """
    runs = getattr(type(module), "forward", None) is not torch.nn.Module.forward or "forward" in vars(module)
    return {point: Site(path, point) for point in (("input", "inputs", "output", "call") if runs else ("call",))}


def no_value(envoy: Envoy, _other: Any = None) -> Any:
    """An operator on a module.

    Raises:
        TypeError: always; says what to write.
    """
    raise ours(TypeError, f"{envoy.path} ({type(envoy._module).__name__}) is a module, and not a value: write {envoy.path}.output")


class NoValue:
    """Operators that a value has and a module has not."""

    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __matmul__ = __and__ = __or__ = __xor__ = no_value
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = __rmatmul__ = no_value
    __neg__ = __abs__ = __invert__ = __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = no_value


def no_site(envoy: Envoy, point: str) -> NoReturn:
    """A line reads or writes what passes at a list of modules.

    Raises:
        RecordError: always; names an item of it.
    """
    module = envoy._module
    item = next((f"[{name}]" if name.isdigit() else f".{name}" for name in module._modules), "")
    what = "a list of modules" if isinstance(module, (torch.nn.ModuleList, torch.nn.ModuleDict)) else "a module without a forward"
    hint = f" Name one of them: {envoy.path}{item}.{point}" if item else ""
    raise RecordError(f"{envoy.path} ({type(module).__name__}) is {what}: it is never called, and has no .{point}.{hint}")


def refuse_item(envoy: Envoy, index: Any) -> None:
    """Raises TypeError for an index that chooses positions of an activation, and no module."""
    if not isinstance(index, slice) and not hasattr(index, "__index__"):
        raise ours(TypeError, f"{envoy.path} is a module, and not a value: its activation is {envoy.path}.output[...]")
