"""What a model's forward wants of a batch: read once from its class, its config and its modules, also on the meta device."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Any, Literal

import torch

CACHES = ("cache", "past_key_values", "cache_params")
"""The names of a KV cache among the arguments of a forward, in transformers 4 and 5."""
INPUTS = ("input_features", "input_values", "pixel_values", "encoder_outputs", "decoder_input_ids", "decoder_inputs_embeds")
"""What a forward may take in place of tokens."""

_TABLES = frozenset({"wpe", "embed_positions", "position_embedding", "position_embeddings", "positions_embed", "embed_position"})
_COUNT_THE_MASK = frozenset({"opt"})  # numbers the ones of the attention mask, in transformers 4.57 and 5
_COUNT_THE_IDS = frozenset({"fsmt", "m2m_100", "nllb-moe", "seamless_m4t", "seamless_m4t_v2"})  # all that are not the padding token
_NUMBER_ALWAYS = frozenset({"reformer"})  # takes position_ids, but pads its input itself, and those wrongly
_SHIFT_THE_INPUT = frozenset({"bart", "mbart", "plbart", "mvp", "led", "bigbird_pegasus", "fsmt"})
_LONGEST = ("max_position_embeddings", "max_encoder_position_embeddings", "max_source_positions", "max_target_positions")
_NEXT_TOKEN = re.compile(r"(ForCausalLM|LMHeadModel|ConditionalGeneration)$")
_LABELS_STAY = frozenset({"XLNetLMHeadModel", "XLMWithLMHeadModel", "FlaubertWithLMHeadModel"})


@dataclass(frozen=True)
class Needs:
    """What has to be known about a model to join prompts for it.

    Attributes:
        name: The family, for messages.
        takes: The names of the forward's parameters; ``None`` where nothing is known, and anything may be passed.
        positions: Who numbers the tokens. ``"index"``: the model, by column, unless ``position_ids`` says otherwise (GPT-2,
            Llama, GPT-NeoX, BERT). ``"mask"``: the model, by counting the attention mask (OPT). ``"ids"``: the model, by counting
            the token ids that are not its padding token (M2M-100). ``None``: positions are relative (T5), follow from the mask
            (BLOOM), or cannot be given (BART).
        first: The number of a row's first token, 0 but for RoBERTa's relatives.
        limit: The most tokens of a row, where positions are looked up in a table that ends; ``None`` where they are not.
        left: Whether a row padded on its left can give the numbers of the row alone.
        shifts: Whether labels are compared with the prediction of the column before.
        decoder: Where an encoder-decoder's decoder input comes from if the user gives none: ``"start"`` (from
            :attr:`start`), ``"own"`` (the model shifts its input). ``None`` for other models.
        start: The token a decoder starts from.
        pad: The config's padding token.
        vocabulary: How many tokens the model knows.
        main: The name of what the forward takes first.
        cache: The name that it has for a KV cache; ``None`` where it takes none.
    """

    name: str = "the model"
    takes: frozenset[str] | None = None
    positions: Literal["index", "mask", "ids"] | None = None
    first: int = 0
    limit: int | None = None
    left: bool = True
    shifts: bool = False
    decoder: Literal["start", "own"] | None = None
    start: int | None = None
    pad: int | None = None
    vocabulary: int | None = None
    main: str = "input_ids"
    cache: str | None = None

    def accepts(self, name: str) -> bool:
        """Whether the forward has a parameter of that name, as far as is known."""
        return self.takes is None or name in self.takes


def read_needs(model: torch.nn.Module) -> Needs:
    """What ``model`` wants of a batch; its weights are not looked at. Walks all modules: keep the result.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> needs = read_needs(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16, n_positions=32)))
    >>> needs.positions, needs.limit, needs.decoder
    ('index', 32, None)
    """
    inner: Any = getattr(model, "get_base_model", None)  # PEFT: its own forward hides the parameters
    model = inner() if inner is not None else model
    config, kind = getattr(model, "config", None), type(model).__name__
    parameters = inspect.signature(type(model).forward).parameters  # of the class: a run may have replaced the instance's
    main = getattr(model, "main_input_name", "input_ids")
    main = main if isinstance(main, str) else "input_ids"
    unnamed = not any(name in parameters for name in ("input_ids", "inputs_embeds", main, *INPUTS))
    takes_more = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    open_ended = unnamed and takes_more
    takes = frozenset() if open_ended else frozenset(parameters)
    family = str(getattr(config, "model_type", kind))
    table, positions = _position_table(model, config), _positions(family, takes)
    first, limit = (0, None) if table is None else _numbering(table, config)
    return Needs(
        name=family,
        takes=None if open_ended else takes,
        positions=positions,
        first=first,
        limit=limit,
        left=positions is not None or not _counts_columns(config, table),
        shifts=bool(_NEXT_TOKEN.search(kind)) and kind not in _LABELS_STAY and "decoder_input_ids" not in takes,
        decoder=_decoder(family, kind, takes),
        start=_token(getattr(config, "decoder_start_token_id", None)),
        pad=_token(getattr(config, "pad_token_id", None)),
        vocabulary=_token(getattr(config, "vocab_size", None)),
        main=main,
        cache=_cache(model if takes_more else None, takes),
    )


def _cache(model: torch.nn.Module | None, takes: frozenset[str]) -> str | None:
    """The name of a KV cache: of the forward itself, or of one in ``model``, that it hands its other arguments on to."""
    within = [] if model is None else [module for module in model.modules() if hasattr(module, "config")]
    names = (takes, *(inspect.signature(type(module).forward).parameters for module in within))
    return next((name for one in names for name in CACHES if name in one), None)


def _positions(family: str, takes: frozenset[str]) -> Literal["index", "mask", "ids"] | None:
    if family in _COUNT_THE_IDS:
        return "ids"
    if "position_ids" not in takes or family in _NUMBER_ALWAYS:
        return None
    return "mask" if family in _COUNT_THE_MASK else "index"


def _decoder(family: str, kind: str, takes: frozenset[str]) -> Literal["start", "own"] | None:
    if "decoder_input_ids" not in takes:
        return None
    # T5's classes for classification and for answering questions feed the shifted input to the decoder, as all of BART does.
    return "own" if family in _SHIFT_THE_INPUT or kind.endswith(("SequenceClassification", "QuestionAnswering")) else "start"


def _position_table(model: torch.nn.Module, config: Any) -> Any:
    """The text's table of learned positions: as long as the config says, which a vision tower's is not."""
    longest = getattr(config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    for name, module in model.named_modules():
        is_table = hasattr(module, "padding_idx") and isinstance(getattr(module, "weight", None), torch.Tensor)  # I-BERT writes its own
        if is_table and name.rpartition(".")[2] in _TABLES and 0 <= _entries(module) - longest <= 2:
            return module
    return None


def _entries(table: Any) -> int:
    return int(table.weight.shape[0])


def _numbering(table: Any, config: Any) -> tuple[int, int]:
    """The position of a first token, and how many tokens there are positions for."""
    spare = _entries(table) - int(config.max_position_embeddings)
    offset = getattr(table, "offset", None)
    if isinstance(offset, int):  # OPT and BART: added inside the table
        return 0, _entries(table) - offset
    first = spare if table.padding_idx is None else table.padding_idx + 1  # RoBERTa counts on from its padding token's id
    return first, _entries(table) - first


def _counts_columns(config: Any, table: Any) -> bool:
    """Of models that take no position ids: whether columns are numbered from the batch's first, padding included."""
    configs = (config, getattr(config, "encoder", None))
    return table is not None or any((_token(getattr(each, name, None)) or 0) > 0 for each in configs for name in _LONGEST)  # XLNet says -1


def _token(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
