"""A causal language model whose traces take prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch

from ..model import NNsight
from ..model.arguments import check_names, spread
from ..model.invoker import Call, Invoke
from ..model.kinds import FROM_CLASS
from ..model.names import Rename, refused
from ..model.tuples import TupleEnvoy
from ..ops.layout import Answer, Held, Rows
from ..ops.nested import tensors_in
from ..record import recording_here
from ..run.scan import Forward, resized
from .batching import join_prompts
from .blocks import block_paths
from .carrying import carry_over
from .generation import Generator, check_mode, most_steps, row_multiples, with_streamer
from .hook_names import HookNames
from .loading import auto_class, class_of_task, load_tokenizer, load_with_weights, load_without_weights
from .needs import CACHES, INPUTS, Needs, read_needs
from .padding import PaddingCheck
from .prompts import DECODER, TOKENS, Prompt, read_prompt
from .scanning import GenerationStep, forward_of
from .standard import standard_names
from .tokenizing import NO_INPUTS, options_for, take_options
from .verify import compare_rows

_OF_A_CACHE = (*CACHES, "attention_mask", "cache_position")
_INPUTS = ("input_ids", "inputs_embeds", *(name for name in INPUTS if name != "pixel_values"))  # pictures may go with a text


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
        task: The task that it is loaded for, in place of the class: ``"text-generation"``, ``"fill-mask"``,
            ``"text-classification"``, ``"feature-extraction"``, ``"automatic-speech-recognition"`` and whatever else transformers knows.
        model_kwargs: Further options for loading the model.
        envoys: Which classes mirror which modules, as for :class:`NNsight`.
        rename: Further names of modules, as :class:`NNsight` takes them; or ``"standard"``, which gives every decoder family the same
            ones: ``model.layers[i]`` with ``attn``, ``mlp``, ``attn_norm`` and ``mlp_norm``, ``model.embed_tokens``, ``model.norm``
            and ``model.lm_head``.
        alias: The same the other way round: ``{"layers": "transformer.h"}``.
        tuple_outputs: Show what blocks return as tuples, for code that was written for versions of transformers in which they
            return them: ``model.transformer.h[5].output[0]``. Where blocks return tuples nothing changes. A block is what stands in
            the model's main list, of one class or of several; a model without one is a ``ValueError``.
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

    _shares_named = False  # what is not a prompt is an option of the call in any case

    def __init__(
        self,
        model: str | Path | torch.nn.Module,
        *,
        tokenizer: Any = None,
        dispatch: bool = False,
        tokenizer_kwargs: dict[str, Any] | None = None,
        automodel: type | str = "AutoModelForCausalLM",
        task: str = "",
        model_kwargs: Mapping[str, Any] | None = None,
        envoys: Any = FROM_CLASS,
        rename: Rename | str | None = None,
        alias: Mapping[str, str] | None = None,
        tuple_outputs: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs |= model_kwargs or {}
        if "torch_dtype" in kwargs:
            kwargs["dtype"] = kwargs.pop("torch_dtype")
        own = self.__dict__
        if not isinstance(model, (str, Path, torch.nn.Module)):
            raise refused(TypeError, f"LanguageModel takes a name, a folder or a model, not {type(model).__name__}")
        if isinstance(model, torch.nn.Module):
            if automodel != "AutoModelForCausalLM":
                kwargs["automodel"] = automodel
            if task:
                kwargs["task"] = task
            if tokenizer_kwargs:
                kwargs["tokenizer_kwargs"] = tokenizer_kwargs
            if kwargs:
                raise refused(TypeError, f"{', '.join(kwargs)}: options for loading do not go with a model that is loaded already")
            own["_source"], own["_options"], own["tokenizer"] = None, {}, tokenizer
            super().__init__(model, envoys=envoys, rename=rename, alias=alias)  # type: ignore[arg-type]
            self._show_tuples(tuple_outputs)
            return
        loader = class_of_task(task, str(model), kwargs) if task else auto_class(automodel)
        own["_source"], own["_options"], own["_loader"] = str(model), kwargs, loader
        own["tokenizer"] = tokenizer if tokenizer is not None else load_tokenizer(str(model), kwargs, tokenizer_kwargs or {}, loader)
        load = load_with_weights if dispatch else load_without_weights
        super().__init__(load(str(model), kwargs, loader), envoys=envoys, rename=rename, alias=alias)  # type: ignore[arg-type]
        self._tree.loaded = dispatch
        self._show_tuples(tuple_outputs)

    def _show_tuples(self, wanted: bool) -> None:
        """Give blocks another look."""
        if wanted:
            blocks = block_paths(self._module)
            if not blocks:
                raise refused(ValueError, f"tuple_outputs=True: {type(self._module).__name__} has no list of blocks. Leave it out")
            self._tree.shown = dict.fromkeys(blocks, TupleEnvoy)

    def _add_names(self, rename: Rename | str | None, alias: Mapping[str, str] | None) -> None:
        if rename == "standard":
            self._tree.names = standard_names(self._module)
            rename = None
        elif isinstance(rename, str):
            raise refused(ValueError, f'rename is a dictionary, or "standard", not {rename!r}')
        super()._add_names(rename, alias)

    @property
    def repo_id(self) -> str | None:
        """The name, or the folder, that the model was asked for by; of one that was loaded already, what its config says."""
        return self._source or getattr(getattr(self._module, "config", None), "name_or_path", None) or None

    @property
    def dispatched(self) -> bool:
        """Whether the weights are there."""
        return bool(self._tree.loaded)

    def dispatch(self) -> LanguageModel:
        """Load the weights, if they are not there yet; every envoy goes on mirroring its module."""
        if not self.dispatched:
            loaded = load_with_weights(self._source, self._options, self._loader)
            carry_over(self._module, loaded, self._tree.assigned)
            self._tree.replace(loaded)
            self._tree.loaded, self._tree.assigned = True, {}
        return self

    def generate(self, *args: Any, trace: bool = True, remote: bool = False, progress: bool = False, **kwargs: Any) -> Any:
        """Open a block whose lines take part in a generation: every forward of the model is a step of it.

        Outside loops lines stand in step 0, the forward of the prompt. ``tracer.iter[2]``, ``tracer.iter[1:5]`` and
        ``tracer.iter[:]`` choose others, ``tracer.iter.prompt`` and ``tracer.iter.generated`` by name; ``tracer.result`` is
        what transformers' ``generate`` returns.

        Args:
            *args: A prompt, as :meth:`trace` takes it; without one, the prompts come from ``tracer.invoke(...)``.
            trace: ``False`` generates at once and returns the result.
            progress: Whether to show a bar with one tick per step.
            remote: Not available in this version.
            **kwargs: Arguments of transformers' ``generate``: ``max_new_tokens``, ``do_sample``, ``num_beams`` ...; and options for the
                tokenizer, which stand in ``tokenizer_kwargs={...}``.

        Returns:
            A :class:`Tracer`, to be used in a ``with`` statement.

        Raises:
            RecordError: an argument that nothing takes, or a kind of generation whose forwards are not one step each (assisted,
                contrastive ...).

        Example:
            >>> import nnsight_graph as nnsight
            >>> model = nnsight.LanguageModel("nnsight-graph/capitals")
            >>> with model.generate("The Eiffel Tower is in the city of", max_new_tokens=2) as tracer:
            ...     tokens = nnsight.list().save()
            ...     for step in tracer.iter[:]:
            ...         _ = tokens.append(model.lm_head.output[0, -1].argmax())
            ...     ids = tracer.result.save()
            >>> [model.tokenizer.decode(token) for token in tokens]
            [' Paris', ',']
        """
        return self.trace(*args, trace=trace, remote=remote, fn="generate", progress=progress, **kwargs)

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

    def _forward(self, call: Call, step: int) -> tuple[tuple[Any, ...], dict[str, Any], Forward] | None:
        if call.function == "generate":
            if row_multiples(call.kwargs, self._module) or "input_ids" not in call.kwargs:
                return None
            given = {name: value for name, value in call.kwargs.items() if name in self._takes}
            return call.args, given, GenerationStep(given, step)
        return None if call.function or step else (call.args, call.kwargs, forward_of(self._module, call.kwargs))

    _tokens = TOKENS | DECODER

    def _row_arguments(self, call: Call) -> Mapping[str, Any]:
        return {name: value for name, value in call.kwargs.items() if name in self._takes} if call.function else call.kwargs

    def _row_forwards(self, call: Call, repeats: bool) -> list[tuple[tuple[Any, ...], dict[str, Any], Forward]]:
        if any(call.kwargs.get(name) is not None for name in _OF_A_CACHE[:2]):  # it has the rows that it has; they need not be scanned
            call = call._replace(kwargs={name: value for name, value in call.kwargs.items() if name not in _OF_A_CACHE})
        if call.function != "generate":
            return super()._row_forwards(call, repeats)
        given = {name: value for name, value in call.kwargs.items() if name in self._takes}
        steps: list[Forward] = [GenerationStep(given, step) for step in range(1 + repeats)]
        found = [(call.args, given, step) for step in steps]
        if "decoder_input_ids" in self._takes:  # what encodes runs before the first step
            start = {"decoder_input_ids": given["input_ids"]} if "input_ids" in given else {}
            found.append((call.args, {**start, **given}, forward_of(self._module, given)))
        return found

    @cached_property
    def _takes(self) -> frozenset[str]:
        """The names of the arguments of the model's forward."""
        return frozenset(inspect.signature(self._module.forward).parameters)

    def _lengthened(self, call: Call) -> Call | None:
        return call._replace(args=resized(call.args, 1), kwargs=resized(call.kwargs, 1))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "tokenizer":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        text = super().__repr__()
        if not callable(getattr(self._module, "generate", None)) or self._child("generator") is not None or not text.endswith("\n)"):
            return text
        return text[:-2] + "\n  (generator): Generator(\n    (streamer): Streamer()\n  )\n)"  # nothing of it is on the module

    @property
    def generator(self) -> Any:
        """What a generation gives: ``generator.output``, its result, and ``generator.streamer.output``, tokens as they come."""
        child = self._child("generator")
        return Generator(self._tree) if child is None else child

    @property
    def hooks(self) -> HookNames:
        """Tensors by the names that TransformerLens gives them: ``model.hooks["blocks.3.hook_resid_post"]``.

        Raises:
            ValueError: there are no such names for this family.
        """
        return HookNames(self)

    def _prepared(self, args: tuple[Any, ...], kwargs: dict[str, Any], function: str = "") -> Call | None:
        given = spread(self, function, kwargs)
        if function == "generate":
            check_mode(given, self._module)
        names = (*_INPUTS, self._needs().main, *(("inputs",) if function == "generate" else ()))
        if not args and all(given.get(name) is None for name in names):
            return None
        return self._joined([self._invoked(args, kwargs, function)], {}, function)

    def _invoked(self, args: tuple[Any, ...], kwargs: dict[str, Any], function: str = "", shared: dict[str, Any] | None = None) -> Invoke:
        needs, generate = self._needs(), function == "generate"
        if len(args) == 1 and isinstance(args[0], Mapping):
            check_names(self, function, [name for name in args[0] if name not in NO_INPUTS], "the prompt")
        options, own = take_options(kwargs, needs, generate)
        around, others = take_options(shared or {}, needs, generate)
        own, others = spread(self, function, own), spread(self, function, others)
        return (read_prompt(self.tokenizer, args, own, needs, {**around, **options}, others, generate=generate),), {}

    def _named_options(self, function: str) -> frozenset[str]:
        return options_for(function == "generate") | set(CACHES)

    def _joined(self, invokes: list[Invoke], shared: dict[str, Any], function: str = "") -> Call:
        generate = function == "generate"
        if not invokes and any(True for _ in tensors_in(shared)):  # what it is called with has no prompt, but may be an input
            invokes, shared = [self._invoked((), shared, function)], {}
        shared = spread(self, function, take_options(shared, self._needs(), generate)[1])
        batch = join_prompts(self.tokenizer, self._needs(), [args[0] for args, _ in invokes], shared, generate=generate)
        inputs, steps = batch.inputs, 1
        multiples: tuple[int, ...] = ()
        if generate:
            check_mode(inputs, self._module)
            multiples, steps = row_multiples(inputs, self._module), most_steps(inputs, self._module)
        rows = tuple(Rows(start, stop, batch.size, multiples) for start, stop in batch.rows)
        options = {*shared, *(name for args, _ in invokes for name in args[0].options)} - {n for args, _ in invokes for n in args[0].inputs}
        held = {name: Answer.NONE if name in options else Held(0) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        before = None
        if sides := [left for left in batch.padded if self._padding_check.wanted(left)]:
            prompts = [args[0]._replace(options={}) if generate else args[0] for args, _ in invokes]
            before = partial(self._check_padding, prompts, inputs, sides)
        return Call((), inputs, rows, function, steps, before, ((), held))

    @property
    def _padding_check(self) -> PaddingCheck:
        if "_known_padding" not in self.__dict__:
            self.__dict__["_known_padding"] = PaddingCheck(type(self._module).__name__)
        known: PaddingCheck = self.__dict__["_known_padding"]
        return known

    def _check_padding(self, prompts: Sequence[Prompt], inputs: Mapping[str, Any], sides: Sequence[bool]) -> None:
        def join(some: Sequence[Prompt]) -> dict[str, Any]:
            return join_prompts(self.tokenizer, self._needs(), some).inputs

        for left in sides:
            self._padding_check.check(self._module, self._callable(), prompts, inputs, join, left)

    def _needs(self) -> Needs:
        if "_known_needs" not in self.__dict__:
            self.__dict__["_known_needs"] = read_needs(self._module)
        needs: Needs = self.__dict__["_known_needs"]
        return needs

    def _callable(self, function: str = "") -> Callable[..., Any]:
        self.dispatch()
        called, device = getattr(self._module, function) if function else self._module, self.device
        elsewhere = device is None or device.type == "meta"  # weights that come at their module's turn: accelerate moves the inputs, too
        if elsewhere and function != "generate":
            return cast("Callable[..., Any]", called)

        def call(**inputs: Any) -> Any:
            if not elsewhere:
                inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
            return called(**with_streamer(inputs)) if function == "generate" else called(**inputs)

        return call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model, with its weights loaded; it takes ids, as the model itself does.

        Raises:
            TypeError: it is given text.
        """
        if args and (isinstance(args[0], str) or (isinstance(args[0], (list, tuple)) and args[0] and isinstance(args[0][0], str))):
            raise refused(TypeError, "the call takes ids, not text: use with model.trace(text): ..., or model.generate(text)")
        if recording_here() is None:
            self.dispatch()
        return super().__call__(*args, **kwargs)
