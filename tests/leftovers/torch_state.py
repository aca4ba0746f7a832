"""All of torch that a test may not change: modes, switches, replaced functions, hooks."""

from __future__ import annotations

import torch

from tests.leftovers.modules import KnownModules
from tests.leftovers.namespaces import Namespaces

FAKE = torch._C._TorchDispatchModeKey.FAKE


def switches() -> dict[str, object]:
    return {
        "the stack of torch function modes": torch._C._len_torch_function_stack(),
        "the stack of torch dispatch modes": torch._C._len_torch_dispatch_stack(),
        "the fake tensor mode": torch._C._get_dispatch_mode(FAKE),
        "the hooks for saved tensors": torch._C._autograd._top_saved_tensors_default_hooks(True),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.is_inference_mode_enabled()": torch.is_inference_mode_enabled(),
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.is_autocast_enabled('cpu')": torch.is_autocast_enabled("cpu"),
        "torch._guards.TracingContext": torch._guards.TracingContext.try_get(),
    }


class TorchState:
    """One for the whole session, made before the package is imported: so what its import replaces is found by the first test."""

    def __init__(self) -> None:
        self.modules = KnownModules()
        self.namespaces = Namespaces()
        self.namespaces.replaced()

    def end_of_test(self, before: dict[str, object], thorough: bool = True) -> list[str]:
        """Lines about what the test left behind; `before` are the switches at its beginning. The rest can wait for the end of the file."""
        after = switches()
        changed = [f"{name} changed: {before[name]!r} -> {after[name]!r}" for name in before if before[name] != after[name]]
        return changed + (self.namespaces.replaced() + self.modules.leftovers() if thorough else [])

    def end_of_file(self) -> list[str]:
        """The same for the whole file, and for the modules that only a search through memory finds."""
        self.modules.search_memory()
        return self.namespaces.replaced() + self.modules.leftovers()
