"""What can be compared before and after something that must not touch a model, and what its sites really get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from nnsight_graph.graph import Site
from nnsight_graph.run.specs import Opaque, Spec, spec_of


def state(value: Any, seen: dict[int, Any] | None = None) -> Any:
    """All that hangs on a module, down to the identities and versions of its tensors."""
    seen = {} if seen is None else seen
    if isinstance(value, torch.Tensor):
        assert not isinstance(value, FakeTensor)
        return id(value), value._version, tuple(value.shape), value.requires_grad, value.device
    if isinstance(value, (str, int, float, type(None))):
        return value
    if id(value) in seen:
        return id(value)
    seen[id(value)] = value
    if isinstance(value, dict):
        return [(key, state(item, seen)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [state(item, seen) for item in value]
    return id(value), state(dict(getattr(value, "__dict__", {})), seen)


def by_hooks(model: torch.nn.Module, call: Callable[[], Any]) -> dict[Site, Any]:
    """The specs of what every module of a real forward takes and returns, in order; of the last call of the root."""
    found: dict[Site, Any] = {}
    calls: dict[str, int] = {}
    handles = []
    for path, module in model.named_modules():

        def before(_module: Any, args: Any, kwargs: Any, path: str = path) -> None:
            if not path:
                found.clear()
                calls.clear()
            calls[path] = calls.get(path, -1) + 1
            found[Site(path, "inputs", calls[path])] = spec_of((args, kwargs))

        def after(_module: Any, _args: Any, output: Any, path: str = path) -> None:
            found[Site(path, "output", calls[path])] = spec_of(output)

        handles += [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return dict(found)


def plain(value: Any) -> Any:
    """Shapes, dtypes, devices and structure, without strides."""
    if isinstance(value, Spec):
        return tuple(value.shape), value.dtype, value.device, value.requires_grad
    if isinstance(value, Opaque):
        return value.kind
    if isinstance(value, dict):
        return type(value).__name__, {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value).__name__, [plain(item) for item in value]
    return value


def differing(scanned: Any, real: dict[Site, Any]) -> list[str]:
    """The sites at which a scan and a real forward differ; also where only one of them has been."""
    visits = {site: value for site, value in scanned.values.items() if site.point != "result"}
    wrong = [str(site) for site in real if site not in visits or plain(visits[site]) != plain(real[site])]
    return wrong + [f"{site} is not there" for site in visits if site not in real] + (["order"] if list(visits) != list(real) else [])
