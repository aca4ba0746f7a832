"""The demo shows what its sentences claim, and patches as hooks do."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch

from examples import demo
from nnsight_graph import LanguageModel

pytestmark = pytest.mark.slow


def hooked_difference(model: torch.nn.Module, encoded: dict[str, Any], answers: tuple[int, int], hooks: dict[int, Any]) -> torch.Tensor:
    """Paris less Pisa at the last position, of a run with a forward hook on some of the blocks."""
    handles = [model.transformer.h[layer].register_forward_hook(hook) for layer, hook in hooks.items()]
    try:
        logits = model(**encoded).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return logits[answers[0]] - logits[answers[1]]


@torch.no_grad()
def patched_by_hand(model: LanguageModel, layer: int, position: int) -> float:
    module, answers = model._module, (demo.token(model, " Paris"), demo.token(model, " Pisa"))
    clean, corrupted = (dict(model.tokenizer(prompt, return_tensors="pt")) for prompt in (demo.PARIS, demo.PISA))
    kept: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> None:
        kept.append(output.clone())

    def patch(_module: torch.nn.Module, _args: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[:, position] = kept[0][:, position]
        return output

    best = hooked_difference(module, clean, answers, {layer: keep})
    worst = hooked_difference(module, corrupted, answers, {})
    found = hooked_difference(module, corrupted, answers, {layer: patch})
    return float((found - worst) / (best - worst))


def test_the_demo_shows_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    restored = demo.show_all(tmp_path / "new")
    printed = capsys.readouterr().out
    layers, positions = restored.shape
    layer, position = divmod(int(restored.argmax()), positions)
    subject = positions + demo.SUBJECT
    assert (position == subject and layer <= layers // 2) or (position == positions - 1 and layer > layers // 2)
    assert restored.max() >= 0.8
    assert restored[demo.MIDDLE].argmax() == subject
    assert restored.median() <= 0.1
    for heading in ("Logit lens", "Activation patching", "Steering", "The recorded graph"):
        assert f"\n{heading}\n{'-' * len(heading)}\n" in printed
    assert "1.00  Rome" in printed
    assert "answer: Rome" in printed
    assert f"{2 + restored.numel()} prompts in one forward, {restored.numel()} of them patched: " in printed
    assert "\x1b" not in printed

    picture = ET.parse(tmp_path / "new" / "patching.svg")
    drawn = [float(part.attrib["data-value"]) for part in picture.iter() if "data-value" in part.attrib]
    assert drawn == restored.flatten().tolist()

    model = LanguageModel("nnsight-graph/capitals", dispatch=True)
    for layer, position in [(0, subject), (4, positions - 1), (6, 2)]:
        by_hand = torch.tensor(patched_by_hand(model, layer, position))
        torch.testing.assert_close(restored[layer, position], by_hand, rtol=1e-4, atol=1e-5)
