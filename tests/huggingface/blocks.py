"""The first block of every family, and what it passes on: a tensor or a tuple, depending on the family and on transformers."""

from __future__ import annotations

from typing import Any

import torch

BLOCKS = {
    "gpt2": "transformer.h.0",
    "llama": "model.layers.0",
    "opt": "model.decoder.layers.0",
    "bloom": "transformer.h.0",
    "gpt_neox": "gpt_neox.layers.0",
    "bert": "bert.encoder.layer.0",
    "t5": "encoder.block.0",
}


def call(model: Any, ids: list[int], **inputs: Any) -> Any:
    """One prompt, by the plain model."""
    if model.config.is_encoder_decoder and not {"labels", "decoder_input_ids"} & {*inputs}:
        inputs["decoder_input_ids"] = torch.full((1, 1), model.config.decoder_start_token_id)
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **inputs)


class Block:
    """The first block of a model, read by its envoy in a trace or by a hook of PyTorch."""

    def __init__(self, model: Any, ids: list[int]) -> None:
        self.path = BLOCKS[model.config.model_type]
        seen: list[Any] = []
        handle = model.get_submodule(self.path).register_forward_hook(lambda _module, _args, output: seen.append(output))
        call(model, ids)
        handle.remove()
        self.is_tuple = isinstance(seen[0], tuple)

    def envoy(self, lm: Any) -> Any:
        return lm.get(f"model.{self.path}")

    def hidden(self, lm: Any) -> Any:
        """What the block passes on, in a trace."""
        output = self.envoy(lm).output
        return output[0] if self.is_tuple else output

    def replace(self, lm: Any, value: Any) -> None:
        """Let the model go on with ``value``."""
        if self.is_tuple:
            self.envoy(lm).output[0] = value
        else:
            self.envoy(lm).output = value
