"""Names that code for nnsight imports or sets: module paths, hints, a module that passes on, settings of old versions."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph.config import AppConfig, Config
from nnsight_graph.old_paths import PATHS

X = torch.tensor([[1.0, -2.0, 3.0]])


def test_module_paths():
    from nnsight_graph.intervention.envoy import Envoy, OperationEnvoy
    from nnsight_graph.intervention.tracing.globals import Object
    from nnsight_graph.modeling.language import LanguageModel
    from nnsight_graph.schema.config import CONFIG
    from nnsight_graph.tracing.tracer import Tracer, save
    from nnsight_graph.util import WrapperModule

    assert (Envoy, OperationEnvoy, LanguageModel) == (nnsight.Envoy, nnsight.OperationEnvoy, nnsight.LanguageModel)
    assert (CONFIG, Tracer, save, WrapperModule) == (nnsight.CONFIG, nnsight.Tracer, nnsight.save, nnsight.WrapperModule)
    assert Object is nnsight.Object
    assert torch.Tensor | Object  # a hint


@pytest.mark.parametrize("path", PATHS)
def test_every_path_gives_the_public_names_alone(path):
    module = importlib.import_module(f"nnsight_graph.{path}")
    assert module.NNsight is nnsight.NNsight
    assert "Envoy" in dir(module)
    for private in ("Mediator", "Interleaver", "_anything", "importing"):
        assert not hasattr(module, private)
    with pytest.raises(ImportError, match="Mediator"):
        exec(f"from nnsight_graph.{path} import Mediator")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"nnsight_graph.{path}.nothing_of_that_name")


def test_an_object_is_a_value_of_a_trace():
    model = nnsight.NNsight(nn.Linear(3, 3))
    with model.trace(X):
        known = isinstance(model.output, nnsight.Object)
    assert known
    assert not isinstance(X, nnsight.Object)


def test_the_logger_is_one_of_python(caplog):
    assert nnsight.logger is logging.getLogger("nnsight_graph")
    with caplog.at_level(logging.INFO, "nnsight_graph"):
        nnsight.logger.info("a line of mine")
    assert caplog.messages == ["a line of mine"]


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.squares, self.both = nnsight.util.WrapperModule(), nnsight.util.WrapperModule()

    def forward(self, x):
        squares, x = self.both(self.squares(x * x), x)
        return squares + x


def test_a_wrapper_module_makes_a_value_a_site():
    net = Squares()
    assert torch.equal(net(X), X * X + X)
    model = nnsight.NNsight(net)
    with model.trace(X):
        seen = model.squares.output.clone().save()
        model.squares.output[:, 0] = 0
        pair = model.both.output.save()
        out = model.output.save()
    expected = X * X
    expected[:, 0] = 0
    assert torch.equal(seen, X * X)
    assert torch.equal(pair[0], expected)
    assert torch.equal(pair[1], X)
    assert torch.equal(out, expected + X)


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "holds"), [("PYMOUNT", False), ("CROSS_INVOKER", True), ("TRACE_CACHING", True), ("FRAME_INJECTION", True)]
)
def test_old_switches_say_what_they_do_here(name, holds):
    settings = AppConfig()
    with pytest.warns(DeprecationWarning, match=rf"CONFIG\.APP\.{name} = 'x' changes nothing here: \w+") as seen:
        setattr(settings, name, "x")
    assert seen[0].filename == __file__
    assert seen[0].category is nnsight.NNsightDeprecationWarning
    assert getattr(settings, name) is holds
    assert settings == AppConfig()


def test_switches_that_nobody_knows():
    with pytest.raises(AttributeError, match=r"CONFIG\.APP has no 'PYMOUNTS'; it has DEBUG, SCAN"):
        _ = AppConfig().PYMOUNTS
    with pytest.raises(AttributeError, match="PYMOUNTS"):
        AppConfig().PYMOUNTS = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AppConfig().DEBUG = False


def in_a_new_process(path) -> subprocess.CompletedProcess:
    code = "import nnsight_graph as n; print(n.CONFIG.APP.DEBUG, n.CONFIG.API.APIKEY or None)"
    given = {**os.environ, "NNSIGHT_GRAPH_CONFIG": str(path)}
    return subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)


def test_settings_are_kept_for_later_processes(tmp_path, monkeypatch):
    path = tmp_path / "some" / "where.json"
    assert in_a_new_process(path).stdout == "True None\n"
    monkeypatch.setenv("NNSIGHT_GRAPH_CONFIG", str(path))
    config = Config()
    config.APP.DEBUG = False
    config.set_default_api_key("secret")
    assert config.save() == path
    assert path.stat().st_mode & 0o777 == 0o600
    assert in_a_new_process(path).stdout == "False secret\n"
    path.write_text(json.dumps({"APP": {"NEVER_KNOWN": 1}}))
    assert in_a_new_process(path).stdout == "True None\n"
    path.write_text('{"APP": {"DEBUG": 3}}')
    found = in_a_new_process(path)
    assert found.stdout == "True None\n"
    assert "cannot be read, and are left alone" in found.stderr


def test_without_a_name_of_ones_own_they_are_kept_where_the_system_keeps_settings(tmp_path, monkeypatch):
    monkeypatch.delenv("NNSIGHT_GRAPH_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert Config().save() == tmp_path / "nnsight_graph" / "config.json"
