"""Graphs as files: what is read is what was written, bit for bit, here and in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import FunctionWhitelistError, GraphFormatError, LanguageModel, MissedSiteError, NNsight, RecordError
from tests.run.lines import ends_on
from tests.run.untouched import state
from tests.serialize.programs import COLOSSEUM, EIFFEL, PROGRAMS

every_program = pytest.mark.parametrize("name", PROGRAMS)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


def same(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        values = [list(one) if isinstance(one, list) else [one] for one in (found[name], value)]
        torch.testing.assert_close([torch.as_tensor(one) for one in values[0]], [torch.as_tensor(one) for one in values[1]], rtol=0, atol=0)


@every_program
def test_it_comes_back_and_gives_the_same(lm: LanguageModel, tmp_path: Path, name: str) -> None:
    tracer, inputs, kwargs = PROGRAMS[name](lm)
    again, _, _ = PROGRAMS[name](lm)
    path = tmp_path / "graph.nng"
    tracer.graph.save(path)
    before, content = state(lm._module), path.read_bytes()
    graph = nnsight.load(path)
    assert graph == tracer.graph.detach()
    again.graph.save(path)
    assert path.read_bytes() == content  # equal programs, equal bytes
    graph.save(path)
    assert path.read_bytes() == content
    values = graph.run(lm, *inputs, **kwargs)
    same(values, tracer.graph.run(lm, *inputs, **kwargs))
    assert set(values) == set(graph.names)
    assert state(lm._module) == before


def test_values_are_those_of_the_trace(lm: LanguageModel) -> None:
    vector = torch.linspace(-1, 1, 96)
    with lm.trace(EIFFEL) as tracer:
        lm.transformer.h[3].mlp.output[:, -1] += vector * 2
        logits = lm.lm_head.output.save()
        kept = [block.mlp.output.save() for block in lm.transformer.h[:2]]
    values = tracer.graph.run(lm, EIFFEL)
    assert list(values) == ["logits", "value_1", "value_2"]
    same(values, {"logits": logits.value, "value_1": kept[0].value, "value_2": kept[1].value})
    other = tracer.graph.run(lm, COLOSSEUM)["logits"]
    with lm.trace(COLOSSEUM):
        lm.transformer.h[3].mlp.output[:, -1] += vector * 2
        expected = lm.lm_head.output.save()
    assert torch.equal(other, expected.value)
    assert tracer.graph.run(lm, [EIFFEL, COLOSSEUM])["logits"].shape[0] == 2


def test_other_numbers_of_steps(lm: LanguageModel) -> None:
    for name in ("steps", "unrolled_steps"):
        tracer, inputs, _ = PROGRAMS[name](lm)
        values = tracer.graph.run(lm, *inputs, max_new_tokens=5)
        assert len(values["tokens"]) == (5 if name == "steps" else 3)


@pytest.mark.slow
def test_in_a_fresh_process(lm: LanguageModel, tmp_path: Path) -> None:
    expected = {}
    for name, record in PROGRAMS.items():
        tracer, inputs, kwargs = record(lm)
        tracer.graph.save(tmp_path / f"{name}.nng")
        expected[name] = (inputs, kwargs, tracer.graph.run(lm, *inputs, **kwargs))
    torch.save(expected, tmp_path / "expected.pt")
    code = """
import sys, torch, nnsight_graph as nnsight
from tests.serialize.test_files import same
lm = nnsight.LanguageModel("nnsight-graph/capitals", dispatch=True)
for name, (inputs, kwargs, expected) in torch.load(sys.argv[1] + "/expected.pt", weights_only=False).items():
    same(nnsight.load(f"{sys.argv[1]}/{name}.nng").run(lm, *inputs, **kwargs), expected)
