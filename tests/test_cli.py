"""The command line on files of a small program."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nnsight_graph import LanguageModel
from nnsight_graph.cli import main

pytestmark = pytest.mark.slow

PROMPT = "The Eiffel Tower is in the city of"
MODEL = "nnsight-graph/capitals"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, lm = tmp_path_factory.mktemp("graphs"), LanguageModel(MODEL)
    for name, place in (("last", -1), ("first", 0)):
        with lm.trace(run=False) as tracer:
            lm.transformer.h[3].mlp.output[:, place] += torch.ones(96) * tracer.parameter("scale", 2.0)
            lm.lm_head.output[0, -1].argmax().save("token")
            lm.lm_head.output.save("logits")
        tracer.graph.save(folder / f"{name}.nng")
    with lm.trace(run=False) as tracer:
        lm.transformer.h[3].mlp.output[:, :, 1000].save("far")
    tracer.graph.save(folder / "wrong.nng")
    return folder


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_show(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", files / "last.nng") == 0
    shown = capsys.readouterr().out
    assert "%0 = transformer.h.3.mlp.output" in shown
    assert "trace of 11 nodes; modules: transformer.h.3.mlp, lm_head" in shown
    assert "saves: " in shown
    assert "parameter scale: 2.0" in shown
    assert "float32[96]" in shown
    assert f"{(files / 'last.nng').stat().st_size} bytes" in shown


def test_diff(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("diff", files / "last.nng", files / "last.nng") == 0
    assert capsys.readouterr().out == "no difference\n"
    assert run("diff", files / "last.nng", files / "first.nng") == 1
    assert "differ" in capsys.readouterr().out


def test_check(files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("check", files / "last.nng", "--model", MODEL) == 0
    assert run("check", files / "last.nng", "--model", MODEL, "--prompt", PROMPT) == 0
    assert "every line works" in capsys.readouterr().out
    assert run("check", files / "wrong.nng", "--model", MODEL, "--prompt", PROMPT) == 1
    assert "index 1000 is out of bounds" in capsys.readouterr().err


def test_run(files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "values.safetensors"
    assert run("run", files / "last.nng", "--model", MODEL, "--prompt", PROMPT, "--parameter", "scale=0.0", "--out", out) == 0
    shown = capsys.readouterr().out
    lm = LanguageModel(MODEL)
    with lm.trace(PROMPT):
        logits = lm.lm_head.output.save()
    assert f"token: {logits[0, -1].argmax()}" in shown
    torch.testing.assert_close(load_file(out)["logits"], logits.value.detach(), rtol=0, atol=0)
    assert run("run", files / "last.nng", "--model", MODEL, "--prompt", PROMPT, "--parameter", "scale") == 1
    assert "NAME=NUMBER" in capsys.readouterr().err


def test_what_is_wrong_says_so(files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.nng").write_text("hello")
    assert run("show", tmp_path / "text.nng") == 1
    assert "is no graph file" in capsys.readouterr().err
    assert run("show", tmp_path / "none.nng") == 1
    assert "No such file" in capsys.readouterr().err
    refused = ((tmp_path, "Is a directory"), (tmp_path / "none" / "out", "there is no folder"), ("/dev/null", "a device, and not a file"))
    for out, message in refused:
        assert run("run", files / "wrong.nng", "--model", MODEL, "--prompt", PROMPT, "--out", out) == 1
        assert message in capsys.readouterr().err  # and not what is wrong with the program: nothing has run
    with pytest.raises(SystemExit) as caught:
        run("frobnicate", files)
    assert caught.value.code == 2
    for slip, near in {("--promt", "x"): "run does not take --promt x; near: --prompt", ("--unlimted",): "near: --unlimited"}.items():
        with pytest.raises(SystemExit) as caught:
            run("run", files, "--model", "nnsight-graph/capitals", *slip)
        assert caught.value.code == 2
        assert near in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    assert "nnsight-graph run patch.nng" in capsys.readouterr().out


def test_sessions_of_two_models(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = LanguageModel(MODEL), LanguageModel(MODEL)
    with one.session(run=False) as session:
        with one.trace(PROMPT):
            hidden = one.transformer.h[3].mlp.output
        with two.trace(PROMPT):
            two.transformer.h[3].mlp.output[:] = hidden * 0
            two.lm_head.output[0, -1].argmax().save("token")
    session.graph.save(files / "session.nng")
    expected = session.graph.run([one, two])["token"]
    assert run("run", files / "session.nng", "--model", MODEL) == 1
    assert "runs 2 models; 1 were given" in capsys.readouterr().err
    assert run("run", files / "session.nng", "--model", MODEL, "--model", MODEL) == 0
    assert f"token: {expected}" in capsys.readouterr().out
    assert run("check", files / "session.nng", "--model", MODEL, "--model", MODEL) == 0


def test_runs_are_within_limits(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = LanguageModel(MODEL)
    with lm.trace(run=False) as tracer:
        lm.lm_head.output[0].expand(1_000_000, -1, -1).mean().save("mean")
    tracer.graph.save(files / "large.nng")
    assert run("run", files / "large.nng", "--model", MODEL, "--prompt", PROMPT) == 1
    assert "Limits(value_bytes=...)" in capsys.readouterr().err
    with lm.trace(run=False) as tracer:
        lm.lm_head.output[0, -1].argmax().save("token")
    tracer.graph.save(files / "small.nng")
    given = ["run", files / "small.nng", "--model", MODEL, "--prompt", PROMPT, "--seconds"]
    assert run(*given, "1e-9") == 1
    assert "Limits(seconds=...)" in capsys.readouterr().err
    assert run(*given, "1000") == 0
    assert "token: " in capsys.readouterr().out
    assert run(*given, "1000", "--unlimited") == 1
    assert "leave out --unlimited" in capsys.readouterr().err


def test_files_reach_no_look_ups(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = LanguageModel(MODEL)
    with lm.trace(run=False) as tracer:
        lm.transformer.h[0].attn.source.ALL_ATTENTION_FUNCTIONS_get_interface_0.output.save("function")
    tracer.graph.save(files / "look_up.nng")
    assert run("run", files / "look_up.nng", "--model", MODEL, "--prompt", PROMPT, "--unlimited") == 1
    assert "which is not among the operations that a program from a file may reach" in capsys.readouterr().err
