"""Classes of transformers that give padded prompts the numbers that they get alone: found by running them, see tests/huggingface."""

PADDED_ALIKE = frozenset(
    """GPT2LMHeadModel LlamaForCausalLM OPTForCausalLM BloomForCausalLM GPTNeoXForCausalLM BertForMaskedLM RobertaForMaskedLM
    T5ForConditionalGeneration BartForConditionalGeneration""".split()
)

# Attention in blocks, landmarks or hashes, cut by how long the batch is: every padded batch of these is checked.
BY_LENGTH = ("BigBird", "Funnel", "LED", "LongT5", "Longformer", "Mra", "Nystromformer", "PegasusX", "Perceiver", "Reformer", "Yoso")
