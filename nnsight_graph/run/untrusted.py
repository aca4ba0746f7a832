"""Runs of programs that may be a stranger's: they handle data alone, and reach only operations that were reviewed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

import torch

from ..compile import Plan
from ..errors import NNsightError
from ..ops import portable
from ..ops.data import admitted, delivered, differs
from ..ops.effect import written
from ..ops.nested import storage_of, tensors_in
from ..ops.table import effect_of, name_of
from .detours import Leave
from .engine import Run
from .limits import gradients_kept

_OF_TRANSFORMERS = frozenset(
    ("eager_attention_forward", "sdpa_attention_forward", "apply_rotary_pos_emb", "rotate_half", "repeat_kv")
)  # fmt: skip
"""Functions of transformers that compute, and do nothing else, whatever they are given."""
_KEPT = "the model keeps this tensor: an edit in place would stay. Assign a new value."


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
        kept: The tensors that modules keep as plain attributes, with where they stood when the run began.
        strange: The paths of the sites that lines of a stranger name; ``None`` for all.
    """


    def __init__(self, plan: Plan, slots: list[Any], strange: frozenset[str] | None) -> None:
        super().__init__(plan, slots)
        self.strange = strange
        self.kept: list[tuple[dict[str, Any], str, Any]] = []

    def guard(self, root: torch.nn.Module, undo: list[Callable[[], None]]) -> None:
        """Before the model runs: note what it keeps."""
        if self.plan.edited:
            held = [(module.__dict__, item) for module in root.modules() for item in module.__dict__.items()]
            plain = [(table, name, value) for table, (name, value) in held if name not in _TABLES]
            self.kept = [entry for entry in plain if next(tensors_in(entry[2]), None) is not None]
        required = [(weight, weight.requires_grad) for weight in root.parameters()]

        def restore() -> None:
            for weight, before in required:
                if weight.requires_grad is not before:
                    weight.requires_grad_(before)

        undo.append(restore)

    def backward(self, ordinal: int, names: tuple[str, ...], leaves: tuple[int, ...]) -> None:
        """Run a backward; it leaves the gradients of the weights as they were."""
        assert self.modules is not None
        with gradients_kept(self.modules.root):
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
        try:
            return delivered(value, present)
        except TypeError as error:
            raise self._refused(str(error), self.plan.visits[index].nodes[-1]) from None

    def _refused(self, text: str, node: int) -> Leave:
        self.error, self.failed, self.busy = NNsightError(text), ("refused", node), True
        return Leave()

    def skip(self, path: str, leaves: tuple[int, ...]) -> None:
        delivered(self.slots[leaves[0]])
        super().skip(path, leaves)

    def replace(self, path: str, name: str, leaf: int) -> None:
        if not isinstance(self.slots[leaf], torch.Tensor):
            raise TypeError("a program handles data: what stands for a parameter is a tensor")
        super().replace(path, name, leaf)

    def _owns(self, tensor: torch.Tensor) -> bool:
        if super()._owns(tensor):
            return True
        address = storage_of(tensor)
        still = (value for table, name, value in self.kept if table.get(name) is value)
        return address != 0 and any(storage_of(other) == address for value in still for other in tensors_in(value))

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
        self, path: str, target: Callable[..., Any], original: Any, named: Collection[str], call: tuple[tuple[Any, ...], dict[str, Any]]
    ) -> Callable[..., Any]:
        """What is called where a program has changed the arguments of an operation.

        Args:
            path: The operation.
            target: What is to be called.
            original: What the model calls there.
            named: The names of the arguments that the model names.
            call: The arguments that the program gives.

        Raises:
            Leave: with the error on the line that changed them.
        """
        if not self._is_strange(path):
            return target
        name = reviewed(original)
        if name:
            args, kwargs = call
            if fresh := sorted(kwargs.keys() - set(named) - portable.keywords_of(name)):
                raise self._refused_at(path, f"{name} takes no argument {fresh[0]!r} from a program of a file")
            if written(effect_of(name), (original.__self__, *args) if name[0] == "." else args, kwargs):
                raise self._refused_at(path, f"{name} writes into its arguments: a program from a file cannot replace them")
        return target if self.meter is None or isinstance(original, torch.nn.Module) else self.meter.within(target)

    def _is_strange(self, path: str) -> bool:
        return self.strange is None or any(f"{other}.".startswith(f"{path}.") for other in self.strange)

    def _refused_at(self, path: str, why: str) -> Leave:
        node = next(visit.nodes[0] for visit in self.plan.visits if visit.path == path or visit.path.startswith(path + "."))
        return self._refused(f"{path}: {why}", node)


_TABLES = frozenset(name for name in torch.nn.Module().__dict__ if name.startswith("_"))
