"""What a program from a file may ask of the models that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel, MissedSiteError, NNsight, RecordError
from nnsight_graph.model.saved import SavedGraph

EIFFEL = "The Eiffel Tower is in the city of"
X = torch.ones(2, 4)


class Doubling(nn.Linear):
    def twice(self, x: torch.Tensor) -> torch.Tensor:
        return self(self(x))


def from_file(graph: Any, folder: Path) -> SavedGraph:
    graph.save(folder / "graph.nng")
    return nnsight.load(folder / "graph.nng")


def test_other_methods_are_called_if_they_may(tmp_path: Path) -> None:
    model = NNsight(Doubling(4, 4))
    with model.trace(X, fn="twice") as tracer:
        model.output.save("first")
        tracer.result.save("out")
    expected = model._module.twice(X)
    assert torch.equal(tracer.graph.run(model, X)["out"], expected)  # it is one's own
    graph = from_file(tracer.graph, tmp_path)
    with pytest.raises(RecordError, match=r"calls 'twice' of the model: graph\.run\(\.\.\., fn='twice'\)"):
        graph.run(model, X)
    values = graph.run(model, X, fn="twice")
    assert torch.equal(values["out"], expected)
    assert torch.equal(values["first"], model._module(X))


def test_other_methods_in_sessions(tmp_path: Path) -> None:
    model = NNsight(Doubling(4, 4))
    with model.session() as session:
        with model.trace(X, fn="twice") as tracer:
            out = tracer.result
        with model.trace(out):
            model.output.save("out")
    expected = model._module(model._module.twice(X))
    assert torch.equal(session.graph.run(model)["out"], expected)
    graph = from_file(session.graph, tmp_path)
    with pytest.raises(RecordError, match="calls 'twice'"):
        graph.run(model)
    assert torch.equal(graph.run(model, fn=("twice",))["out"], expected)


def test_arguments_of_sessions(tmp_path: Path) -> None:
    """What ``generate`` takes that is no number and no tensor is not for a file to give, in whatever way it comes."""
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    name = nnsight.NNsight(nn.Identity())
    for prompt, options in ((EIFFEL, {"synced_gpus": True}), ({"input_ids": [[5, 6]], "trust_remote_code": True}, {})):
        with lm.session(run=False) as session:
            with name.trace(torch.ones(1)):
                computed = name.output.shape[0]
            with lm.generate(prompt, max_new_tokens=computed, **options) as tracer:
                tracer.result.save("ids")
        graph = from_file(session.graph, tmp_path)
        with pytest.raises(RecordError, match=r"a session from a file may not give '(synced_gpus|trust_remote_code)' to generate"):
            graph.run([name, lm])
    with lm.session() as session:
        with lm.generate(EIFFEL, max_new_tokens=2, num_beams=2, do_sample=False) as tracer:
            ids = tracer.result.save()
    assert torch.equal(from_file(session.graph, tmp_path).run(lm)["ids"], ids.value)


def test_options_for_a_tokenizer_in_sessions(tmp_path: Path) -> None:
    """A file may cut a text. It may not have it padded to any length, nor hand on what nobody looks at."""
    lm = LanguageModel("nnsight-graph/capitals", dispatch=True)
    refused = {"tokenizer_kwargs": {"truncation": True}, "padding": "max_length", "forward_kwargs": {"use_cache": False}}
    for name, value in refused.items():
        for way in ("trace", "invoke"):
            around, own = ({name: value}, {}) if way == "trace" else ({}, {name: value})
            with lm.session(run=False) as session, lm.trace(**around) as tracer:
                with tracer.invoke(EIFFEL, **own):
                    lm.lm_head.output.save("logits")
            with pytest.raises(RecordError, match=f"a session from a file may not give '{name}' to forward"):
                from_file(session.graph, tmp_path).run(lm)
            session.graph.run(lm)  # one's own may
    with lm.session() as session, lm.trace(EIFFEL, truncation=True, max_length=4):
        logits = lm.lm_head.output.save()
    assert logits.shape[1] == 4
    assert torch.equal(from_file(session.graph, tmp_path).run(lm)["logits"], logits.value)


def test_arguments_of_sessions_by_their_places(tmp_path: Path) -> None:
    """The eleventh argument of ``generate`` names code to load."""
    model = NNsight(LanguageModel("nnsight-graph/capitals", dispatch=True)._module)
    with model.session(run=False) as session:
        with model.trace(torch.tensor([[1, 2]]), *[None] * 9, str(tmp_path), fn="generate") as tracer:
            tracer.result.save("ids")
    with pytest.raises(RecordError, match=r"a session from a file may not give '\w+' to generate"):
        from_file(session.graph, tmp_path).run(model)


class Told(nn.Module):
    def forward(self, x: torch.Tensor, **options: float) -> torch.Tensor:
        return x * sum(options.values(), start=1.0)


def test_arguments_of_sessions_in_a_batch(tmp_path: Path) -> None:
    model = NNsight(Told())
    with model.session(batch=True, run=False) as session:
        with model.trace(torch.ones(1), secret=2.0):
            model.output.save("first")
        with model.trace(torch.ones(1), secret=2.0):
            model.output.save("second")
    with pytest.raises(RecordError, match="a session from a file may not give 'secret' to forward"):
        from_file(session.graph, tmp_path).run(model)


def test_sessions_are_checked_model_by_model() -> None:
    one, two = NNsight(nn.Sequential(nn.Linear(4, 4))), NNsight(nn.Linear(4, 4))
    with one.session(run=False) as session:
        with one.trace(X):
            hidden = one[0].output
        with two.trace(hidden):
            two.output.save("out")
    graph = session.graph.detach()
    assert graph.run([one, two])["out"].shape == (2, 4)
    with pytest.raises(MissedSiteError, match="Linear has no 0"):
        graph.run([two, one])


class Answer:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class Answering(nn.Linear):
    def forward(self, x: torch.Tensor) -> Answer:  # type: ignore[override]
        return Answer(super().forward(x))


def test_attributes_that_are_set(tmp_path: Path) -> None:
    model = NNsight(Answering(4, 4))
    with model.trace(X) as tracer:
        answer = model.output
        answer.logits = answer.logits * 0
        answer.logits.save("logits")
        tracer.result.save("result")
    values = from_file(tracer.graph, tmp_path).run(model, X)
    assert torch.equal(values["logits"], torch.zeros(2, 4))
    assert torch.equal(values["result"].logits, torch.zeros(2, 4))


def test_ranges_and_memory_formats(tmp_path: Path) -> None:
    model = NNsight(nn.Linear(4, 4))
    with model.session() as session:
        total = 0
        for scale in session.iter(range(1, 6, 2)):
            with model.trace(X):
                total = total + model.output[None, None].to(memory_format=torch.channels_last) * scale
        nnsight.save(total).save("total")
    graph = from_file(session.graph, tmp_path)
    assert torch.equal(graph.run(model)["total"], session.graph.run(model)["total"])
    torch.testing.assert_close(graph.run(model)["total"][0, 0], model._module(X) * 9)
