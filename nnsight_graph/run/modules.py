"""The modules of a model by path: one module, one canonical path, however many names it has."""

from __future__ import annotations

import torch

from ..errors import NNsightError


class ModuleIndex:
    """Paths and modules of one model.

    Attributes:
        root: The model.
        modules: Module by canonical path: the first under which ``named_modules()`` meets it.
    """

    __slots__ = ("_canonical", "_lineage", "modules", "root")

    def __init__(self, root: torch.nn.Module) -> None:
        self.root = root
        self.modules: dict[str, torch.nn.Module] = dict(root.named_modules())
        self._canonical: dict[int, str] = {id(module): path for path, module in self.modules.items()}
        self._lineage: dict[str, tuple[torch.nn.Module, ...]] = {}

    def canonical(self, module: torch.nn.Module, path: str) -> str:
        """The canonical path of ``module``; ``path`` itself for one that is not in the model."""
        return self._canonical.get(id(module), path)

    def lineage(self, path: str) -> tuple[torch.nn.Module, ...]:
        """The module at ``path`` and every module above it; none of them may have been compiled."""
        line = self._lineage.get(path)
        if line is None:
            parts = path.split(".") if path else []
            line = tuple(self.root.get_submodule(".".join(parts[:count])) for count in range(len(parts) + 1))
            for module in line:
                if type(module).__name__ == "OptimizedModule":
                    raise self._refusal(path, module)
            self._lineage[path] = line
        return line

    def refuse_compiled(self, path: str) -> None:
        """Raise for a module whose hooks torch would ignore.

        Raises:
            NNsightError: the module, or one above it, was compiled in place by ``torch.compile``.
        """
        for module in self._lineage.get(path) or self.lineage(path):
            if module._compiled_call_impl is not None:
                raise self._refusal(path, module)

    def _refusal(self, path: str, module: torch.nn.Module) -> NNsightError:
        name = next((name for name, other in self.modules.items() if other is module), "") or "the model itself"
        return NNsightError(
            f"{name} ({type(module).__name__}) was compiled by torch.compile, which ignores hooks, "
            f"so {path or 'what it takes and returns'} cannot be reached. Trace the model as it was before compiling."
        )

    def parameter(self, path: str) -> torch.Tensor:
        """The parameter or buffer at ``path``."""
        owner, _, name = path.rpartition(".")
        tensor: torch.Tensor = getattr(self.root.get_submodule(owner), name)
        return tensor
