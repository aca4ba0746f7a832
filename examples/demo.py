"""How a small language model answers a question: read it, patch it, steer it. Run with `make demo`."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from nnsight_graph import LanguageModel
from nnsight_graph.view import heatmap_svg, heatmap_text, wants_colour

PARIS = "The Eiffel Tower is in the city of"
PISA = "The Leaning Tower is in the city of"
SUBJECT = -6  # the landmark's last token; " is in the city of" comes after it
MIDDLE = 3  # the last layer in which the landmark is still at its own token
OTHERS_IN_PARIS = ["Louvre Museum", "Arc de Triomphe"]
OTHERS_IN_ROME = ["Colosseum", "Trevi Fountain", "Vatican"]


# ---------------------------------------------------------------------- the experiments


def logit_lens(model: LanguageModel, prompt: str) -> Any:
    """What the model would say if it stopped after each block: probabilities, layers × tokens."""
    with model.trace(prompt):
        logits = [model.lm_head(model.transformer.ln_f(block.output))[0, -1] for block in model.transformer.h]
        guesses = torch.stack(logits).softmax(-1).save()
    return guesses


def difference(model: LanguageModel) -> Any:
    """In a trace: how much rather the model says Paris than Pisa."""
    logits = model.lm_head.output[0, -1]
    return logits[token(model, " Paris")] - logits[token(model, " Pisa")]


def patch_everywhere(model: LanguageModel) -> tuple[torch.Tensor, int]:
    """How much of the difference each patch restores, layers × positions: 0 is Pisa's prompt, 1 is Paris's.

    A patch puts one position of one block's output from Paris's prompt into Pisa's. Each is a prompt of its own, all of them one batch,
    whose size is returned too.
    """
    positions = len(model.tokenizer(PISA).input_ids)
    with model.trace() as tracer:
        with tracer.invoke(PARIS):
            clean = [block.output for block in model.transformer.h]
            best = difference(model)
        with tracer.invoke(PISA):
            worst = difference(model)
        found = []
        for block, of_paris in zip(model.transformer.h, clean, strict=True):
            for position in range(positions):
                with tracer.invoke(PISA):
                    block.output[:, position] = of_paris[:, position]
                    found.append(difference(model))
        restored = ((torch.stack(found) - worst) / (best - worst)).reshape(-1, positions).save()
    return restored.value, 2 + len(found)


def mean_subject(model: LanguageModel, landmarks: list[str]) -> torch.Tensor:
    """What the middle layer says at the landmark's last token, on average."""
    seen = []
    for landmark in landmarks:
        with model.trace(f"The {landmark} is in the city of"):
            seen.append(model.transformer.h[MIDDLE].output[0, SUBJECT].save())
    return torch.stack(seen).mean(0)


def steer(model: LanguageModel, vector: torch.Tensor, strength: float) -> Any:
    """The probabilities of the next token when the vector is added at the landmark's last token."""
    with model.trace(PARIS):
        model.transformer.h[MIDDLE].output[:, SUBJECT] += strength * vector
        probabilities = model.lm_head.output[0, -1].softmax(-1).save()
    return probabilities


# ---------------------------------------------------------------------- what is shown


def show_logit_lens(model: LanguageModel) -> None:
    section("Logit lens", f"""What would the model say to "{PARIS}" if it stopped after each layer? Inside the trace, every block's output
        goes straight to the last norm and the unembedding. The city comes up late.""")
    print("layer  top token    probability  of Paris")
    for layer, guesses in enumerate(logit_lens(model, PARIS)):
        top = int(guesses.argmax())
        paris = float(guesses[token(model, " Paris")])
        print(f"{layer:>5}  {word(model, top):<12} {guesses[top]:>11.2f}  {paris:>8.2f}  {bar(paris)}".rstrip())


