"""A causal language model whose traces take prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from ..errors import RecordError
from ..model import NNsight
from ..model.invoker import Call, Invoke
from ..ops.rows import Rows
from ..record import recording_here
from ..record.settled import plain
from .batching import join_prompts
from .loading import auto_class, load_tokenizer, load_with_weights, load_without_weights
from .needs import Needs, read_needs
from .prompts import read_prompt
from .verify import compare_rows

_INPUTS = ("input_ids", "inputs_embeds", "input_values", "input_features", "decoder_input_ids")


class LanguageModel(NNsight):
    """A language model of transformers, with its tokenizer.

    Args:
        model: A name on the hub, a folder, a shipped model (``"nnsight-graph/capitals"``), or a model that is loaded
            already.
        tokenizer: The tokenizer; by default the one that belongs to the name.
        dispatch: Load the weights now. By default they are loaded at the first run, and until then every parameter
            is on the meta device.
        tokenizer_kwargs: Options for loading the tokenizer, such as ``{"padding_side": "right"}``; a causal model's pads on the
            left by default, so that ``[:, -1]`` is the last token of every row.
        automodel: The class of transformers that loads the model, or its name: ``"AutoModelForMaskedLM"``,
            ``"AutoModelForSeq2SeqLM"``, ``"AutoModel"`` ...
        **kwargs: Options for loading the model: ``dtype`` (or ``torch_dtype``), ``device_map``,
            ``attn_implementation``, ``revision``, ``token`` and whatever else ``from_pretrained`` takes.

    Attributes:
        tokenizer: The tokenizer, or ``None`` for a model that was given without one.

    Example:
        >>> from nnsight_graph import LanguageModel
        >>> model = LanguageModel("nnsight-graph/capitals")
        >>> with model.trace("The Eiffel Tower is in the city of"):
        ...     token = model.lm_head.output[0, -1].argmax().save()
        >>> model.tokenizer.decode(token)
        ' Paris'
    """

    def __init__(
        self,
        model: str | Path | torch.nn.Module,
        *,
        tokenizer: Any = None,
        dispatch: bool = False,
        tokenizer_kwargs: dict[str, Any] | None = None,
        automodel: type | str = "AutoModelForCausalLM",
        **kwargs: Any,
    ) -> None:
        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        own = self.__dict__
        if not isinstance(model, (str, Path, torch.nn.Module)):
            raise TypeError(f"LanguageModel takes a name, a folder or a model, not {type(model).__name__}")
        if isinstance(model, torch.nn.Module):
            if automodel != "AutoModelForCausalLM":
                kwargs["automodel"] = automodel
            if tokenizer_kwargs:
                kwargs["tokenizer_kwargs"] = tokenizer_kwargs
            if kwargs:
                raise TypeError(f"{', '.join(kwargs)}: options for loading do not go with a model that is loaded already")
            own["_source"], own["_options"], own["tokenizer"] = None, {}, tokenizer
            super().__init__(model)
            return
        own["_source"], own["_options"], own["_loader"] = str(model), kwargs, auto_class(automodel)
        loader = own["_loader"]
        own["tokenizer"] = tokenizer if tokenizer is not None else load_tokenizer(str(model), kwargs, tokenizer_kwargs or {}, loader)
        super().__init__(load_with_weights(str(model), kwargs, loader) if dispatch else load_without_weights(str(model), kwargs, loader))
        own["_loaded"] = dispatch

    @property
    def dispatched(self) -> bool:
        """Whether the weights are there."""
        return self._source is None or bool(self.__dict__["_loaded"])

    def dispatch(self) -> LanguageModel:
        """Load the weights, if they are not there yet; every envoy goes on mirroring its module."""
        if not self.dispatched:
            self._tree.replace(load_with_weights(self._source, self._options, self._loader))
            self.__dict__["_loaded"] = True
        return self

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Transformers' own ``generate`` on token ids; traced generation is not part of this version.

        Raises:
            RecordError: it was called on text, as a traced generation would be.
        """
        if any(isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], str)) for value in args):
            raise RecordError("traced generation is not part of this version; on token ids, generate is transformers' own")
        self.dispatch()
        return self._module.generate(*plain(args), **plain(kwargs))

    def verify_batch(self, prompts: Sequence[Any], *, rtol: float = 1e-4, atol: float = 1e-5) -> list[float]:
        """Run prompts as one batch and each alone, and compare what the model returns for every token.

        Args:
            prompts: As ``tracer.invoke`` takes them.
            rtol: How far two numbers may lie apart, in parts of their size.
            atol: The same, absolutely.

        Returns:
            For each prompt the largest difference between the batch and the prompt alone.

        Raises:
            NNsightError: a difference is larger; names the prompt.

        Example:
            >>> from nnsight_graph import LanguageModel
            >>> model = LanguageModel("nnsight-graph/capitals")
            >>> differences = model.verify_batch(["The Colosseum is in the city of", "The Eiffel Tower is in the city of"])
            >>> max(differences) < 1e-4
            True
        """
        invokes = [self._invoked((prompt,), {}) for prompt in prompts]
        return compare_rows(self._callable(), invokes, lambda some: self._joined(list(some), {}), rtol, atol)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "tokenizer":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        if not args and not any(name in kwargs for name in _INPUTS):
            return None
        return self._joined([self._invoked(args, kwargs)], {})

    def _invoked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Invoke:
        return (read_prompt(self.tokenizer, args, kwargs, self._needs()),), {}

    def _joined(self, invokes: list[Invoke], shared: dict[str, Any]) -> Call:
        batch = join_prompts(self.tokenizer, self._needs(), [args[0] for args, _ in invokes], shared)
        width = max(length for args, _ in invokes for length in args[0].lengths)
        return Call((), batch.inputs, tuple(Rows(start, stop, batch.size, width) for start, stop in batch.rows))

    def _needs(self) -> Needs:
        if "_known_needs" not in self.__dict__:
            self.__dict__["_known_needs"] = read_needs(self._module)
        needs: Needs = self.__dict__["_known_needs"]
        return needs

    def _callable(self) -> Callable[..., Any]:
        self.dispatch()
        module, device = self._module, self.device
        if device is None or device.type == "meta":  # weights that come at their module's turn: accelerate moves the inputs, too
            return cast("Callable[..., Any]", module)

        def call(**inputs: Any) -> Any:
            return module(**{name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()})

        return call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, with its weights loaded."""
        if recording_here() is None:
            self.dispatch()
        return super().__call__(*args, **kwargs)
