"""Computing on fake tensors: shapes, dtypes and devices come out, no number does."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import _get_current_function_mode_stack

from ..ops.nested import map_tensors, tensors_in
from ..record.opened import set_modes
from ..record.torch_calls import RecordingMode
from .specs import Spec, map_items, spec_of


class NotLookedInto(Exception):
    """A forward on fakes is given an object, such as a KV cache, of which only the class is known."""


_BLIND = (
    NotLookedInto,
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedOperatorException,
)
_BLIND_TEXTS = ("supported for tensor subclasses", "data pointer of Tensor", "Cannot copy out of meta tensor")
_STRICTER = "Expected inputs of BF16 type"  # what the fake grouped_mm says of dtypes that the real one takes
_SMALL = 1_000_000
_CLONE = torch.ops.aten.clone.default
_FAKE = torch._C._TorchDispatchModeKey.FAKE
_ASK = torch.ops.aten._local_scalar_dense.default

Number = Callable[[torch.Tensor], bool | int | float | None]


class Fakes(FakeTensorMode):
    """The mode of one evaluation on fakes. Tensors that are real all the same are read, but never written.

    Args:
        number: Asked for the number in a fake when code wants it; ``None`` is no answer.
    """

    def __init__(self, number: Number | None = None) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self._number = number
        self._failed = 0

    def _dispatch_impl(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Run one operation.

        Not ``dispatch``, which autograd also asks for devices, where an error, such as an interrupt, would end the process.
        """
        if not types and func._schema.is_mutable:  # all its tensors are real
            args = self._faked(args)
            kwargs = self._faked(kwargs or {})
        if func is _CLONE and isinstance(args[0], FakeTensor):
            _keep_from_copies(args[0])
        if func is _ASK and self._number is not None and args[0].constant is None:
            told = self._number(args[0])
            if told is not None:
                return told
        try:
            return super()._dispatch_impl(func, types, args, kwargs)
        except Exception as error:
            if id(error) == self._failed:  # of an operation inside this one
                raise
            real, result = _on_zeros(func, args, kwargs or {}, error)
            if real is None and not func._schema.is_mutable and any(True for _ in tensors_in(result)):
                return map_tensors(result, self._like)  # only the fake kernel refuses, as that of grouped_mm does for float32
            real = real or error
            self._failed = id(real)
            try:
                raise real from None
            finally:
                del real  # else the error and this frame hold each other

    def _like(self, tensor: torch.Tensor) -> torch.Tensor:
        empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        return FakeTensor(self, empty, tensor.device)

    def _faked(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value if isinstance(value, FakeTensor) else self.from_tensor(value)
        found = map_items(value, self._faked)
        return value if found is NotImplemented else found


def _keep_from_copies(fake: FakeTensor) -> None:
    """Where a fake is cloned for ``copy.deepcopy``: what it carries is not copied after it, and its known number is forgotten.

    Torch would copy the mode itself, and a number's tensor on fakes, which writes where there is no memory: the process would end.
    """
    frame: FrameType | None = sys._getframe(2)
    for _ in range(16):
        if frame is None or frame.f_code is torch.Tensor.__deepcopy__.__code__:
            break
        frame = frame.f_back
    if frame is not None and "memo" in frame.f_locals:
        frame.f_locals["memo"].update({id(value): value for value in fake.__dict__.values()})
        frame.f_locals["memo"][id(fake.constant)] = None


def _on_zeros(func: Any, args: Any, kwargs: Any, error: Exception) -> tuple[Exception | None, Any]:
    """What an operation that failed on fakes raises on tensors of zeros, in the words that everyone knows; or what it gives there."""
    tensors = list(tensors_in((args, kwargs)))
    if isinstance(error, NotImplementedError) or func.namespace != "aten" or (is_blind(error) and _STRICTER not in str(error)):
        return None, None
    if sum(tensor.numel() for tensor in tensors) > _SMALL or any(tensor.layout is not torch.strided for tensor in tensors):
        return None, None
    try:
        # On one line: an interrupt between two would leave it so.
        with torch._C._DisableTorchDispatch(): result = func(*map_tensors(args, _zeros), **map_tensors(kwargs, _zeros))
    except Exception as real:
        return None if isinstance(real, NotImplementedError) else real.with_traceback(None), None
    return None, result if all(tensor.device.type == "cpu" for tensor in tensors) else None


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).zero_()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """While it lasts, torch does not log what it raises on fakes in this thread, and a trace that is being written records nothing."""
    logger, here = logging.getLogger(fake_tensor.__name__), threading.get_ident()
    grad = torch.is_grad_enabled()
    modes, fake = _get_current_function_mode_stack(), torch._C._get_dispatch_mode(_FAKE)
    others = [mode for mode in modes if type(mode) is not RecordingMode]

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    try:
        logger.addFilter(elsewhere)
        set_modes(others)
        yield
    finally:
        try:
            if torch._C._get_dispatch_mode(_FAKE) is not fake:  # torch's own block is not made for an interrupt at its edges
                torch._C._unset_dispatch_mode(_FAKE)
                if fake is not None:
                    torch._C._set_dispatch_mode(fake)
            if torch.is_grad_enabled() is not grad:
                torch._C._set_grad_enabled(grad)
        finally:
            set_modes(modes)
            logger.removeFilter(elsewhere)


