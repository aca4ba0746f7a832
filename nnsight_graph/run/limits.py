"""Limits on what the program of a stranger may do in a run: how many operations, how large a value; refused before the memory is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import msgspec
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ..compile.emit import COPYING
from ..errors import LimitError, NNsightError
from ..ops.data import Withheld, reject_non_data
from ..ops.evaluate import CLEAR, SPECIAL, run_code
from ..ops.nested import storage_of
from ..ops.running import call_listening, call_module
from .counts import ends_the_process, made_bytes
from .held import Held, in_backward, makes_anew, tensors_of
from .hooks import add_hook
from .kept import gradients_kept
from .plain import Plain, plain_name
from .shapes import shapes_of
from .undoing import Undo, undo_all
from .work import work


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a program may take; see :meth:`SavedGraph.run`.

    Attributes:
        operations: How many operations may be executed: turns of loops, and what one line does in torch, included; in a session by all
            of its traces and lines together. One that works for long counts more than once: as one more for every ten million numbers
            that it handles, million steps of a pooling, thousand million products in matrices, 16 items of containers, 1024 characters.
        value_bytes: How many bytes one value may have, and what an operation needs meanwhile: tensors by their shape (an expanded
            scalar counts in full), text, lists and ranges with all that is in them. In a session, whose inputs are part of the program,
            the model's own activations count, too.
        integer_bits: How many bits an integer may have.
        forwards: How many forwards of the models may be run: each step of a generation is one.
        held_bytes: How many bytes all tensors together may have that the program made and that are still there: in names, lists, dicts.
            ``None`` is eight times ``value_bytes``.
        seconds: How long the run may take; ``None`` is for ever. It is asked between operations and whenever a module of the model is
            called: one operation that has begun goes on to its end, and only a process of its own can end it before.

    Example:
        >>> import nnsight_graph as nnsight
        >>> nnsight.Limits().value_bytes == 1 << 30
        True
    """

    operations: int = 1_000_000
    value_bytes: int = 1 << 30
    integer_bits: int = 4096
    forwards: int = 10_000
    held_bytes: int | None = None
    seconds: float | None = None


