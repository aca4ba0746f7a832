"""Runs of programs that may be a stranger's: they handle data alone, and reach only operations that were reviewed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

import torch

from ..compile import Plan
from ..errors import NNsightError
from ..ops import portable
from ..ops.data import admitted, delivered, differs, tensors_changed, texts_in
from ..ops.effect import written
from ..ops.nested import tensors_in
from ..ops.table import effect_of, name_of
from .detours import Leave
from .engine import Run
from .kept import Kept, gradients_kept
from .undoing import Undo

_OF_TRANSFORMERS = frozenset(
    ("eager_attention_forward", "sdpa_attention_forward", "apply_rotary_pos_emb", "rotate_half", "repeat_kv")
)  # fmt: skip
"""Functions of transformers that compute, and do nothing else, whatever they are given."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def leaves_of(tensors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The tensors in which a backward from ``tensors`` leaves gradients.

    >>> [leaf.shape for leaf in leaves_of([torch.nn.Linear(2, 3, bias=False)(torch.ones(2))])]
    [torch.Size([3, 2])]
    """
    yield from (tensor for tensor in tensors if tensor.is_leaf and tensor.requires_grad)
    ahead = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    seen = set(ahead)
    while ahead:
        node = ahead.pop()
        if isinstance(leaf := getattr(node, "variable", None), torch.Tensor):
            yield leaf
        fresh = [other for other, _ in node.next_functions if other is not None and other not in seen]
        seen.update(fresh)
        ahead += fresh


def reviewed(target: Any) -> str | None:
    """The name of the operation that a call inside a forward is, if it only computes; ``None`` for any other.

    >>> reviewed(torch.relu), reviewed(torch.ones(1).view), reviewed(torch.nn.ReLU()), reviewed(getattr), reviewed({}.get)
    ('torch.relu', '.view', '', None, None)
    """
    if isinstance(target, torch.nn.Module):
        return ""
    if isinstance(getattr(target, "__self__", None), torch.Tensor):
        name: str | None = f".{target.__name__}"
    elif type(target) is FunctionType and target.__module__.startswith("transformers.") and target.__name__ in _OF_TRANSFORMERS:
        return "" if getattr(sys.modules.get(target.__module__), target.__name__, None) is target else None
    else:
        name = name_of(target)
    return name if name is not None and portable.is_portable(name) else None


class UntrustedRun(Run):
    """A run that admits data to its program, and delivers data to the model.

    Attributes:
        kept: The tensors that model and caller held when the run began.
        exports: Whether a session goes on with what it saves.
        strange: The paths of the sites that lines of a stranger name; ``None`` for all.
    """

    def __init__(self, plan: Plan, slots: list[Any], strange: frozenset[str] | None) -> None:
        super().__init__(plan, slots)
        self.strange = strange
        self.kept = Kept()
        self.exports = False

    def guard(self, root: torch.nn.Module, given: Any, undo: Undo) -> None:
        """Before the model runs: note what it keeps, and what it is given."""
        plan = self.plan
        if plan.edited or plan.modules or plan.replaced or self.exports:
            self.kept = Kept(root, given)
        required = [(weight, weight.requires_grad) for weight in root.parameters()]

        def restore() -> None:
            for weight, before in required:
                if weight.requires_grad is not before:
                    weight.requires_grad_(before)

        undo.append(restore)

    def backward(self, ordinal: int, names: tuple[str, ...], leaves: tuple[int, ...]) -> None:
        """Run a backward; it leaves the gradients of weights, and of all else that it reaches, as they were."""
        assert self.modules is not None
        given = list(tensors_in([self.slots[leaf] for leaf in leaves]))
        with gradients_kept(self.modules.root, (*leaves_of(given), *given[1:])):
            super().backward(ordinal, names, leaves)

    # ------------------------------------------------------------------ what passes

    def arrive(self, index: int, value: Any) -> Any:
        """A value passes: the program gets what is data of it, and the model what the program makes of that."""
        if isinstance(value, torch.Tensor):
            result = super().arrive(index, value)
            return result if result is None or isinstance(result, torch.Tensor) else self._delivered(index, result, value)
        shown = admitted(value)
        result = super().arrive(index, shown)
        if result is None and value is not None and differs(shown, value):
            result = shown
        return None if result is None else self._delivered(index, result, value)

    def keep_last(self, index: int, value: Any) -> None:
        super().keep_last(index, admitted(value))

    def _delivered(self, index: int, value: Any, present: Any) -> Any:
        visit = self.plan.visits[index]
        try:
            self._reject_texts(visit.path, value, present)
            return delivered(value, present, self.apart)
        except TypeError as error:
            raise self._refused(str(error), visit.nodes[-1]) from None

    def _reject_texts(self, path: str, value: Any, present: Any) -> None:
        """Inside a forward a text may be the name of what the model looks up next."""
        if self.modules is not None and path not in self.modules.modules and texts_in(value) - texts_in(present):
            raise TypeError("a program handles data: it cannot put another text into a forward")

    def _refused(self, text: str, node: int) -> Leave:
        self.error, self.failed, self.busy = NNsightError(text), ("refused", node), True
        return Leave()

    def skip(self, path: str, leaves: tuple[int, ...]) -> None:
        delivered(self.slots[leaves[0]])
        self._reject_texts(path, self.slots[leaves[0]], None)
        super().skip(path, leaves)

    def replace(self, path: str, name: str, leaf: int) -> None:
        if not isinstance(self.slots[leaf], torch.Tensor):
            raise TypeError("a program handles data: what stands for a parameter is a tensor")
        self.slots[leaf] = self.apart(self.slots[leaf])
        super().replace(path, name, leaf)

    def _owns(self, tensor: torch.Tensor) -> bool:
        return super()._owns(tensor) or tensor in self.kept

    def apart(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, or a copy where writing into it would change what stays."""
        return tensor.clone() if self._owns(tensor) else tensor

    def exporting(self, give: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
        """``give``, for a session whose lines go on with the values: those of a stranger get copies of what stays."""
        if self.strange is not None:
            return give
        self.exports = True
        return lambda node, value: give(node, tensors_changed(value, self.apart))

    # ------------------------------------------------------------------ operations inside forwards

    def permit(self, path: str, nested: bool, target: Any) -> None:
        """Refuse an operation that may do more than compute.

        Raises:
            Leave: with the error on the line that names it.
        """
        if not self._is_strange(path):
            return
        if nested:
            raise self._refused_at(path, "a program from a file does not look into what an operation calls")
        if reviewed(target) is None:
            called = getattr(target, "__qualname__", type(target).__qualname__)
            raise self._refused_at(path, f"it calls {called}, which is not among the operations that a program from a file may reach")

    def permit_call(
        self, path: str, target: Callable[..., Any], original: Any, own: Arguments, call: Arguments
    ) -> Callable[..., Any]:
        """What is called where a program has changed the arguments of an operation.

        Args:
            path: The operation.
            target: What is to be called.
            original: What the model calls there.
            own: The arguments that the model gives.
            call: The arguments that the program gives.

        Raises:
            Leave: with the error on the line that changed them.
        """
        if not self._is_strange(path):
            return target
        name = reviewed(original)
        if name:
            args, kwargs = call
            if fresh := sorted(kwargs.keys() - own[1].keys() - portable.keywords_of(name)):
                raise self._refused_at(path, f"{name} takes no argument {fresh[0]!r} from a program of a file")
            most = portable.most_arguments(name)
            if most is not None and len(args) > max(most - (name[0] == "."), len(own[0])):
                raise self._refused_at(path, f"{name} takes {most} arguments from a program of a file")
            if written(effect_of(name), (original.__self__, *args) if name[0] == "." else args, kwargs):
                raise self._refused_at(path, f"{name} writes into its arguments: a program from a file cannot replace them")
        return target if self.meter is None or isinstance(original, torch.nn.Module) else self.meter.within(target)

    def _is_strange(self, path: str) -> bool:
        return self.strange is None or any(f"{other}.".startswith(f"{path}.") for other in self.strange)

    def _refused_at(self, path: str, why: str) -> Leave:
        node = next(visit.nodes[0] for visit in self.plan.visits if visit.path == path or visit.path.startswith(path + "."))
        return self._refused(f"{path}: {why}", node)