def show_patching(model: LanguageModel, output: Path) -> torch.Tensor:
    section("Activation patching", f"""Where is the landmark kept? In a run on "{PISA}", one position of one layer's output is
        taken from the run on the prompt above: 0 leaves Pisa, 1 brings Paris back. The landmark stays at its last token until its city
        is moved to the end. Every patch is a row of one batch, so the model runs once.""")
    start = time.perf_counter()
    restored, prompts = patch_everywhere(model)
    seconds = time.perf_counter() - start
    words = [word(model, part) for part in model.tokenizer(PISA).input_ids]
    labels = {"rows": [str(layer) for layer in range(len(restored))], "columns": words, "row_title": "layer", "limits": (0, 1)}
    print(heatmap_text(restored, **labels, width=columns(), colour=wants_colour(sys.stdout)))
    titles = {"title": "Paris for Pisa: what one patched position restores", "value_title": "restored logit difference"}
    picture = heatmap_svg(restored, **labels, **titles, column_title="patched position")
    output.mkdir(parents=True, exist_ok=True)
    (output / "patching.svg").write_text(picture, encoding="utf-8")
    print(f"\n{prompts} prompts in one forward, {restored.numel()} of them patched: {seconds:.2f} s.", end=" ")
    print(f"As a picture: {output / 'patching.svg'}")
    return restored


def show_steering(model: LanguageModel, vector: torch.Tensor) -> None:
    section("Steering", f"""The mean of landmarks in Rome less the mean of other landmarks in Paris is a direction. Added at the Eiffel
        Tower's last token in layer {MIDDLE}, ever stronger, it moves the tower to Rome.""")
    print("strength  next token")
    for strength in (0.0, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0):
        top = steer(model, vector, strength).topk(3)
        guesses = [f"{word(model, index)} {value:.2f}" for value, index in zip(top.values, top.indices, strict=True)]
        print(f"{strength:>8.2f}  " + "".join(f"{guess:<15}" for guess in guesses).rstrip())


def show_graph(model: LanguageModel, vector: torch.Tensor) -> None:
    section("The recorded graph", """A trace is recorded first and run with the model when its block ends. So the answer can be read
        above the lines that change it: there is one forward, and every line takes part in it.""")
    with model.trace(PARIS) as tracer:
        answer = model.lm_head.output[0, -1].argmax().save()
        subject = model.transformer.h[MIDDLE].output[:, SUBJECT]
        subject += vector
    print(f"{tracer.graph}\n\nanswer: {word(model, answer)}")


def show_all(output: Path) -> torch.Tensor:
    """Print everything, write the picture; returns what patching restored."""
    model = LanguageModel("nnsight-graph/capitals")
    with torch.no_grad():
        show_logit_lens(model)
        restored = show_patching(model, output)
        vector = mean_subject(model, OTHERS_IN_ROME) - mean_subject(model, OTHERS_IN_PARIS)
        show_steering(model, vector)
        show_graph(model, vector)
    return restored


# ---------------------------------------------------------------------- words and lines


def token(model: LanguageModel, text: str) -> int:
    """The id of a text that is one token."""
    (only,) = model.tokenizer(text).input_ids
    return int(only)


def word(model: LanguageModel, index: Any) -> str:
    return str(model.tokenizer.decode(int(index))).strip()


def bar(share: float, width: int = 24) -> str:
    return "█" * round(share * width)


def columns() -> int:
    return shutil.get_terminal_size().columns


def section(title: str, text: str) -> None:
    heading = f"\x1b[1m{title}\x1b[0m" if wants_colour(sys.stdout) else f"{title}\n{'-' * len(title)}"
    print("", heading, *textwrap.wrap(" ".join(text.split()), min(columns(), 90) - 1), "", sep="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for the picture (demo-output)")
    options = parser.parse_args()
    sys.stdout.reconfigure(errors="replace")
    disable_progress_bar()  # of transformers, while it loads weights
    torch.set_num_threads(1)  # the model is too small to share its work
    show_all(options.output)
