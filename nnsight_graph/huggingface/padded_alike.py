"""Classes of transformers that give padded prompts the numbers that they get alone: found by running them, see tests/huggingface."""

PADDED_ALIKE = frozenset(
    """GPT2LMHeadModel LlamaForCausalLM OPTForCausalLM BloomForCausalLM GPTNeoXForCausalLM BertForMaskedLM RobertaForMaskedLM
    T5ForConditionalGeneration BartForConditionalGeneration""".split()
)
