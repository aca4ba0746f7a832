"""Where the rows of invokes lie: two scans of the model, made once, when a trace has a second invoke."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RecordError
from ..ops.ambient import modes
from ..ops.layout import Answer, Held, part_of
from ..ops.nested import tensors_in
from ..run.evidence import Evidence, Layouts, of_torch
from ..run.operations import parted
from ..run.scan import Scan, scan_sizes
from ..run.specs import PLAIN, Spec
from .invoker import Call

if TYPE_CHECKING:
    from .nnsight import NNsight

_LENGTH = 7
"""How long rows of length 1 are in scans: models treat a single token in ways of their own."""

_MOST = 64
"""Structures of calls that are remembered."""


def in_rows(module: torch.nn.Module, call: Call) -> Call:
    """The call, if its invokes are not joined along the tokens: torch's own layers have rows second, where ``batch_first`` is not set.

    Raises:
        RecordError: the model is such a layer, or a ``Sequential`` with one below layers of torch.
    """
    layers = list(module) if isinstance(module, torch.nn.Sequential) else [module]
    for layer in layers if len(call.rows) > 1 else ():
        known = of_torch(layer, "in")
        held = known[0][0] if isinstance(known, tuple) else None
        if isinstance(held, Held) and (held.dim or any(tensor.dim() < held.rank for tensor in islice(tensors_in(call.args), 1))):
            raise RecordError(
                f"{type(layer).__name__} takes [tokens, rows, ...], and invokes are joined along the first dimension: they would be one "
                "sequence. Give it batch_first=True and rows in the first dimension, or put a module around it that transposes"
            )
        if not type(layer).__module__.startswith("torch.nn."):
            break
    return call


def layouts_of(
    envoy: NNsight, call: Call, declarations: Mapping[str, Any], repeats: bool = False, visited: Iterable[str] = ()
) -> Layouts | None:
    """Where the rows lie at the sites of a model, for calls like this one; ``None`` where one input has them all.

    Args:
        envoy: The model.
        call: The call.
        declarations: What was declared, by path.
        repeats: Whether steps after the first matter.
        visited: The paths at which something passes; operations inside forwards are looked at only where they are wanted.
    """
    if len(call.rows) < 2:
        return None
    tree = envoy._tree
    modules = tree.index.modules
    operations = tuple([path for path in visited if path not in modules and parted(path, modules) is not None])
    key = (_structure(envoy, call), operations, repeats, torch.is_grad_enabled())
    known = tree.layouts.get((key, *declarations.items()) if declarations else key)
    if known is None:
        evidence = tree.evidence.get(key)
        if evidence is None:
            if len(tree.evidence) >= _MOST:
                tree.evidence, tree.layouts = {}, {}
            evidence = tree.evidence[key] = _evidence(envoy, call, repeats, operations)
        own = not call.function
        known = Layouts(evidence, tree.index, declarations, call.held if own else None, own and envoy._returns_result)
        tree.layouts[(key, *declarations.items()) if declarations else key] = known
    return known


def _structure(envoy: NNsight, call: Call) -> Hashable:
    """What the dimensions of what passes hang on: which arguments there are, but not how long they are."""
    args, named = call.held if call.held is not None else ((), {})
    given = [_sketch(value, part_of(args, place, None)) for place, value in enumerate(call.args)]
    wanted = envoy._row_arguments(call)
    return call.function, envoy._module.training, *given, *((name, _sketch(value, named.get(name))) for name, value in wanted.items())


def _sketch(value: Any, held: Any) -> Hashable:
    if isinstance(value, torch.Tensor):
        return value.dim(), held
    return (value,) if type(value) in PLAIN and type(value) not in (float, complex) else (type(value), None)


def _evidence(envoy: NNsight, call: Call, repeats: bool, operations: tuple[str, ...]) -> Evidence:
    """Two scans of each step, with n rows and with one more; nothing where they cannot be made."""
    if call.held is None:
        return Evidence()
    call = _lengthened(envoy, call)
    sizes = {size for value, held in _arguments(call) for dim, size in enumerate(value.shape) if not _is_held(held, dim)}
    rows = next(count for count in range(2, 1000) if not {count, count + 1} & sizes)
    fewer, more = (envoy._row_forwards(_with_rows(call, count), repeats) for count in (rows, rows + 1))
    with modes(call.modes):
        return Evidence([list(_pairs(envoy._module, *sizes, operations)) for sizes in zip(fewer, more, strict=True)], rows)


def _pairs(module: torch.nn.Module, fewer: Any, more: Any, operations: tuple[str, ...] = ()) -> Iterator[tuple[Scan, Scan]]:
    """Two scans of a forward; where truths depend on data, two for either truth."""
    for truth in (False, True):
        (one, asked), (other, again) = [scan_sizes(module, args, kwargs, how, truth, operations) for args, kwargs, how in (fewer, more)]
        yield one, other
        if not asked and not again:
            return


def _with_rows(call: Call, rows: int) -> Call:
    return _with_sizes(call, lambda shape, held: [rows if _is_held(held, dim) else size for dim, size in enumerate(shape)])


def _is_held(held: Any, dim: int) -> bool:
    return type(held) is Held and held.dim == dim


def _arguments(call: Call) -> Iterator[tuple[Any, Any]]:
    """The tensors among the arguments, with what is known of their rows."""
    args, named = call.held
    by_name = [(value, named.get(name, Answer.NONE)) for name, value in call.kwargs.items()]
    for value, held in (*zip(call.args, args, strict=True), *by_name):
        if isinstance(value, (torch.Tensor, Spec)):
            yield value, held


def _with_sizes(call: Call, sizes: Any) -> Call:
    """A call of specs, of other sizes, in place of its tensors with rows."""
    def sized(value: Any, held: Any) -> Any:
        if type(held) is not Held or not isinstance(value, (torch.Tensor, Spec)):
            return value
        shape = torch.Size(sizes(value.shape, held))
        return Spec(shape, value.dtype, value.device, value.requires_grad, torch.strided, torch.empty(shape, device="meta").stride())

    args, named = call.held
    made = tuple([sized(value, held) for value, held in zip(call.args, args, strict=True)])
    return call._replace(args=made, kwargs={name: sized(value, named.get(name)) for name, value in call.kwargs.items()})


def _lengthened(envoy: NNsight, call: Call) -> Call:
    """The call with longer rows, where they are of one token."""
    def longer(shape: torch.Size, _held: Any) -> list[int]:
        return [shape[0], _LENGTH, *shape[2:]] if shape[1:2] == (1,) else list(shape)

    tokens = {name: held for name, held in call.held[1].items() if name in envoy._tokens}
    return call._replace(kwargs=_with_sizes(call._replace(args=(), held=((), tokens)), longer).kwargs)
