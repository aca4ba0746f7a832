"""What may be written as a prompt, and what is said about the rest."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from nnsight_graph.errors import RecordError
from nnsight_graph.huggingface.needs import Needs
from nnsight_graph.huggingface.prompts import encode, read_prompt
from tests.huggingface.families import word_tokenizer

ONE = [[3, 4, 5]]
TWO = [[3, 4, 5], [6]]
FORMS: list[tuple[Any, list[list[int]]]] = [
    ("w3 w4 w5", ONE),
    (["w3 w4 w5"], ONE),
    (("w3 w4 w5", "w6"), TWO),
    ([3, 4, 5], ONE),
    ((3, 4, 5), ONE),
    (numpy.array([3, 4, 5]), ONE),
    (list(numpy.array([3, 4, 5])), ONE),
    (list(torch.tensor([3, 4, 5])), ONE),
    (torch.tensor([3, 4, 5]), ONE),
    (torch.tensor([[3, 4], [5, 6]]), [[3, 4], [5, 6]]),
    (TWO, TWO),
    ([torch.tensor(row) for row in TWO], TWO),
    ([numpy.array(row) for row in TWO], TWO),
    ({"input_ids": [3, 4, 5]}, ONE),
    ({"input_ids": TWO, "attention_mask": [[1, 1, 1], [1]]}, TWO),
    ({"input_ids": torch.tensor(ONE)}, ONE),
]


@pytest.mark.parametrize(("prompt", "rows"), FORMS, ids=repr)
def test_forms_of_a_prompt(prompt: Any, rows: list[list[int]]) -> None:
    read = read_prompt(word_tokenizer(), (prompt,), {"use_cache": False, "labels": None})
    assert [row.tolist() for row in read.inputs["input_ids"]] == rows
    assert (read.rows, read.lengths, read.ragged) == (len(rows), [len(row) for row in rows], rows == TWO)
    assert read.options == {"use_cache": False, "labels": None}
    if not isinstance(prompt, dict):
        assert [row.tolist() for row in read.inputs["attention_mask"]] == [[1] * len(row) for row in rows]


def test_an_encoding_without_tensors_is_one_row() -> None:
    inputs = encode(word_tokenizer(), (word_tokenizer()("w3 w4"),), {})
    assert {name: value.tolist() for name, value in inputs.items()} == {"input_ids": [[3, 4]], "attention_mask": [[1, 1]]}


@pytest.mark.parametrize("name", ["labels", "position_ids", "attention_mask"])
def test_one_row_may_be_written_flat(name: str) -> None:
    for value in ([7, 8, 9], torch.tensor([7, 8, 9]), [[7, 8, 9]], torch.tensor([[7, 8, 9]])):
        assert encode(None, (ONE,), {name: value})[name].tolist() == [[7, 8, 9]]
    assert encode(None, (ONE,), {"labels": torch.tensor([2])})["labels"].tolist() == [2]  # the class of the text


def test_labels_may_be_text() -> None:
    read = read_prompt(word_tokenizer(), (["w3", "w4"],), {"labels": ["w5 w6", "w7"]})
    assert [row.tolist() for row in read.inputs["labels"]] == [[5, 6], [7]]


def test_a_tensor_is_the_users_own() -> None:
    ids = torch.tensor([[3, 4]])
    assert encode(None, (), {"input_ids": ids}) == {"input_ids": ids}
    assert encode(None, (ids,), {})["input_ids"] is ids
    assert "attention_mask" not in encode(None, (ids,), {"past_key_values": object()})  # one of the ids alone would be too short


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt '' has no tokens"),
        (["w3", ""], "the prompt '' has no tokens"),
        ([[3], []], r"the prompt \[\] has no tokens"),
        ([[]], "no tokens"),
        ([], r"\[\] is no prompt: it has no rows"),
        (torch.empty(0, dtype=torch.long), "no tokens"),
        (torch.empty(1, 0, dtype=torch.long), "no tokens"),
        (torch.empty(0, 3, dtype=torch.long), "no rows"),
        ({"input_ids": []}, "no tokens"),
        ({"pixels": torch.ones(1)}, "neither input_ids nor inputs_embeds"),
        (["w3", [4]], "one kind of them, not lists of token ids and strings: give each kind an invoke"),
        ([3, [4]], "one kind of them, not lists of token ids and token ids"),
        ([3.5, 4.5], "inputs_embeds="),
        (torch.ones(1, 2), "inputs_embeds="),
        (torch.ones(1, 2, 3, dtype=torch.long), "one or two dimensions"),
        ([[[3]]], "one or two dimensions"),
        ([["w3"]], "a prompt is a string, token ids"),
        ([{"role": "user"}], "a prompt is a string, token ids"),
        (7, "not one number"),
        (None, "a prompt is a string, token ids"),
        (object(), "a prompt is a string, token ids"),
    ],
    ids=repr,
)
def test_what_is_no_prompt(prompt: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        read_prompt(word_tokenizer(), (prompt,), {})


def test_what_cannot_be_read() -> None:
    refused: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
        "without a tokenizer": (None, ("w3",), {}),
        "one prompt, not 2": (word_tokenizer(), ("w3", "w4"), {}),
        "a trace needs a prompt": (None, (), {"use_cache": False}),
        "two forms of one input": (None, ([3],), {"inputs_embeds": torch.ones(1, 1, 4)}),
        "embeddings are fractional": (None, (), {"inputs_embeds": torch.ones(1, 1, 4, dtype=torch.long)}),
        "labels is rows of numbers": (None, ([3],), {"labels": [object()]}),
    }
    for message, (tokenizer, args, kwargs) in refused.items():
        with pytest.raises(RecordError, match=message):
            read_prompt(tokenizer, args, kwargs)
    with pytest.raises(RecordError, match="different lengths, 1 to 3"):
        encode(None, (TWO,), {})


def test_a_prompt_that_is_too_long() -> None:
    needs = Needs(name="gpt2", limit=4)
    read_prompt(None, ([3] * 4,), {}, needs)
    for args, kwargs in ((([3] * 5,), {}), ((), {"inputs_embeds": torch.ones(1, 5, 2)}), (([[3], [3] * 5],), {})):
        with pytest.raises(RecordError, match=r"5 tokens, but gpt2 has positions for 4.*truncation=True, max_length=4"):
            read_prompt(None, args, kwargs, needs)