"""
    command, root = [sys.executable, "-c", code, str(tmp_path)], Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr


def test_sessions_and_edits(lm: LanguageModel, tmp_path: Path) -> None:
    with lm.session() as session:
        with lm.trace(EIFFEL):
            hidden = lm.transformer.h[4].mlp.output[:, -1]
        with lm.trace(COLOSSEUM):
            lm.transformer.h[4].mlp.output[:, -1] = hidden
            patched = lm.lm_head.output.save()
    session.graph.save(tmp_path / "session.nng")
    assert torch.equal(nnsight.load(tmp_path / "session.nng").run(lm)["patched"], patched.value)
    editor = lm.edit()
    with editor as edited:
        lm.transformer.h[7].mlp.output[:, -1] = torch.linspace(-1, 1, 96)
    editor.graph.save(tmp_path / "edit.nng")
    other = LanguageModel("nnsight-graph/capitals")
    again = nnsight.load(tmp_path / "edit.nng").edit(other)
    results = []
    for model in (edited, again):
        with model.trace(EIFFEL):
            results.append(model.lm_head.output.save())
    assert torch.equal(results[0].value, results[1].value)
    with pytest.raises(RecordError, match="this is an edit"):
        nnsight.load(tmp_path / "edit.nng").run(lm, EIFFEL)
    with pytest.raises(RecordError, match="this model has edits of its own"):
        nnsight.load(tmp_path / "session.nng")
        PROGRAMS["steering"](lm)[0].graph.run(edited, EIFFEL)


def test_a_session_of_two_models(tmp_path: Path) -> None:
    one, two = NNsight(nn.Linear(3, 3)), NNsight(nn.Linear(3, 2))
    x = torch.ones(1, 3)
    with one.session() as session:
        with one.trace(x):
            hidden = one.output
        with two.trace(hidden * 2):
            out = two.output.save()
    assert torch.equal(session.graph.run([one, two])["out"], out.value)
    with pytest.raises(RecordError, match="runs 2 models; 1 were given"):
        session.graph.run(one)


def test_parameters_and_a_trace_that_does_not_run(lm: LanguageModel) -> None:
    with lm.trace(run=False) as tracer:
        lm.transformer.h[3].mlp.output[:] *= tracer.parameter("alpha", 0.5)
        logits = lm.lm_head.output.save()
    graph = tracer.graph.detach()
    assert graph.parameters == {"alpha": 0.5}
    for alpha in (0.5, 2.0, torch.tensor(3.0)):
        with lm.trace(EIFFEL):
            lm.transformer.h[3].mlp.output[:] *= alpha
            expected = lm.lm_head.output.save()
        assert torch.equal(graph.run(lm, EIFFEL, parameters={"alpha": alpha})["logits"], expected.value)
    with pytest.raises(nnsight.UnsetValueError, match="recorded only"):
        _ = logits.value
    with pytest.raises(RecordError, match="no parameter 'beta'; it has alpha"):
        graph.run(lm, EIFFEL, parameters={"beta": 1})
    with pytest.raises(RecordError, match="a parameter is a number"):
        with lm.trace(run=False) as tracer:
            tracer.parameter("on", True)


def test_other_models_and_what_they_lack(lm: LanguageModel) -> None:
    tracer, inputs, _ = PROGRAMS["steering"](lm)
    graph = tracer.graph.detach()
    assert graph.missing(lm) == []
    small = NNsight(nn.Linear(2, 2))
    assert graph.missing(small) == ["transformer.h.3.mlp", "lm_head", "transformer.h.1.mlp"]
    with pytest.raises(MissedSiteError, match="Linear has no transformer"):
        graph.run(small, torch.ones(1, 2))
    with pytest.raises(RecordError, match="2 invokes, and needs an input for each; 1 were given"):
        PROGRAMS["patching"](lm)[0].graph.run(lm, EIFFEL)
    with pytest.raises(RecordError, match="needs an input"):
        graph.run(lm)
    assert inputs == (EIFFEL,)


def test_errors_show_the_line_of_the_program(lm: LanguageModel) -> None:
    with lm.trace(run=False) as tracer:
        lm.transformer.h[3].mlp.output[:, 50].save("far")
    with pytest.raises(IndexError, match="out of bounds") as caught:
        tracer.graph.run(lm, EIFFEL)
    assert "transformer.h.3.mlp.output" in "\n".join(getattr(caught.value, "__notes__", [str(caught.value)]))


def local(value: torch.Tensor) -> torch.Tensor:
    return value * 2


def test_what_is_no_data_says_so_on_its_line(lm: LanguageModel, tmp_path: Path) -> None:
    with lm.trace(run=False) as tracer:
        nnsight.apply(local, lm.lm_head.output).save("doubled")
    with pytest.raises(FunctionWhitelistError, match=r"Function with name `.*local` not in function whitelist") as caught:
        tracer.graph.save(tmp_path / "graph.nng")
    assert ends_on(caught.value)[0] == "test_files.py"
    assert list(tmp_path.iterdir()) == []
    with lm.trace(run=False) as tracer:
        lm.lm_head.output[torch.eye(3).to_sparse()] = 0
    with pytest.raises(GraphFormatError, match="cannot be data"):
        tracer.graph.save(tmp_path / "graph.nng")


def test_names_do_not_meet(lm: LanguageModel) -> None:
    with lm.trace(EIFFEL) as tracer:
        a_2 = lm.transformer.h[2].output.save()
        a = nnsight.save((lm.transformer.h[0].output, lm.transformer.h[1].output))
        nnsight.save(lm.transformer.h[3].output)
    values = tracer.graph.run(lm, EIFFEL)
    assert list(values) == ["a_2", "a.0", "a.1", "value_3"]
    for found, expected in zip(values.values(), (a_2, *a), strict=False):
        assert torch.equal(found, expected.value)


def test_defaults_that_torch_fills_in_are_not_written(lm: LanguageModel, tmp_path: Path) -> None:
    functional = nn.functional
    with lm.trace(EIFFEL) as tracer:
        h = lm.transformer.h[2].output
        made = functional.softmax(h, dim=-1), functional.log_softmax(h, -1), functional.normalize(h, dim=-1), torch.norm(h, dim=-1)
        looked = functional.embedding(h.argmax(-1), torch.ones(96, 3)), torch.tensordot(h, h, dims=([2], [2]))
        values = nnsight.save((*made, *looked, nn.Softmax(-1)(h)))
    tracer.graph.save(tmp_path / "graph.nng")
    for found, expected in zip(nnsight.load(tmp_path / "graph.nng").run(lm, EIFFEL).values(), values, strict=True):
        assert torch.equal(found, expected.value)


def test_tensors_of_a_file_are_copies(tmp_path: Path) -> None:
    """The last digits of a product depend on where its operands lie, and a file may be written over."""
    torch.manual_seed(0)
    model = NNsight(nn.Linear(4, 4))
    for name, drawn in (("one", torch.randn(4)), ("other", torch.randn(4))):
        with model.trace(run=False) as tracer:
            (model.output + drawn).save("out")
        tracer.graph.save(tmp_path / name)
    graph = nnsight.load(tmp_path / "one")
    assert all(one.data_ptr() % 64 == 0 for one in graph.graph.constants if isinstance(one, torch.Tensor))
    before = graph.run(model, torch.ones(1, 4))["out"]
    (tmp_path / "one").write_bytes((tmp_path / "other").read_bytes())
    assert torch.equal(graph.run(model, torch.ones(1, 4))["out"], before)


def test_the_size_does_not_grow_with_the_model(tmp_path: Path) -> None:
    sizes = []
    for width in (4, 400):
        model = NNsight(nn.Sequential(nn.Linear(width, width), nn.ReLU()))
        with model.trace(torch.ones(1, width)) as tracer:
            model[0].output[:, 0] = 0
            model.output.save("out")
        tracer.graph.save(tmp_path / "graph.nng")
        sizes.append((tmp_path / "graph.nng").stat().st_size)
    assert sizes[0] == sizes[1] <= 1500


def test_the_file_is_a_safetensors_container(lm: LanguageModel, tmp_path: Path) -> None:
    PROGRAMS["steering"](lm)[0].graph.save(tmp_path / "graph.nng")
    content = (tmp_path / "graph.nng").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == ["nnsight_graph"]
    assert json.loads(header["__metadata__"]["nnsight_graph"])["format"] == 1


def last_of(h: torch.Tensor) -> torch.Tensor:
    return h[:, int(h.shape[1]) - 1]


def norms_of(h: torch.Tensor) -> torch.Tensor:
    return sum(row.norm() for row in h)  # type: ignore[return-value]


def test_what_python_was_told_of_shapes_is_checked(lm: LanguageModel, tmp_path: Path) -> None:
    """Functions that the block calls see numbers, and the graph what came of them: it holds for inputs with the same numbers alone."""
    with lm.trace(EIFFEL) as tracer:
        last = last_of(lm.transformer.h[2].mlp.output).save()
        norms = norms_of(lm.transformer.h[2].mlp.output).save()
    tracer.graph.save(tmp_path / "graph.nng")
    graph = nnsight.load(tmp_path / "graph.nng")
    assert "assume that %2 is 11" in str(graph)
    same(graph.run(lm, EIFFEL), {"last": last.value, "norms": norms.value})
    with pytest.raises(nnsight.NNsightError, match="this is 16, and was 11 when the program was written"):
        graph.run(lm, "I think that " + EIFFEL)
    with pytest.raises(nnsight.NNsightError, match="this is 16, and was 11 when the program was written"):
        graph.check(lm, "I think that " + EIFFEL)
    with pytest.raises(nnsight.NNsightError, match="this is 2, and was 1 when the program was written"):
        graph.run(lm, [EIFFEL, EIFFEL])
    with lm.trace(EIFFEL) as tracer:
        hidden = lm.transformer.h[2].mlp.output
        last = hidden[:, hidden.shape[1] - 1].save()  # a traced number holds for every input
    assert tracer.graph.run(lm, "I think that " + EIFFEL)["last"].shape == (1, 96)


def test_a_parameter_is_one_constant_wherever_it_is_named(lm: LanguageModel) -> None:
    with lm.trace(run=False) as tracer:
        for block in lm.transformer.h:
            block.mlp.output[:] *= tracer.parameter("scale", 1.0)
        lm.lm_head.output.save("logits")
    with lm.trace(EIFFEL):
        for block in lm.transformer.h:
            block.mlp.output[:] = 0
        expected = lm.lm_head.output.save()
    assert torch.equal(tracer.graph.run(lm, EIFFEL, parameters={"scale": 0.0})["logits"], expected.value)
    vector = torch.ones(96)
    with pytest.raises(RecordError, match=r"the parameter 'scale' is 1\.0 already"):
        with lm.trace(run=False) as tracer:
            tracer.parameter("vector", vector), tracer.parameter("vector", vector)
            tracer.parameter("scale", 1.0), tracer.parameter("scale", 2.0)


def test_names_are_those_that_python_would_have(lm: LanguageModel) -> None:
    with lm.generate(EIFFEL, max_new_tokens=3) as tracer:
        for _ in tracer.iter[0:3]:
            last = lm.lm_head.output[0, -1].argmax().save()
    values = tracer.graph.run(lm, EIFFEL, max_new_tokens=3)
    assert list(values) == ["last_1", "last_2", "last"]
    assert values["last"] == last.value
    with lm.trace(EIFFEL) as tracer:
        logits = lm.lm_head.output[0, -1]
        if logits.sum() > 0:
            out = logits.max().save()
        else:
            out = logits.min().save()
        for row in lm.transformer.h[0].mlp.output[0]:
            norm = row.norm().save()
        parts = nnsight.save({"most": logits.max(), "both": [logits.argmax(), logits.argmin()]})
        b = logits.mean().save()
        a = logits.std().save("b")
        answer = logits.argmax()
        nnsight.save(answer)
    values = tracer.graph.run(lm, EIFFEL)
    assert set(values) == {"out", "norm", "parts.most", "parts.both.0", "parts.both.1", "b", "b_1", "answer"}
    expected = {"out": out, "norm": norm, "parts.most": parts["most"], "parts.both.1": parts["both"][1], "b": a, "b_1": b}
    assert all(torch.equal(values[name], value.value) for name, value in expected.items())


def test_captured_tensors_are_taken_as_they_are(lm: LanguageModel) -> None:
    vector = torch.ones(96)
    with lm.trace(EIFFEL) as tracer:
        lm.transformer.h[2].mlp.output[:, -1] += vector
        logits = lm.lm_head.output.save()
    graph = tracer.graph.detach()
    vector.mul_(100)
    assert torch.equal(graph.run(lm, EIFFEL)["logits"], logits.value)
    with lm.trace(run=False) as tracer:
        tracer.parameter("kept", torch.ones(3)).save("kept")
    graph = tracer.graph.detach()
    graph.run(lm, EIFFEL)["kept"].mul_(5)
    assert graph.run(lm, EIFFEL)["kept"].tolist() == [1.0, 1.0, 1.0]
    buffer = torch.zeros(96)
    for run in (False, True):
        with torch.no_grad(), lm.trace(EIFFEL, run=run) as tracer:
            buffer.add_(lm.transformer.h[0].mlp.output[0, -1])
            nnsight.save(buffer)
        if run:
            with pytest.raises(GraphFormatError, match="what it began with is gone"):
                tracer.graph.detach()
        else:
            graph = tracer.graph.detach()
            values = [next(iter(graph.run(lm, EIFFEL).values()), None) for _ in range(2)]
            assert values[0] is None or torch.equal(values[0], values[1])


def test_arguments_that_nobody_would_take_are_refused(lm: LanguageModel) -> None:
    graph = PROGRAMS["steering"](lm)[0].graph.detach()
    for options in ({"max_new_tokens": 3}, {"parameter": {"scale": 1.0}}):
        with pytest.raises(RecordError, match=r"is an argument of generate|is no argument of graph\.run"):
            graph.run(lm, EIFFEL, **options)
    with lm.session() as session:
        with lm.trace(EIFFEL):
            lm.lm_head.output.save("logits")
    for inputs, options in (((COLOSSEUM,), {}), ((), {"max_new_tokens": 3})):
        with pytest.raises(RecordError, match="a session has its own inputs"):
            session.graph.run(lm, *inputs, **options)


def test_operations_inside_forwards_are_looked_for(lm: LanguageModel) -> None:
    with lm.trace(run=False) as tracer:
        lm.transformer.h[3].attn.source.attention_interface_0.output[0].save("attended")
    graph = tracer.graph.detach()
    assert graph.missing(lm) == []
    path = "transformer.h.3.attn.source.attention_interface_0"
    assert graph.missing(NNsight(nn.Linear(2, 2))) == [path]
    small = NNsight(nn.ModuleDict({"transformer": nn.ModuleDict({"h": nn.ModuleList([nn.ModuleDict({"attn": nn.Linear(2, 2)})] * 4)})}))
    assert graph.missing(small) == [path]


def test_large_tensors_are_mapped_where_torch_would_have_put_them(tmp_path: Path) -> None:
    model, matrix = NNsight(nn.Linear(512, 512)), torch.randn(600, 512)
    with model.trace(run=False) as tracer:
        (model.output @ matrix.T).save("out")
        (model.output[:3] + torch.ones(3)[:, None]).save("small")
    tracer.graph.save(tmp_path / "graph.nng")
    graph = nnsight.load(tmp_path / "graph.nng")
    tensors = [one for one in graph.graph.constants if isinstance(one, torch.Tensor)]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)
    assert any(torch.equal(tensor, matrix.T) for tensor in tensors if tensor.dim() == 2)
    x = torch.randn(4, 512)
    same(graph.run(model, x), tracer.graph.run(model, x))


def test_a_value_may_have_several_names(lm: LanguageModel, tmp_path: Path) -> None:
    with lm.trace(EIFFEL) as tracer:
        logits = lm.lm_head.output
        first = logits.save()
        second = logits.save()
        logits.save("third").save("fourth")
        parts = nnsight.save([first, logits.sum()])
    tracer.graph.save(tmp_path / "graph.nng")
    values = nnsight.load(tmp_path / "graph.nng").run(lm, EIFFEL)
    assert set(values) == {"second", "third", "fourth", "parts.1"}  # a given name is in place of the variable
    assert all(torch.equal(values[name], second.value) for name in ("second", "third", "fourth"))
    assert torch.equal(values["parts.1"], parts[1].value)
