"""A forward on fake tensors: what passes each site, and in which order, before anything is computed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import torch

from ..errors import NNsightError
from ..graph import Site
from ..ops.evaluate import first_argument
from .fakes import Fakes, is_blind, quietly
from .guesses import Guesses, WrittenNumbers
from .scanned_operations import operations_of
from .specs import PLAIN, Spec, map_items, spec_of
from .twin import Mirror, dissolve
from .visits import Visits

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_CACHED = 16
_HOOKS_OF_OTHERS = ("transformers", "accelerate", __name__.partition(".")[0])


class Unknown(msgspec.Struct, frozen=True):
    """Stands for what a scan could not find out; says why."""

    reason: str

    def __str__(self) -> str:
        return f"unknown: {self.reason}"


class Scan(msgspec.Struct, frozen=True):
    """What one forward would deliver; holds no tensor.

    Attributes:
        values: What passes at each visited site, with a :class:`~nnsight_graph.run.specs.Spec` for each tensor.
        places: The sites ``inputs`` and ``output`` of all modules (and the result), numbered as they are visited.
        unreached: The modules that this forward never calls; empty where the scan did not come to its end.
        hooked: The modules with hooks of their own: those do not run on fakes, so what they change is not seen.
        stopped: Why the scan ended early; empty if it came to its end. What was not visited by then is unknown.
        at: The module that was running then.
        blind: Whether all that ended it is that fakes have no numbers; otherwise the real forward would fail, too.
        error: What ended it.
    """

    values: dict[Site, Any]
    places: dict[Site, int]
    unreached: frozenset[str] = frozenset()
    hooked: tuple[str, ...] = ()
    stopped: str = ""
    at: str = ""
    blind: bool = False
    error: BaseException | None = None

    @property
    def complete(self) -> bool:
        """Whether the forward came to its end."""
        return not self.stopped

    @property
    def order(self) -> tuple[Site, ...]:
        """The sites as they are visited."""
        return tuple(self.places)

    def value(self, site: Site) -> Any:
        """What passes at ``site``, tensors as specs; an :class:`Unknown` where that could not be found out."""
        if site.point == "input":
            call = self.value(site._replace(point="inputs"))
            return call if isinstance(call, Unknown) else _first(call, site)
        return self.values[site] if site in self.values else Unknown(self.stopped or f"this forward does not reach {site}")

    def place(self, site: Site) -> int | None:
        """The number of ``site`` among the visits; ``None`` if it is not visited, or not as far as is known."""
        return self.places.get(site._replace(point="inputs") if site.point == "input" else site)


def _first(call: Arguments, site: Site) -> Any:
    try:
        return first_argument(call)
    except NNsightError:
        return Unknown(f"{site.path or 'the model'} is called without arguments")


class Forward:
    """How a model is called on fakes. A library of models that needs more derives from it."""

    @property
    def key(self) -> tuple[Any, ...]:
        """What, besides model and arguments, the outcome depends on."""
        return (type(self),)

    def adapt(self, twin: torch.nn.Module) -> None:
        """Make the twin fit for fakes; runs outside the fake mode."""

    def arguments(self, twin: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """The arguments of the forward that is scanned, made of the fakes of those given; runs in the fake mode."""
        return args, kwargs

    def number(self, tensor: torch.Tensor) -> bool | int | float | None:
        """What code is told that asks for the number in a fake ``tensor``; ``None`` if it is not known."""
        return None


PLAIN_FORWARD = Forward()


def scan(
    module: torch.nn.Module, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, forward: Forward = PLAIN_FORWARD
) -> Scan:
    """Run the twin of ``module`` on fakes, or find the scan that was made of an equal call.

    Nothing of the model changes, also after errors. What stops the twin (code that looks at numbers, or a mistake in the
    arguments) ends the scan; it never raises.

    Args:
        module: The model; it may be on the meta device, its tensors then seem to lie where the first input lies.
        args: Arguments of its call: tensors, or specs of them.
        kwargs: Its named arguments.
        forward: How it is called.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(5, 10), torch.nn.Linear(10, 2))
        >>> print(scan(net, (torch.rand(1, 5),)).value(Site("0", "output")))
        float32[1, 10] on cpu
    """
    kwargs = kwargs or {}
    key = signature(module, args, kwargs, forward)
    known = _recall(module, key)
    if known is None:
        known = _scan(module, args, kwargs, forward)
        _remember(module, key, known)
    return known


def scanned(
    module: torch.nn.Module, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None, forward: Forward = PLAIN_FORWARD
) -> Scan | None:
    """The scan of an equal call, if there was one already."""
    return _recall(module, signature(module, args, kwargs or {}, forward))


def scan_operation(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Forward, path: str) -> Scan:
    """A scan that looks at an operation inside a forward, too; or the one that was made of an equal call."""
    known_by = signature(module, args, kwargs, forward)
    key = None if known_by is None else (known_by, path)
    known = _recall(module, key)
    if known is None:
        known = _scan(module, args, kwargs, forward, operations=(path,))
        _remember(module, key, known)
    return known


def scan_changed(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Forward, changes: Mapping[Site, Any]
) -> Scan:
    """A scan in which other values pass at some sites (``inputs`` and ``output``), given as specs."""
    return _scan(module, args, kwargs, forward, changes)


def scan_sizes(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Forward, truth: bool = False,
    operations: Sequence[str] = (), times: int = 2, written: bool = False,
) -> tuple[Scan, bool]:  # fmt: skip
    """A scan that is only asked which sizes differ from those of another: it goes on where they depend on data, and is not remembered.

    Args:
        module: The model.
        args: Arguments of its call.
        kwargs: Its named arguments.
        forward: How it is called.
        truth: What code is told that asks for a truth which depends on data.
        operations: The operations inside forwards that are looked at, too.
        times: What sizes that depend on data are a multiple of.
        written: Whether a number that is written into a name is that of the first.

    Returns:
        The scan, and whether there was such a question.
    """
    mode = Guesses(forward.number, truth, times)
    return _scan(module, args, kwargs, forward, None, mode, operations, written), mode.asked > 0


def _scan(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Forward, changes: Mapping[Site, Any] | None = None,
    mode: Fakes | None = None, operations: Sequence[str] = (), written: bool = False,
) -> Scan:  # fmt: skip
    again = mode is None and not written
    mode = mode or Fakes(forward.number)
    visits = Visits(changes or {}, mode)
    hooked = tuple(path for path, each in module.named_modules() if has_hooks(each))
    twin, given, named = None, args, kwargs
    try:
        with quietly():
            twin, args, kwargs = twins(module, args, kwargs, forward, mode)
            with mode, WrittenNumbers() if written else nullcontext():
                args, kwargs = forward.arguments(twin, args, kwargs)
                visits.listen(twin)
                with operations_of(twin, operations, visits.note) if operations else nullcontext():
                    visits.note(Site("", "result"), twin(*args, **kwargs))
        return Scan(visits.values, visits.places(), visits.unreached(), hooked)
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        stopped = f"the scan ended in {visits.at or 'the model itself'}: {type(error).__name__}: {first_line}"
        at, blind = visits.at or "", is_blind(error)
        if again and not blind:  # was a number written into a name, which then is that of nothing?
            found = _scan(module, given, named, forward, changes, operations=operations, written=True)
            if found.blind or found.complete:
                return found
        error.__cause__ = error.__context__ = None  # they hold frames, and these fakes
        return Scan(visits.values, visits.places(), frozenset(), hooked, stopped, at, blind, error.with_traceback(None))
    finally:
        if twin is not None:
            dissolve(twin)


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether there are hooks of the user's: those of transformers only collect, those of a run are gone soon."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return any(str(getattr(hook, "__module__", "")).partition(".")[0] not in _HOOKS_OF_OTHERS for hook in hooks)


def twins(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Forward, mode: Fakes
) -> tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The twin of a model and of its arguments, ready to be called in ``mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        mirror = Mirror(mode, next((tensor.device for tensor in _tensors((args, kwargs))), torch.device("cpu")))
        twin, args, kwargs = mirror(module), tuple(map(mirror, args)), {name: mirror(value) for name, value in kwargs.items()}
    forward.adapt(twin)
    return twin, args, kwargs


# ---------------------------------------------------------------------- the cache

_known: WeakKeyDictionary[torch.nn.Module, OrderedDict[Hashable, Scan]] = WeakKeyDictionary()
_lock = threading.RLock()  # held on one line alone: an interrupt between two would leave it held


def _recall(module: torch.nn.Module, key: Hashable) -> Scan | None:
    with _lock: return _recalled(module, key)


def _remember(module: torch.nn.Module, key: Hashable, made: Scan) -> None:
    with _lock: return _remembered(module, key, made)


def _recalled(module: torch.nn.Module, key: Hashable) -> Scan | None:
    scans = _known.get(module)
    if scans is None or key not in scans:
        return None
    scans.move_to_end(key)
    return scans[key]


def _remembered(module: torch.nn.Module, key: Hashable, made: Scan) -> None:
    if key is None:
        return
    scans = _known.setdefault(module, OrderedDict())
    scans[key] = made
    while len(scans) > _CACHED:
        scans.popitem(last=False)


def signature(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], forward: Forward) -> Hashable:
    """All that a scan depends on; ``None`` where an argument cannot be told from another by looking at it."""
    try:
        given = (_signed(args), _signed(kwargs))
    except TypeError:
        return None
    ambient = (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(), torch.is_autocast_enabled())
    return forward.key, given, ambient, torch.is_autocast_enabled("cpu"), hash(tuple(_traits(module)))


def _signed(value: Any) -> Hashable:
    kind = type(value)
    if kind in PLAIN:
        return kind, value
    if isinstance(value, (torch.Tensor, Spec)):
        return spec_of(value) if kind is not Spec else value
    if kind is dict:
        return kind, tuple((key, _signed(item)) for key, item in value.items())
    if kind is tuple or kind is list:
        return kind, tuple(map(_signed, value))
    raise TypeError(kind)


def _traits(root: torch.nn.Module) -> Iterator[Hashable]:
    """What a forward's course may hang on: modules, flags and numbers among their attributes and in their configs, tensors' kinds."""
    seen: set[int] = set()
    for module in root.modules():
        yield id(module)
        for name, value in list(module.__dict__.items()):
            if type(value) in PLAIN:
                yield value
            elif name == "_parameters" or name == "_buffers":
                for tensor in value.values():
                    if tensor is not None:
                        yield tensor.shape
                        yield tensor.dtype
                        yield tensor.device
                        yield tensor.requires_grad
            elif name == "config" and id(value) not in seen:
                seen.add(id(value))
                yield from (item for item in getattr(value, "__dict__", {}).values() if type(item) in PLAIN)


# ---------------------------------------------------------------------- which dimensions hang on the input


def _tensors(value: Any) -> Iterator[Any]:
    """The tensors, or specs, in arguments."""
    if isinstance(value, (torch.Tensor, Spec)):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


def resized(value: Any, dim: int) -> Any:
    """Specs of arguments that are one shorter or longer along a dimension: in every tensor as long there as the first one.

    >>> resized((torch.zeros(1, 7), torch.zeros(3)), 1)[0].shape
    torch.Size([1, 6])
    """
    size = next((tensor.shape[dim] for tensor in _tensors(value) if len(tensor.shape) > dim), -1)
    other = size - 1 if size > 3 else size + 1

    def change(item: Any) -> Any:
        if not isinstance(item, (torch.Tensor, Spec)):
            found = map_items(item, change)
            return item if found is NotImplemented else found
        if len(item.shape) <= dim or item.shape[dim] != size:
            return item
        shape = torch.Size([*item.shape[:dim], other, *item.shape[dim + 1 :]])
        stride = torch.empty(shape, device="meta").stride()
        return Spec(shape, item.dtype, item.device, item.requires_grad, item.layout, stride)

    return change(value)


def varying(one: Any, other: Any) -> Any:
    """For each tensor of a site's value which dimensions differ between two scans; ``None`` where the values are not alike.

    Args:
        one: The value of a site in one scan.
        other: The value of the same site in a scan of another size.

    >>> varying(spec_of(torch.zeros(2, 3, 8)), spec_of(torch.zeros(2, 4, 8)))
    (False, True, False)
    """
    if isinstance(one, Spec) and isinstance(other, Spec):
        return tuple(a != b for a, b in zip(one.shape, other.shape, strict=True)) if len(one.shape) == len(other.shape) else None
    if type(one) is not type(other):
        return None
    if isinstance(one, dict):
        return {key: varying(item, other[key]) for key, item in one.items()} if one.keys() == other.keys() else None
    if isinstance(one, (tuple, list)):
        return tuple(map(varying, one, other)) if len(one) == len(other) else None
    return () if one == other else None
