"""A package that imports nnsight gets this library, with the lines that docs/migration.md has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = '''
import nnsight
from nnsight import LanguageModel
from nnsight.intervention.envoy import Envoy
from nnsight.intervention.tracing.globals import Object
from nnsight.util import WrapperModule

class Mine(LanguageModel):
    def __init__(self, name):
        super().__init__(name, rename={"transformer.h": "layers", "transformer": "model"})
        self.depth = len(self.layers)

    def stream(self, layer) -> Object:
        return self.layers[layer].output

    def layer(self, number) -> Envoy:
        return self.model.layers[number] if number < 0 else self.layers[number]
'''
PROGRAM = '''
import mine
model = mine.Mine("nnsight-graph/capitals")
with model.trace("The Eiffel Tower is in the city of"):
    last = model.stream(model.depth - 1).save()
print(tuple(last.shape), model.depth, mine.nnsight.__name__, isinstance(model.layer(0), mine.Envoy))
'''


def test_the_lines_of_the_documentation(tmp_path):
    page = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    lines = re.search(r"```python\n(import sys\nimport nnsight_graph\n.*?)```", page, re.DOTALL)[1]
    (tmp_path / "mine.py").write_text(PACKAGE)
    (tmp_path / "program.py").write_text(lines + PROGRAM)
    given = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    found = subprocess.run([sys.executable, str(tmp_path / "program.py")], env=given, capture_output=True, text=True, check=False)
    assert found.stdout == "(1, 11, 96) 8 nnsight_graph True\n", found.stderr
