"""Limits on what the program of a stranger may do in a run: how many operations, how large a value; refused before the memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import msgspec
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from ..errors import LimitError, NNsightError
from ..ops.data import refuse_machinery
from ..ops.evaluate import CLEAR, SPECIAL, run_code
from ..ops.nested import storage_of
from ..ops.running import call_listening, call_module
from .counts import ends_the_process, made_bytes, work
from .hooks import add_hook
from .plain import Plain, plain_name
from .undoing import Undo, undo_all


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a program may take; see :meth:`SavedGraph.run`.

    Attributes:
        operations: How many operations may be executed: turns of loops, and what one line does in torch, included; in a session by all
            of its traces and lines together.
        value_bytes: How many bytes one value may have: tensors by their shape (an expanded scalar counts in full), text, lists with
            all that is in them. In a session, whose inputs are part of the program, the model's own activations count, too.
        integer_bits: How many bits an integer may have.
        forwards: How many forwards of the models may be run: each step of a generation is one.

    Example:
        >>> import nnsight_graph as nnsight
        >>> nnsight.Limits().value_bytes == 1 << 30
        True
    """

    operations: int = 1_000_000
    value_bytes: int = 1 << 30
    integer_bits: int = 4096
    forwards: int = 10_000


class Meter:
    """Executes the instructions of a run one by one, each within the limits.

    What it executes handles data alone, and does not write into what is the model's.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owned: set[int] = set()
        self._sizes = _Sizes(limits.value_bytes, self._owned, self._charge)
        self._models = _Growing(limits.value_bytes)
        self._plain = Plain(limits, self._charge)
        self._done = 0.0
        self._forwards = 0

    def __call__(self, code: Sequence[Any], slots: list[Any], run: Any) -> None:
        """Execute straight-line code.

        Raises:
            LimitError: it would take more than it may.
        """
        failing = None
        try:
            self._charge()
            for failing in code:
                self._charge()
                if failing[0] == SPECIAL:
                    failing[1](run, failing[5])
                else:
                    self._execute(failing, slots, run)
        except BaseException:
            run.failed = run.failed or failing
            raise

    def _execute(self, instruction: Any, slots: list[Any], run: Any) -> None:
        kind, function, out, a, b, rest, _ = instruction
        if kind == CLEAR:
            slots[out] = None
            return
        places = [*rest[0], *(place for _, place in rest[1])] if kind == 0 else (a, b, rest)[:kind]
        values = [slots[place] for place in places]
        self._check(function, values)
        run.meter = None
        try:
            with self._sizes:
                run_code((instruction,), slots, run)
        finally:
            run.meter = self
        slots[out] = self._made(slots[out])

    def evaluate(self, function: Callable[..., Any], operands: list[Any], named: dict[str, Any]) -> Any:
        """Call one function, within the limits.

        Raises:
            LimitError: it would take more than it may.
        """
        self._charge()
        self._check(function, [*operands, *named.values()])
        with self._sizes:
            return self._made(function(*operands, **named))

    def items(self, source: Any) -> Iterator[Any]:
        """What a loop goes through, if that is no more than it may have turns.

        Raises:
            LimitError: it is more: tensors give all of their rows at once.
        """
        if isinstance(source, torch.Tensor) and source.dim() and len(source) > self._limits.operations - self._done:
            raise self._too_many()
        return iter(source)

    def turn(self) -> None:
        """One turn of a loop more.

        Raises:
            LimitError: that is too many.
        """
        self._charge()

    @contextmanager
    def around(self, root: torch.nn.Module, whole: bool) -> Iterator[None]:
        """Count the forwards of a model, and leave its weights and their gradients alone.

        Args:
            root: The model.
            whole: Whether its own operations are kept within the limits, too.
        """

        def forward(_module: torch.nn.Module, _args: Any, _kwargs: Any = None) -> None:
            self._forwards += 1
            if self._forwards > self._limits.forwards:
                raise LimitError(f"the program runs more than {self._limits.forwards} forwards: Limits(forwards=...)")

        self._owned |= {storage_of(tensor) for tensor in (*root.parameters(), *root.buffers())} - {0}
        undo: Undo = []
        height = torch._C._len_torch_dispatch_stack()
        try:
            add_hook(root, "_forward_pre_hooks", forward, True, undo)
            with self._models if whole else nullcontext(), gradients_kept(root):
                yield
        finally:
            while torch._C._len_torch_dispatch_stack() > height:  # an interrupt came at the edge of torch's own block
                torch._C._pop_torch_dispatch_stack()
            undo_all(undo)

    def _check(self, function: Callable[..., Any], values: list[Any]) -> None:
        """Refuse an operation on what is no data, or of which the result would be too large."""
        name = plain_name(function)
        if name in _REQUIRING:
            self._refuse_owned(values[0])
        for value in values[1:] if function in _CALLS else values:
            refuse_machinery(value, "use")
        self._plain.check(name, values)

    def _made(self, value: Any) -> Any:
        made = self._plain.made(value)
        refuse_machinery(made, "use")
        return made

    def _refuse_owned(self, value: Any) -> None:
        if isinstance(value, torch.Tensor) and storage_of(value) in self._owned:
            raise NNsightError(_OWNED)

    def _charge(self, count: float = 1) -> None:
        self._done += count
        if self._done > self._limits.operations:
            raise self._too_many()

    def _too_many(self) -> LimitError:
        return LimitError(f"the program executes more than {self._limits.operations} operations: Limits(operations=...)")


_CALLS = (call_module, call_listening)
_REQUIRING = (".requires_grad_", ".retain_grad", "setattr")
_OWNED = "this is a weight of the model: an edit in place would change it for good. Edit a .clone() of it."


class _Sizes(TorchDispatchMode):
    """Refuses operations whose results would be too large: their shapes are worked out first, without memory."""

    def __init__(self, most: int, owned: set[int], charge: Callable[[float], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most, self._owned, self._charge = most, owned, charge

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._charge(1 + work(str(function), args))
        self._refuse(made_bytes(str(function), args, kwargs))
        if ends_the_process(str(function), args, kwargs):
            raise OverflowError("the smallest integer divided by -1 is too large")
        if self._owned and function._schema.is_mutable:
            self._check_written(function._schema.arguments, args, kwargs)
        made = _shapes_of(function, args, kwargs)
        tree_map(partial(_check, self._most), made)
        result = function(*args, **kwargs)
        tree_map(partial(_check, self._most), result)
        return result

    def _check_written(self, arguments: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Nothing is written into the model's own tensors."""
        for place, argument in enumerate(arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                value = args[place] if place < len(args) else kwargs.get(argument.name)
                for tensor in value if isinstance(value, (list, tuple)) else [value]:
                    if isinstance(tensor, torch.Tensor) and storage_of(tensor) in self._owned:
                        raise NNsightError(_OWNED)

    def _refuse(self, size: int) -> None:
        if size > self._most:
            raise LimitError(f"a value would take {size} bytes, more than {self._most}: Limits(value_bytes=...)")


class _Growing(TorchDispatchMode):
    """Refuses operations of a model whose results would be too large, and larger than all that they take: weights may be large."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = most

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        most = max([self._most, *(_bytes(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor))])
        tree_map(partial(_check, most), _shapes_of(function, args, kwargs))
        return function(*args, **kwargs)


def _shapes_of(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, without memory; ``None`` where that hangs on numbers: it is as large as its inputs, or no tensor."""
    try:
        shapes = tree_map_only(torch.Tensor, _on_meta, (args, kwargs))
        return function(*shapes[0], **{**shapes[1], **_device(kwargs)})
    except Exception:
        return None


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check(most: int, value: Any) -> None:
    if isinstance(value, torch.Tensor) and _bytes(value) > most:
        raise LimitError(f"a value of {list(value.shape)} would take {_bytes(value)} bytes, more than {most}: Limits(value_bytes=...)")


@contextmanager
def gradients_kept(module: torch.nn.Module) -> Iterator[None]:
    """What backward passes leave in ``.grad`` of the parameters is gone afterwards, and what was there before is there again."""
    before = [(parameter, parameter.grad) for parameter in module.parameters()]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")


def _device(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"device": torch.device("meta")} if "device" in kwargs else {}
