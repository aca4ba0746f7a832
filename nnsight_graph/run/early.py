"""Whether a forward may be ended when all that a trace wants is there: only where nobody could tell, but by the time it takes."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from ..config import CONFIG
from ..parsing import parse
from .engine import Run
from .modules import ModuleIndex

_PLAIN = (torch.Tensor, str, int, float, bool, type(None), torch.dtype, torch.device)
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks")
_OWN_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_DRAWS = "rand|randn|randint|randperm|rand_like|randn_like|randint_like|bernoulli_?|multinomial|normal_?|uniform_|random_"
_DRAWING = re.compile(rf"\b({_DRAWS}|np\.random|random\.\w+|gumbel_softmax)\(")
_GROWING = ("dynamic", "longrope")  # positions that remember how long inputs have been
_DRAWING_LAYERS = ("FractionalMaxPool2d", "FractionalMaxPool3d")
_SETTING_UP = re.compile(r"__init__|_?init_.*|_?init|reset_parameters")


def end_early(run: Run, modules: ModuleIndex, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Let a forward end with its last visit, if what the model would do then has no effect that anybody could see.

    Args:
        run: The run, of a program that does not want what the model returns.
        modules: The model.
        args: The arguments of its call.
        kwargs: The named ones.
    """
    if _may_end(modules, args, kwargs):
        run.left = sum(visit.direction != "grad" for visit in run.plan.visits) - len(run.plan.virtual)


def _may_end(modules: ModuleIndex, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    switch = CONFIG.APP.AUTO_STOP
    if not switch or not _are_plain((*args, *kwargs.values())):
        return False
    if any(value for name, value in kwargs.items() if name.startswith("output_")):
        return False
    if any(getattr(torch_module, name) for name in _GLOBAL_HOOKS):
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        return False
    return all(not _is_watched(module) and (switch == "any" or _is_standard(module)) for module in modules.root.modules())


def _are_plain(values: Sequence[Any]) -> bool:
    """Whether the model could change none of its arguments for the caller: a KV cache, a list."""
    return all(_are_plain(value) if type(value) is tuple else isinstance(value, _PLAIN) for value in values)


def _is_watched(module: torch.nn.Module) -> bool:
    """Whether a module trains, or somebody else's code runs with it."""
    own = module.__dict__
    if own["training"] or own.get("inplace") is True or "_hf_hook" in own or "forward" in own:
        return True
    for name in _OWN_HOOKS:
        hooks = own.get(name)
        if hooks and any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks.values()):
            return True
    return False


def _is_standard(module: torch.nn.Module) -> bool:
    """Whether a module is torch's or transformers' own, holds plain parameters and draws no random numbers."""
    if module.__dict__.get("rope_type") in _GROWING or not _is_quiet(type(module)):  # type: ignore[arg-type]
        return False
    return {type(tensor) for tensor in module._parameters.values()} <= {torch.nn.Parameter, torch.Tensor, type(None)}


@functools.cache
def _is_quiet(kind: type) -> bool:
    """Whether a class of modules is torch's or transformers' own, and draws no random numbers."""
    home = kind.__module__
    if home.startswith("torch.nn.modules."):
        return kind.__name__ not in _DRAWING_LAYERS
    return home.startswith("transformers.") and not _draws(home)


@functools.cache
def _draws(home: str) -> bool:
    """Whether the code of a file may draw random numbers outside of training and of setting up."""
    try:
        text = inspect.getsource(sys.modules[home])
    except (OSError, KeyError):
        return True
    return bool(_DRAWING.search(text)) and bool(_DRAWING.search(ast.unparse(_Drawing().visit(parse(text)))))


class _Drawing(ast.NodeTransformer):
    """Leaves out of a program what sets modules up, and what runs in training alone."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        if _SETTING_UP.fullmatch(node.name):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if any(isinstance(part, ast.Attribute) and part.attr == "training" for part in ast.walk(node.test)):
            return node.orelse or ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.copy_location(ast.Pass(), node) if isinstance(node.value, ast.Constant) else node
