"""What attends in one call of a module: watched while it runs, whatever branch, method or processor does it.

A mode of torch's sees each torch function that the call uses, without a change to anything. Where one attends, the frames of the stack tell
whether the module itself does, or a module inside it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import MissedSiteError, NNsightError
from ..ops.running import current
from .attention import aside, changed, fused, interface, is_told, returned, untold
from .detours import Leave
from .engine import Run

_CALL = torch.nn.Module._call_impl.__code__
_ARRIVE = Run.arrive.__code__
_FAST = (torch.nn.TransformerEncoder, torch.nn.TransformerEncoderLayer)
_NO_ATTENTION = frozenset(f"torch.nn.modules.{name}" for name in (
    "batchnorm", "conv", "distance", "dropout", "flatten", "fold", "instancenorm", "linear", "loss", "normalization", "padding",
    "pixelshuffle", "pooling", "rnn", "sparse", "upsampling",
))  # fmt: skip


class Plain(TorchFunctionMode):
    """Changes nothing; torch's own modules leave their fast paths, which call no module and no function inside them, where one is on."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def slowly(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a forward of torch's without its fast path."""
    with Plain():
        return original(*args, **kwargs)


def with_fast_paths(path: str, modules: dict[str, torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """The modules around the one at ``path`` that may run past it."""
    if isinstance(modules[path], torch.nn.MultiheadAttention):
        words = path.split(".")
        around = (modules.get(".".join(words[:count])) for count in range(len(words)))
        yield from (module for module in around if isinstance(module, _FAST))


class Attending(TorchFunctionMode):
    """One call of a module whose attention weights are wanted.

    Args:
        run: The run.
        modules: The modules of the model, by path.
        path: Which of them it is.
        bring: Takes weights to the run.
        several: Whether the run wants more than the first weights of a step, and so knows that there are several.
        refuse: Makes an error the one of the line that asks.

    Attributes:
        left: Whether the run has all that it wants: it ends when the call is over.
    """

    def __init__(
        self, run: Run, modules: dict[str, torch.nn.Module], path: str, bring: Callable[[Any], Any], several: bool,
        refuse: Callable[[NNsightError], Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self._run, self._modules, self._module, self._path = run, modules, modules[path], path
        self._bring, self._several, self._refuse = bring, several, refuse
        self._place: tuple[tuple[CodeType, int], ...] | None = None  # where in the text the weights were met
        self._deaf = False
        self.left = False
        self._inside: dict[str, None] = {}
        self._heads: dict[int, tuple[int, int] | None] = {}

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The call itself.

        A run may have all that it wants at the weights. It is left when the call is over, since only then it is known whether these
        were the only ones.
        """
        run = self._run
        try:
            with self:
                result = function(*args, **kwargs)
        except Exception:
            if not self.left:
                raise
        if self.left:
            run.busy = False
            raise Leave
        if self._place is None and not run.busy:
            self._refuse(MissedSiteError(no_weights(self._path, self._modules, self._inside)))
        return result

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # compiled code is left as it is
            return func(*args, **kwargs)
        seen = _SEEN.get(getattr(func, "__name__", ""))
        if seen is None or self._deaf or (not self.left and self._run.busy) or current.get() is not self._run:
            return func(*args, **kwargs)
        return seen(self, func, args, kwargs)

    def interface(self, target: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call an attention function of transformers, by whatever name."""
        place = self._own_place()
        if place is None:
            return target(*args, **kwargs)
        if is_told(target, args):
            self._meet(place)
            if self.left:
                return self._told(lambda: target(*args, **kwargs))
            return self._told(lambda: interface(self._pass, target, args, kwargs))
        before = self._place
        result = target(*args, **kwargs)
        if self._place is not before:
            return result
        if not isinstance(result, tuple) or len(result) < 2 or not isinstance(result[1], torch.Tensor):
            return self._refuse(untold(target, args))
        self._meet(place)
        return self._told(lambda: returned(self._pass, result, args[3]))

    def _told(self, step: Callable[[], Any]) -> Any:
        self._deaf = True
        try:
            return self._guarded(step)
        finally:
            self._deaf = False

    # ------------------------------------------------------------------ what is seen

    def _softmax(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        if not isinstance(result, torch.Tensor) or not _over_the_last(result.dim(), args, kwargs):
            return result
        place = self._own_place(result.dim() > 2)
        if place is None:
            return result
        self._meet(place)
        weights = self._in_heads(result)
        made = self._guarded(lambda: self._pass(weights, None if weights is not result else result))
        return result if made is None else made.reshape(result.shape)

    def _fused(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place = self._own_place()
        if place is None:
            return func(*args, **kwargs)
        self._meet(place)
        if self.left:
            return func(*args, **kwargs)

        def attend() -> Any:
            compute, attended = fused(*args, **kwargs)
            weights = aside(compute)
            made = self._pass(self._in_heads(weights), None)
            return func(*args, **kwargs) if made is None else attended(made.reshape(weights.shape))

        return self._guarded(attend)

    def _multi_head(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """torch's own: the function again, with this mode on inside it."""
        if not isinstance(func, types.FunctionType):
            return func(*args, **kwargs)
        unseen = {**func.__globals__, "has_torch_function": lambda _tensors: False}
        inner = types.FunctionType(func.__code__, unseen, func.__name__, func.__defaults__, func.__closure__)
        inner.__kwdefaults__ = func.__kwdefaults__
        heads = kwargs["num_heads"] if "num_heads" in kwargs else args[4]
        before, self._many = self._many, heads
        try:
            with self:
                return inner(*args, **kwargs)
        finally:
            self._many = before

    def _reshape(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Heads become rows of the batch: noted, since of weights they become heads again."""
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor) and result.dim() >= 3:
            heads = _merged(tuple(args[0].shape), tuple(result.shape))
            if heads is not None:
                rows = result.shape[-3]
                self._heads[rows] = heads if self._heads.get(rows, heads) == heads else None
        return result

    _many = 0

    # ------------------------------------------------------------------ where, and what

    def _own_place(self, counts: bool = True) -> tuple[tuple[CodeType, int], ...] | None:
        """Where in the text this is, if the module itself attends; else the module that does is noted, if it ``counts``.

        A module that is given this one attends for it, and a softmax is no attention by itself.
        """
        frame: FrameType | None = sys._getframe(2)
        place, inside = [], None
        while frame is not None and not (frame.f_code is _THIS_CALL and frame.f_locals["self"] is self):
            place.append((frame.f_code, frame.f_lasti))
            if frame.f_code is _ARRIVE:  # a line of the trace
                return None
            if frame.f_code is _CALL:
                known = frame.f_locals
                if "softmax" not in type(known["self"]).__name__.lower() and not self._is_given(known):
                    inside = known["self"]
            frame = frame.f_back
        if inside is None:
            return tuple(place)
        if counts:
            start = f"{self._path}." if self._path else ""  # looked for now: a forward may have put it there
            self._inside.update(dict.fromkeys(start + name for name, module in self._module.named_modules() if module is inside))
        return None

    def _is_given(self, known: Any) -> bool:
        return any(value is self._module for value in (*known["args"], *known["kwargs"].values()))

    def _in_heads(self, weights: torch.Tensor) -> torch.Tensor:
        """Weights as ``[batch, heads, queries, keys]``, where it is known what their rows are."""
        if weights.dim() != 3:
            return weights
        rows = weights.shape[0]
        heads = (rows // self._many, self._many) if self._many else self._heads.get(rows)
        return weights if heads is None else weights.view(*heads, *weights.shape[1:])

    def _meet(self, place: tuple[tuple[CodeType, int], ...]) -> None:
        """Note that there are weights.

        Raises:
            Leave: there were others in this call, and the run does not say which it wants.
        """
        before, self._place = self._place, place
        if before is None or (before == place and self._several):
            return
        name = f"{self._path}." if self._path else ""
        if before == place:
            text = (
                f"attention runs more than once in a call of {self._path or 'the model'}, piece by piece: say which weights you mean, "
                f"as in {name}call[1].attention_weights, or read the operation in {name}source"
            )
        else:
            ends = [next((frame for frame in reversed(each) if frame[0].co_name == "forward"), each[-1]) for each in (before, place)]
            lines = ", ".join(dict.fromkeys(str(_line(*end)) for end in ends))
            text = (
                f"{self._path or 'the model'} attends at several places of its forward (lines {lines} of {ends[0][0].co_filename}): no "
                f"one of them is its attention weights. Read the operation that you mean: print({name}source) names them"
            )
        self._refuse(NNsightError(text))

    def _pass(self, weights: torch.Tensor, own: Any) -> torch.Tensor | None:
        if self.left:
            return None
        plan = self._run.plan
        if plan.edited and weights.requires_grad and not weights.is_leaf:
            weights = weights.clone()  # the softmax needs its own result for its gradient
        try:
            return changed(weights, self._bring, own, plan.derives)
        except Leave:
            if self._run.error is not None:
                raise
            self.left = self._run.busy = True  # nobody is listened to until the call is over
            return None

    def _guarded(self, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except NNsightError as error:
            return self._refuse(error)


_THIS_CALL = Attending.call.__code__
_SEEN: dict[str, Callable[..., Any]] = {
    "softmax": Attending._softmax,
    "_softmax": Attending._softmax,
    "_safe_softmax": Attending._softmax,
    "scaled_dot_product_attention": Attending._fused,
    "multi_head_attention_forward": Attending._multi_head,
    "view": Attending._reshape,
    "reshape": Attending._reshape,
    "flatten": Attending._reshape,
}


def _merged(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, int] | None:
    """The batch and the heads that a change of shape has made one dimension.

    >>> _merged((2, 4, 5, 8), (8, 5, 8)), _merged((5, 2, 32), (5, 8, 8)), _merged((2, 5, 32), (2, 5, 32))
    ((2, 4), (2, 4), None)
    """
    if len(before) > 3 and after == (*before[:-4], before[-4] * before[-3], *before[-2:]):
        return before[-4], before[-3]
    if len(before) == len(after) == 3 and before[0] == after[0] and before != after and before[1] and after[1] % before[1] == 0:
        heads = after[1] // before[1]
        return (before[1], heads) if after[2] * heads == before[2] else None
    return None


def _over_the_last(dimensions: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a softmax is one over the last dimension, that of the keys."""
    over = args[1] if len(args) > 1 else kwargs.get("dim")
    return type(over) is not int or over in (-1, dimensions - 1)


def _line(code: CodeType, offset: int) -> int:
    return next((line for start, end, line in code.co_lines() if start <= offset < end and line), code.co_firstlineno)


def no_weights(path: str, modules: dict[str, torch.nn.Module], inside: Iterable[str] = ()) -> str:
    """The text about attention weights that are not there.

    Args:
        path: Of the module that was asked.
        modules: Those of the model, by path.
        inside: Those in which something attended.
    """
    name, found = path or "the model", list(inside)
    if found:
        return f"{name} has no attention weights of its own: modules inside it attend. Ask {_listed(found)}"
    what = "nothing in its forward took a softmax over the last dimension, or called an attention function of torch or transformers"
    text = f"{name} has no attention weights: {what} (compiled code is not seen)"
    words = path.split(".")
    for count in reversed(range(len(words))):
        around = ".".join(words[:count])
        near = [other for other, module in modules.items() if other.startswith(around) and "attention" in type(module).__name__.lower()]
        if near:
            return f"{text}. Near: {_listed(near)}"
    return text


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def never_attends(module: torch.nn.Module) -> bool:
    """Whether it is known without a run that a module does not attend: torch's own linear layers, norms and the like."""
    return type(module).__module__ in _NO_ATTENTION and "forward" not in module.__dict__