class Meter:
    """Executes the instructions of a run one by one, each within the limits.

    What it executes handles data alone, and does not write into what is the model's.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._owned: set[int] = set()
        held = Held(8 * limits.value_bytes if limits.held_bytes is None else limits.held_bytes, self._charge)
        self._sizes = _Sizes(limits.value_bytes, self._owned, self._charge, held)
        self._models, self._copies = _Growing(limits.value_bytes, held), _Holding(held)
        self._plain = Plain(limits, self._charge)
        self._done = 0.0
        self._forwards = 0
        self._ends = inf
        self._began = limits.seconds is None

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
                    with self._copies if failing[1] in COPYING else nullcontext():
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
        slots[out] = self._made(slots[out], function, values)

    def evaluate(self, function: Callable[..., Any], operands: list[Any], named: dict[str, Any]) -> Any:
        """Call one function, within the limits.

        Raises:
            LimitError: it would take more than it may.
        """
        self._charge()
        values = [*operands, *named.values()]
        self._check(function, values)
        with self._sizes:
            made = function(*operands, **named)
        return self._made(made, function, values)

    def within(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function of the model's that a program gives its arguments: its results are kept within the limits."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            with self._sizes:
                return function(*args, **kwargs)

        return call

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
        """Count the forwards of a model, look at the clock meanwhile, and leave its weights and their gradients alone.

        Args:
            root: The model.
            whole: Whether its own operations are kept within the limits, too.
        """

        def forward(_module: torch.nn.Module, _args: Any, _kwargs: Any = None) -> None:
            if _metered.get() is not self:  # another run's, in another thread
                return
            self._forwards += 1
            if self._forwards > self._limits.forwards:
                raise LimitError(f"the program runs more than {self._limits.forwards} forwards: Limits(forwards=...)")

        def module(_module: torch.nn.Module, _args: Any, _kwargs: Any = None) -> None:
            if _metered.get() is self:
                self._look_at_the_clock()

        self._owned |= {storage_of(tensor) for tensor in (*root.parameters(), *root.buffers())} - {0}
        self._look_at_the_clock()
        hooked = [(root, forward)]
        if self._limits.seconds is not None:
            hooked += [(each, module) for each in root.modules()]
        undo: Undo = []
        height, before = torch._C._len_torch_dispatch_stack(), _metered.get()
        try:
            _metered.set(self)
            for each, hook in hooked:
                add_hook(each, "_forward_pre_hooks", hook, True, undo)
            with self._models if whole else nullcontext(), gradients_kept(root):
                yield
        finally:
            while torch._C._len_torch_dispatch_stack() > height:  # an interrupt came at the edge of torch's own block
                torch._C._pop_torch_dispatch_stack()
            undo_all(undo)
            _metered.set(before)

    def _check(self, function: Callable[..., Any], values: list[Any]) -> None:
        """Refuse an operation on what is no data, or of which the result would be too large."""
        name = plain_name(function)
        if name in _REQUIRING:
            self._refuse_owned(values[0])
        for value in values[1:] if function in _CALLS else values:
            self._see(value)
        self._plain.check(name, values)

    def _made(self, value: Any, function: Callable[..., Any], values: list[Any]) -> Any:
        made = self._plain.made(value, plain_name(function), values)
        self._see(made)
        return made

    @staticmethod
    def _see(value: Any) -> None:
        if type(value) is not Withheld:  # which can be held, and put back
            reject_non_data(value, "use")

    def _refuse_owned(self, value: Any) -> None:
        if isinstance(value, torch.Tensor) and storage_of(value) in self._owned:
            raise NNsightError(_OWNED)

    def _charge(self, count: float = 1) -> None:
        self._done += count
        if self._done > self._limits.operations:
            raise self._too_many()
        if self._limits.seconds is not None:
            self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        now = monotonic()
        if not self._began:  # with the first thing that is done, not with the weights that are loaded for it
            self._began, self._ends = True, now + (self._limits.seconds or 0)
        if now > self._ends:
            raise LimitError(f"the program takes more than {self._limits.seconds} seconds: Limits(seconds=...)")

    def _too_many(self) -> LimitError:
        return LimitError(f"the program executes more than {self._limits.operations} operations: Limits(operations=...)")


_metered: ContextVar[Meter | None] = ContextVar("nnsight_graph_metered", default=None)
"""Whose forward this is."""

_CALLS = (call_module, call_listening)
_REQUIRING = (".requires_grad_", ".retain_grad", "setattr")
_OWNED = "this is a weight of the model: an edit in place would change it for good. Edit a .clone() of it."


class _Sizes(TorchDispatchMode):
    """Refuses operations whose results would be too large: their shapes are worked out first, without memory."""

    def __init__(self, most: int, owned: set[int], charge: Callable[[float], None], held: Held) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most, self._owned, self._charge, self._held = most, owned, charge, held

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kind = str(function).split(".")[1]
        self._charge(1)
        self._refuse(made_bytes(kind, args, kwargs))
        if ends_the_process(kind, args, kwargs):
            raise OverflowError("the smallest integer divided by -1 is too large, and so is its absolute value")
        if self._owned and function._schema.is_mutable:
            self._check_written(function._schema.arguments, args, kwargs)
        made = shapes_of(function, kind, args, kwargs, self._most)
        tree_map(partial(_check, self._most), made)
        self._charge(work(kind, args, made))
        fresh = makes_anew(function)
        if fresh:
            self._held.expect(sum(map(_bytes, tensors_of(made))))
        result = function(*args, **kwargs)
        tree_map(partial(_check, self._most), result)
        if fresh:
            self._held.note(tensors_of(result))
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

    def __init__(self, most: int, held: Held) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most, self._held = most, held

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        most = max([self._most, *(_bytes(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor))])
        made = shapes_of(function, "", args, kwargs, most)
        tree_map(partial(_check, most), made)
        counted = makes_anew(function) and not in_backward()
        if counted:
            self._held.expect(sum(map(_bytes, tensors_of(made))))
        result = function(*args, **kwargs)
        if counted:
            self._held.note(tensors_of(result))
        return result


class _Holding(TorchDispatchMode):
    """Counts copies that the run itself makes, since lines above an edit are to see what was before it, as held by the program."""

    def __init__(self, held: Held) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = held

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if makes_anew(function):
            self._held.note(tensors_of(result))
        return result


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _check(most: int, value: Any) -> None:
    if isinstance(value, torch.Tensor) and _bytes(value) > most:
        raise LimitError(f"a value of {list(value.shape)} would take {_bytes(value)} bytes, more than {most}: Limits(value_bytes=...)")
