"""Operations inside forwards, in a run: the forwards of the modules that are asked are instrumented for it, and for it alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..compile.plan import Passes
from ..errors import MissedSiteError, NNsightError
from ..ops.running import current
from .attending import Attending, slowly, with_fast_paths
from .attention import INTERFACE
from .attention import NAME as WEIGHTS
from .detours import Leave
from .forwards import Replacement, replace_forward
from .instrument import Instrumented, called, instrumented
from .modules import ModuleIndex
from .undoing import Undo
from .untrusted import UntrustedRun
from .wrapped import innermost, rebuilt

if TYPE_CHECKING:
    from .engine import Run

SOURCE = "source"
Bring = Callable[[Any], Any]


class Sites:
    """The operations of one function that a run wants.

    Args:
        path: The path of the function's owner: a module, or an operation.

    Attributes:
        several: Whether more than the first pass of a step is wanted.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.before: Bring | None = None
        self.after: Bring | None = None
        self.inner: dict[str, Sites] = {}
        self.several = False

    def at(self, names: list[str]) -> Sites:
        """The operation with a name, or the one in it."""
        if not names:
            return self
        name = names[0]
        inner = self.inner.setdefault(name, Sites(source_path(self.path, name)))
        return inner.at(names[2:])


def source_path(path: str, name: str) -> str:
    """The path of an operation of the function at ``path``.

    >>> source_path("h.0.attn", "split_0"), source_path("", "torch_relu_0")
    ('h.0.attn.source.split_0', 'source.torch_relu_0')
    """
    return f"{path}.{SOURCE}.{name}" if path else f"{SOURCE}.{name}"


def parted(path: str, modules: dict[str, torch.nn.Module]) -> tuple[str, list[str]] | None:
    """The module, and the names below it, of an operation's path; ``None`` for another one.

    >>> parted("fc.source.split_0", {"fc": torch.nn.Identity()})
    ('fc', ['split_0'])
    """
    words = path.split(".")
    for place, word in enumerate(words):
        if word == SOURCE and ".".join(words[:place]) in modules:
            return ".".join(words[:place]), words[place + 1 :]
    return None


def instrumenting(run: Run, sites: Sites, modules: dict[str, torch.nn.Module]) -> Replacement:
    """What stands for the forward of a module of which operations are wanted."""
    weights = sites.inner.pop(WEIGHTS, None)

    def forward(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if weights is None or weights.after is None:
            return _inside(run, sites, original)(*args, **kwargs)
        refuse = lambda error: _refusing(run, weights.path, lambda: _raise(error))  # noqa: E731
        attending = Attending(run, modules, sites.path, weights.after, weights.several, refuse)
        looked_into = bool(sites.inner) or _calls_interface(original)
        return attending.call(_inside(run, sites, original, attending) if looked_into else original, args, kwargs)

    return forward


def _raise(error: NNsightError) -> Any:
    raise error


def _calls_interface(function: Any) -> bool:
    """Whether a forward calls an attention function of transformers by the name that all of them give it."""
    try:
        names = instrumented(innermost(function)).names
    except NNsightError:
        return False
    return any(name.startswith(INTERFACE) for name in names)


def install_operations(run: Run, modules: ModuleIndex, bringing: Callable[[Passes], Bring], undo: Undo) -> None:
    """Instrument the modules whose operations a plan wants; what is added to ``undo`` takes that back."""
    owners: dict[str, Sites] = {}
    for path, (before, after) in run.plan.hooks.items():
        found = None if path in modules.modules else parted(path, modules.modules)
        if found is not None:
            site = owners.setdefault(found[0], Sites(found[0])).at(found[1])
            site.before = bringing(before) if before else None
            site.after = bringing(after) if after else None
            site.several = any(call or (step and run.plan.by_calls) for step, call in after)
    for path, sites in owners.items():
        module = modules.modules[path]
        name = "_old_forward" if "_old_forward" in module.__dict__ else "forward"  # accelerate's stands around the module's own
        for around in with_fast_paths(path, modules.modules):
            replace_forward(around, run, slowly, undo)
        replacement = instrumenting(run, sites, modules.modules)
        if sites.inner:
            _refusing(run, source_path(path, ""), lambda sites=sites, module=module, name=name: _check(sites, getattr(module, name)))  # type: ignore[misc]
        replace_forward(module, run, replacement, undo, name)


def _refusing(run: Run, path: str, step: Callable[[], Any]) -> Any:
    """What ``step`` gives; what it refuses is the error of the line that wants an operation at a path, or below it."""
    try:
        return step()
    except NNsightError as error:
        node = next(visit.nodes[0] for visit in run.plan.visits if visit.path.startswith(path))
        run.error, run.failed, run.busy = error, ("refused", node), True
    raise Leave


def _check(sites: Sites, function: Any) -> None:
    """Raise if a wanted operation is not in a function.

    Raises:
        NNsightError: names those that are.
    """
    inner = instrumented(innermost(function))
    for name in sites.inner:
        if name not in inner.names:
            raise MissedSiteError(unknown(name, sites.path, inner))


def unknown(name: str, path: str, function: Instrumented) -> str:
    """The text about an operation that is not there."""
    near = [other for other in function.names if other.rpartition("_")[0] == name.rpartition("_")[0]] or function.names
    where = f" of {path}" if path else ""
    return f"there is no operation {name!r} in {function.function.__qualname__}{where}. There is {', '.join(near[:12]) or 'none'}."


def _inside(run: Run, sites: Sites, function: Callable[..., Any], attending: Attending | None = None) -> Callable[..., Any]:
    """``function`` with its operations bringing what passes to the run, and its attention functions to ``attending``."""
    if isinstance(function, torch.nn.Module):
        raise NNsightError(f"{sites.path} calls a module, {type(function).__name__}: use the source of the module itself")
    inner = innermost(function)
    _check(sites, inner)
    wanted = sites.inner

    def operation(name: str, target: Any, /, *args: Any, **kwargs: Any) -> Any:
        target = original = called(target)
        site = wanted.get(name)
        listens = current.get() is run and not run.busy
        if attending is not None and name.startswith(INTERFACE) and (listens or attending.left):
            target = partial(attending.interface, target)
        if site is None or not listens:
            return target(*args, **kwargs)
        if isinstance(run, UntrustedRun):
            run.permit(site.path, bool(site.inner), original)
        return _perform(run, site, target, original, args, kwargs)

    return rebuilt(function, inner, instrumented(inner).calling(operation))  # type: ignore[no-any-return]


def _perform(
    run: Run, site: Sites, target: Callable[..., Any], original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """One call of an operation, as modules are called: what passes before it, perhaps a value in its place, what passes after it."""
    if site.before is not None:
        changed = site.before((args, kwargs))
        if changed is not None:
            if isinstance(run, UntrustedRun):
                target = run.permit_call(site.path, target, original, (args, kwargs), changed)
            args, kwargs = changed

    def perform(*args: Any, **kwargs: Any) -> Any:
        if site.inner:
            target_ = _refusing(run, source_path(site.path, ""), lambda: _inside(run, site, target))
            return target_(*args, **kwargs)
        return target(*args, **kwargs)

    result = run.forward_of(site.path)(perform, args, kwargs) if site.path in run.plan.skips else perform(*args, **kwargs)
    if site.after is None:
        return result
    changed = site.after(result)
    return result if changed is None else changed
