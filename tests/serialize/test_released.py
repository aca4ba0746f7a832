"""Files of every version of the format that was written load for ever, and give what they gave."""

from __future__ import annotations

from pathlib import Path

import pytest

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel
from tests.serialize.programs import PROGRAMS
from tests.serialize.test_files import same

FOLDER = Path(__file__).parents[1] / "golden" / "graphs"
FILES = sorted(FOLDER.glob("*/*.nng"))


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel("nnsight-graph/capitals", dispatch=True)


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}/{path.stem}" for path in FILES])
def test_it_loads_and_runs(lm: LanguageModel, path: Path) -> None:
    tracer, inputs, kwargs = PROGRAMS[path.stem](lm)
    graph = nnsight.load(path)
    values = graph.run(lm, *inputs, **kwargs)
    expected = tracer.graph.run(lm, *inputs, **kwargs)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        same({name: values[name]}, {name: value})


def test_there_is_a_file_for_each_program() -> None:
    assert {path.stem for path in FOLDER.glob("1/*.nng")} >= set(PROGRAMS)


if __name__ == "__main__":  # a new version of the format: python -m tests.serialize.test_released
    model = LanguageModel("nnsight-graph/capitals")
    folder = FOLDER / str(nnsight.load(FILES[0])._document.format if FILES else 1)
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in PROGRAMS.items():
        record(model)[0].graph.save(folder / f"{name}.nng")