def is_blind(error: BaseException) -> bool:
    """Whether ``error`` only says that a fake has no numbers: on real tensors there might be none.

    >>> is_blind(IndexError("index 10 is out of bounds for dimension 1 with size 10"))
    False
    """
    return isinstance(error, _BLIND) or (isinstance(error, RuntimeError) and any(text in str(error) for text in (*_BLIND_TEXTS, _STRICTER)))


def fake_from(spec: Spec, mode: FakeTensorMode) -> torch.Tensor:
    """A fake tensor of which ``spec`` is true; no leaf, so that it may be edited.

    Raises:
        Exception: there is no such device: autograd would end the process.
    """
    _find(spec.device)
    if spec.layout is torch.strided:
        empty = torch.empty_strided(spec.shape, spec.stride, dtype=spec.dtype, device="meta")
        fake: torch.Tensor = FakeTensor(mode, empty, spec.device)
    else:
        with mode:
            fake = torch.empty(spec.shape, dtype=spec.dtype, device=spec.device, layout=spec.layout)
    if not spec.requires_grad:
        return fake
    with torch.enable_grad():
        return fake.requires_grad_().clone()


@functools.cache
def _find(device: torch.device) -> None:
    torch.empty(0, device=device)


def fake_of(value: Any, mode: FakeTensorMode) -> Any:
    """``value`` with a fake tensor for every :class:`~nnsight_graph.run.specs.Spec` in it."""
    if isinstance(value, Spec):
        return fake_from(value, mode)
    found = map_items(value, lambda item: fake_of(item, mode))
    return value if found is NotImplemented else found


def evaluate_on_fakes(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What ``function`` makes of values of which only specs are known: specs in, specs out; no number is computed.

    Args:
        function: Anything made of torch operations.
        *args: Its arguments, with a spec for each tensor.
        **kwargs: Its named arguments.

    Raises:
        Exception: what ``function`` raises, as it would on real tensors; :func:`is_blind` tells the errors that it would not raise there.

    Example:
        >>> one, other = spec_of(torch.zeros(2, 3)), spec_of(torch.zeros(3, 5))
        >>> print(evaluate_on_fakes(torch.matmul, one, other))
        float32[2, 5] on cpu
    """
    mode = Fakes()
    given, named = fake_of(args, mode), fake_of(kwargs, mode)
    with quietly(), mode:
        return spec_of(function(*given, **named))


_SAFE = "_nnsight_graph_on_fakes"


def on_fakes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function as safe to be called on fake tensors: it does nothing but compute, and asks no tensor for its numbers.

    Functions given to :func:`nnsight_graph.apply` are otherwise left out of scans and checks, and what they return is unknown there.

    Example:
        >>> import nnsight_graph as nnsight
        >>> @nnsight.on_fakes
        ... def normalized(x):
        ...     return x / x.norm(dim=-1, keepdim=True)
    """
    setattr(function, _SAFE, True)
    return function


def is_safe(function: Callable[..., Any]) -> bool:
    """Whether a function was marked so."""
    return getattr(function, _SAFE, None) is True
