"""``model.hooks["blocks.3.hook_resid_post"]``: tensors by the names that TransformerLens gives them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import RecordError, ours
from . import hook_table as table
from .hook_table import HOOKS, Hooks, Place
from .standard import family_of, inner_path, layers_path

if TYPE_CHECKING:
    from .language_model import LanguageModel

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_ATTENTION = {"hook_attn_scores": table.SCORES, "hook_result": table.SWITCHED}
_INPUTS = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input", "hook_mlp_in")


class HookNames:
    """The tensors of a model by their TransformerLens names, inside a trace: read, edited in place, or assigned.

    A name is there where it denotes the same tensor as in a TransformerLens model that was loaded without processing; where it would
    be another, an error says why and what to use. Iterating gives the names that are there.

    Example:
        >>> from nnsight_graph import LanguageModel
        >>> model = LanguageModel("nnsight-graph/capitals")
        >>> with model.trace("The Eiffel Tower is in the city of"):
        ...     model.hooks["blocks.2.hook_mlp_out"][:] = 0
        ...     stream = model.hooks["blocks.7.hook_resid_post"].save()
        >>> stream.shape
        torch.Size([1, 11, 96])
    """

    _record_assignment = True

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        module = model._module
        attention = family_of(module).block["attn"]  # raises where there are no names
        config: Any = module.config
        self._hooks: Hooks = HOOKS[config.model_type]
        self._block = {**self._hooks.block, "attn.hook_pattern": Place(attention, "attention_weights")}
        self._layers, self._inner = layers_path(module), inner_path(module)
        self._count = len(module.get_submodule(self._layers)._modules)
        self._refused = {**self._hooks.refused, **self._of_config(config)}

    @staticmethod
    def _of_config(config: Any) -> dict[str, str]:
        """Names that the config of a model makes denote something else."""
        if getattr(config, "do_layer_norm_before", True) is False:
            return dict.fromkeys(("*",), table.POST_NORM)
        if config.model_type == "gpt_neox" and config.use_parallel_residual:
            return {"hook_resid_mid": table.PARALLEL}
        if getattr(config, "add_cross_attention", False):
            return {"hook_resid_mid": table.CROSS}
        return {"hook_resid_mid": table.POST_NORM} if getattr(config, "apply_residual_connection_post_layernorm", False) else {}

    def __getitem__(self, name: str) -> Any:
        envoy, place = self._found(name)
        return getattr(envoy, place.point)

    def __setitem__(self, name: str, value: Any) -> None:
        envoy, place = self._found(name)
        if place.shared:
            getattr(envoy, place.point)[:] = value
        else:
            setattr(envoy, place.point, value)

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._hooks.around if self._reason(name, "") is None)
        for number in range(self._count):
            yield from (f"blocks.{number}.{name}" for name in self._block if self._reason(name, "") is None)

    def __contains__(self, name: object) -> bool:
        return any(name == each for each in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        around = [name for name in self if not name.startswith("blocks.")]
        inside = [f"blocks.i.{name}" for name in self._block if f"blocks.0.{name}" in self]
        return f"HookNames({', '.join([*around, *inside])}; i from 0 to {self._count - 1})"

    def _found(self, name: str) -> tuple[Any, Place]:
        """The module and the point that a name stands for.

        Raises:
            KeyError: nobody calls anything so.
            IndexError: there is no such block.
            RecordError: it would be another tensor.
        """
        match = _BLOCK.fullmatch(name)
        number, below = (int(match[1]), match[2]) if match else (-1, name)
        if number >= self._count:
            raise ours(IndexError, f"{name}: the model has {self._count} blocks, from 0 to {self._count - 1}")
        path = f"{self._layers}.{number}"
        reason = self._reason(below, path)
        if reason is not None:
            raise RecordError(f"{name} denotes no tensor of {type(self._model._module).__name__}: {reason}.")
        place = (self._block if match else self._hooks.around).get(below)
        if place is None:
            near = difflib.get_close_matches(name, list(self), 3, 0.5)
            raise ours(KeyError, f"there is no hook {name!r}. Near: {', '.join(near)}" if near else f"there is no hook {name!r}; {self!r}")
        if match:
            return self._model._at(f"{path}.{place.module}" if place.module else path), place
        return self._model._at(f"{self._layers}.0" if place.module == "0" else self._inner + place.module), place

    def _reason(self, below: str, path: str) -> str | None:
        """Why a name denotes something else here, or nothing; ``None`` if it does not."""
        hooks = self._hooks
        start, _, last = below.rpartition(".")
        why = self._refused.get("*") or self._refused.get(below)
        if why is None and start == "attn":
            why = self._of_attention(last)
        elif why is None and start in hooks.norms:
            norm = f"{path}.{hooks.norms[start]}" if start != "ln_final" else self._inner + hooks.norms[start]
            why = {"hook_normalized": table.NORMALIZED, "hook_scale": table.SCALE}.get(last, "").format(norm) or None
        elif why is None and below in _INPUTS:
            why = table.SWITCHED
        return None if why is None else why.replace("{block}", path).replace("{inner}", self._inner)

    def _of_attention(self, last: str) -> str | None:
        heads, short = self._hooks.heads, last.removeprefix("hook_")
        if short in heads:
            one = {"q": "the queries", "k": "the keys", "v": "the values", "z": "what comes out"}[short]
            what = "queries, keys and values" if short != "z" and heads["q"] == heads["k"] else one
            return table.HEADS.replace("{0}", heads[short]).replace("{1}", what)
        if short in ("rot_q", "rot_k"):
            return table.ROTATED.replace("{0}", heads[short[-1]])
        return _ATTENTION.get(last)
