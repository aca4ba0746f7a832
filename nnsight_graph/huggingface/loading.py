"""Names -> tokenizers and models, by transformers; and the models that come with the library."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.overrides import _get_current_function_mode_stack
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging

from ..errors import ours
from ..record.opened import set_modes

_SHIPPED = Path(__file__).parent / "models"
_TAKEN = re.compile(r"""["'](\w+)["']""")
_PREFIX = "nnsight-graph/"
_OF_LOADING = ("config", "attn_implementation", "dtype", "device_map", "quantization_config", "offload_folder", "max_memory")
_HUB_OPTIONS = ("revision", "token", "cache_dir", "trust_remote_code", "local_files_only", "subfolder", "force_download", "proxies")


def shipped_models() -> list[str]:
    """The names of the models that need no network.

    >>> shipped_models()
    ['nnsight-graph/capitals']
    """
    return sorted(_PREFIX + folder.name for folder in _SHIPPED.iterdir() if (folder / "config.json").exists())


def resolve(name: str) -> str:
    """The folder of a shipped model; any other name as it is.

    Raises:
        ValueError: a name that looks like a shipped model's, but is none.
    """
    if not name.startswith(_PREFIX):
        return name
    folder = _SHIPPED / name.removeprefix(_PREFIX)
    if not (folder / "config.json").exists():
        raise ours(ValueError, f"{name!r} is not shipped with the library; what is: {', '.join(shipped_models())}")
    return str(folder)


def hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those of ``options`` that say where files come from."""
    return {name: options[name] for name in _HUB_OPTIONS if name in options}


def load_tokenizer(name: str, options: dict[str, Any], tokenizer_options: dict[str, Any], loader: Any) -> Any:
    """The tokenizer of a model; for a causal model it pads on the left, so that ``[:, -1]`` is the last token of every row."""
    side = {"padding_side": "left"} if "CausalLM" in loader.__name__ else {}
    return AutoTokenizer.from_pretrained(resolve(name), **{**side, **hub_options(options), **tokenizer_options})


def auto_class(wanted: type | str) -> Any:
    """The class of transformers that loads a kind of model.

    >>> auto_class("AutoModelForMaskedLM").__name__
    'AutoModelForMaskedLM'
    """
    found = getattr(transformers, wanted, None) if isinstance(wanted, str) else wanted
    if found is None:
        raise ours(ValueError, f"transformers {transformers.__version__} has no {wanted!r}")
    return found


_SEQ2SEQ = "AutoModelForSeq2SeqLM"
_TASKS = {
    "text2text-generation": _SEQ2SEQ, "summarization": _SEQ2SEQ, "translation": _SEQ2SEQ, "seq2seq": _SEQ2SEQ,
    "question-answering": "AutoModelForQuestionAnswering", "image-to-text": "AutoModelForImageTextToText",
}  # fmt: skip
"""Tasks that transformers 5 has no pipeline for any more."""


def class_of_task(task: str, name: str, options: dict[str, Any]) -> Any:
    """The class of transformers that loads a model for a task: ``"fill-mask"``, ``"text-classification"`` and so on.

    Raises:
        ValueError: transformers knows no such task.
    """
    if task in _TASKS:
        return auto_class(_TASKS[task])
    tasks = transformers.pipelines.PIPELINE_REGISTRY  # imported now: it takes its time
    try:
        classes = tasks.check_task(task)[1]["pt"]
    except KeyError:
        known = sorted({*_TASKS, *tasks.get_supported_tasks()})
        near = difflib.get_close_matches(task, known, 3)
        raise ours(ValueError, f"transformers has no task {task!r}; {'near: ' + ', '.join(near) if near else ', '.join(known)}") from None
    if len(classes) == 1:
        return classes[0]
    config = options.get("config") or AutoConfig.from_pretrained(resolve(name), **hub_options(options))
    return next((each for each in classes if type(config) in each._model_mapping), classes[0])


def load_without_weights(name: str, options: dict[str, Any], loader: Any) -> torch.nn.Module:
    """The model with its parameters on the meta device: all modules, no memory."""
    where = hub_options(options)
    changes = {key: value for key, value in options.items() if key not in (*where, *_OF_LOADING)}
    config = options.get("config")
    if config is None:
        config, unused = AutoConfig.from_pretrained(resolve(name), **where, **changes, return_unused_kwargs=True)
        _refuse_unknown(set(unused) & set(changes), "trust_remote_code" in where)
    built: dict[str, Any] = {}
    if options.get("attn_implementation") is not None:
        built["attn_implementation"] = options["attn_implementation"]
    if options.get("dtype") not in (None, "auto"):
        built["dtype"] = options["dtype"]
    elif options.get("dtype") is None and int(transformers.__version__.split(".")[0]) < 5:
        built["dtype"] = torch.float32  # what it loads weights in, whatever the file has
    if "trust_remote_code" in where:
        built["trust_remote_code"] = where["trust_remote_code"]
    build = getattr(loader, "from_config", None) or loader._from_config  # a model's own class has only the latter
    modes = _get_current_function_mode_stack()
    try:
        with torch.device("meta"):
            model: torch.nn.Module = build(config, **built)
    finally:
        set_modes(modes)  # an interrupt may come at the edge of the block
    return model.eval()


def _refuse_unknown(names: set[str], own_code: bool) -> None:
    """Raise for options that neither the config nor ``from_pretrained`` knows, where that can be told before loading.

    Raises:
        TypeError: names them.
    """
    load = transformers.PreTrainedModel.from_pretrained
    known = set(inspect.signature(load).parameters) | set(_TAKEN.findall(inspect.getsource(load)))
    unknown = sorted(name for name in names - known if not name.startswith("load_in_"))
    if unknown and not own_code:  # a model with code of its own may take anything
        near = [match for name in unknown for match in difflib.get_close_matches(name, known, 1)]
        raise ours(TypeError, f"nothing takes the option {', '.join(unknown)}" + (f"; near: {', '.join(near)}" if near else ""))


def load_with_weights(name: str, options: dict[str, Any], loader: Any) -> torch.nn.Module:
    """The model itself."""
    shown = logging.is_progress_bar_enabled() and not name.startswith(_PREFIX)  # a shipped model is there at once
    with _progress(shown):
        model: torch.nn.Module = loader.from_pretrained(resolve(name), **options)
    return model


@contextlib.contextmanager
def _progress(shown: bool) -> Iterator[None]:
    before = logging.is_progress_bar_enabled()
    try:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
        yield
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()
