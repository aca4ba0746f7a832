"""What may stand in a file: the kinds of nodes, the reviewed operations with their keyword arguments, and attributes of model outputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ..graph.laws import LAWS
from ..ops import portable

_NOT = {
    "call": "call may not stand in a graph file",
    "cache": "a cache is no value of the program, and not kept in a file: save the values that you want",
}


FUNCTIONS = frozenset(("", "forward", "generate"))
"""The methods of a model that a file may call without being told that it may."""

GENERATE = frozenset(
    """input_ids inputs_embeds attention_mask position_ids token_type_ids decoder_input_ids decoder_attention_mask decoder_inputs_embeds
    max_length max_new_tokens min_length min_new_tokens early_stopping max_time do_sample num_beams num_beam_groups diversity_penalty
    temperature top_k top_p min_p top_h typical_p epsilon_cutoff eta_cutoff repetition_penalty encoder_repetition_penalty length_penalty
    no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids force_words_ids renormalize_logits forced_bos_token_id
    forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens sequence_bias
    guidance_scale num_return_sequences output_attentions output_hidden_states output_scores output_logits return_dict_in_generate
    pad_token_id bos_token_id eos_token_id decoder_start_token_id use_cache low_memory penalty_alpha dola_layers
    negative_prompt_ids negative_prompt_attention_mask""".split()
)
"""The arguments that a session from a file may give to ``generate``: numbers and tensors. None names code to load, as others do."""

GENERATE_ONLY = frozenset(
    """max_length max_new_tokens min_length min_new_tokens early_stopping max_time do_sample num_beams temperature top_k top_p min_p
    typical_p repetition_penalty length_penalty no_repeat_ngram_size num_return_sequences""".split()
)
"""Arguments of ``generate`` that no forward has."""

_MODES = re.compile(r"(grad=(True|False), inference=(True|False)(, (cpu|cuda|mps|xpu)=torch\.(float16|bfloat16|float32))*)?")


def name_refusal(target: str, names: Sequence[str]) -> str:
    """Why the words among a node's operands may not stand in a file: names of attributes, of methods, of modes; empty where they may.

    >>> name_refusal("bound", ["sum"]), name_refusal("under", ["grad=False, inference=False"])
    ('', '')
    >>> name_refusal("bound", ["__class__"])
    '.__class__ may not stand in a graph file: names that begin with an underscore lead out of the graph'
    """
    for name in names:
        if target == "bound" and not portable.is_portable("." + name):
            return portable.why_not("." + name)
        if target == "setattr" and name not in ("None", "True", "False") and (not name.isidentifier() or name[0] == "_" or name == "data"):
            return f"an attribute {name[:50]!r} may not be set in a graph file"
        if target == "under" and not _MODES.fullmatch(name):
            return f"{name[:100]!r} are no modes"
        if target == "trace" and name and (not name.isidentifier() or name[0] == "_"):
            return f"a graph file may not call {name[:50]!r} of a model"
    return ""


@lru_cache(4096)
def refusal(target: str, keywords: tuple[str, ...], count: int = 0) -> str:
    """Why a node of this kind, with these keyword arguments and ``count`` others, may not stand in a file; empty where it may.

    An attribute that no tensor has is one of a model's output; none begins with an underscore.

    >>> refusal("torch.sum", ("dim",)), refusal("@logits", ())
    ('', '')
    >>> refusal("torch.sum", ("out",))
    "torch.sum takes no keyword argument 'out' in a graph file"
    """
    if target in LAWS:
        return _NOT.get(target, "")
    if target[:1] == "@" and not portable.is_reviewed(target):
        plain = target[1:].isidentifier() and target[1] != "_" and not portable.is_reviewed("." + target[1:])  # else it is a method
        return "" if plain and not keywords else portable.why_not(target)
    most = portable.most_arguments(target)
    if most is not None and count > most and portable.is_portable(target):
        return f"{target} takes {most} arguments in a graph file, and not {count}"
    wrong = [name for name in keywords if name not in portable.keywords_of(target)]
    return portable.why_not(target) or (f"{target} takes no keyword argument {wrong[0]!r} in a graph file" if wrong else "")
