"""A row of a batch has the numbers of its prompt run alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nnsight_graph.errors import RecordError
from nnsight_graph.huggingface.batching import Batch, make_batch
from nnsight_graph.huggingface.needs import read_needs
from tests.huggingface.families import FAMILIES, LONGEST, supports, text, tiny_model, word_tokenizer

ROWS = [
    [3, 4, 5],
    [6],
    [7, 8, 9, 10],
    [11, 12],
    [13],
    [14, 15, 16],
    [17, 18, 19, 20, 21],
    [22, 23],
    [24, 25],
    [26, 27, 28],
    [29],
    [30, 31, 32],
]


def mixed_invokes(tokenizer: Any) -> list[Any]:
    """ROWS, in every form in which they can be written."""
    return [
        ((text(ROWS[0]),), {}),
        (([text(ROWS[1]), text(ROWS[2])],), {}),
        ((ROWS[3],), {}),
        (([ROWS[4], ROWS[5]],), {}),
        ((), {}),  # no input, no rows
        ((torch.tensor(ROWS[6]),), {}),
        ((torch.tensor(ROWS[7:9]),), {}),
        ((tokenizer(text(ROWS[9]), return_tensors="pt"),), {}),
        (({"input_ids": [ROWS[10]]},), {}),
        ((), {"input_ids": torch.tensor([ROWS[11]])}),
    ]


def columns(batch: Batch, length: int, left: bool) -> slice:
    width = batch.inputs["attention_mask"].shape[1]
    return slice(width - length, width) if left else slice(0, length)


def close(batched: torch.Tensor, alone: torch.Tensor) -> None:
    torch.testing.assert_close(batched, alone, rtol=1e-4, atol=1e-5)


def alone(model: Any, ids: list[int], **inputs: Any) -> torch.Tensor:
    """The logits of one row, by the plain model."""
    if model.config.model_type == "t5":
        inputs = {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long), **inputs}
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), **inputs).logits[0]


def run(model: Any, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch.inputs).logits


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_equal_their_prompts_alone(family: str, side: str, attention: str) -> None:
    if not supports(family, attention):
        pytest.skip(f"{family} has no {attention}")
    model, tokenizer = tiny_model(family, attention), word_tokenizer(side)
    if (family, side) == ("bart", "left"):
        with pytest.raises(RecordError, match="padding_side = 'right'"):
            make_batch(tokenizer, read_needs(model), mixed_invokes(tokenizer))
        return
    batch = make_batch(tokenizer, read_needs(model), mixed_invokes(tokenizer))
    assert batch.rows == ((0, 1), (1, 3), (3, 4), (4, 6), (6, 7), (7, 9), (9, 10), (10, 11), (11, 12))
    assert batch.size == 12
    logits = run(model, batch)
    assert not logits.isnan().any()
    for row, ids in enumerate(ROWS):
        where = slice(0, 1) if family == "t5" else columns(batch, len(ids), side == "left")
        close(logits[row, where], alone(model, ids))


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_without_position_ids_a_row_padded_on_the_left_is_another(family: str) -> None:
    model = tiny_model(family)
    batch = make_batch(word_tokenizer("left"), read_needs(model), [(([3, 4, 5, 6],), {}), (([7],), {})])
    right = run(model, batch)
    del batch.inputs["position_ids"]
    assert (run(model, batch)[1, -1] - right[1, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "bloom", "gpt_neox", "bert", "roberta", "t5"])
def test_embeddings_go_in_like_ids(family: str, side: str) -> None:
    model, tokenizer = tiny_model(family), word_tokenizer(side)
    embed = model.get_input_embeddings()
    invokes = [((), {"inputs_embeds": embed(torch.tensor([ids])).detach()}) for ids in ([3, 4, 5], [6])]
    batch = make_batch(tokenizer, read_needs(model), [*invokes, ((), {"inputs_embeds": embed(torch.tensor([7, 8])).detach()})])
    logits = run(model, batch)
    for row, ids in enumerate(([3, 4, 5], [6], [7, 8])):
        where = slice(0, 1) if family == "t5" else columns(batch, len(ids), side == "left")
        close(logits[row, where], alone(model, ids))


def test_gradients_reach_embeddings_of_every_invoke() -> None:
    model = tiny_model("gpt2")
    embeds = [torch.randn(1, n, 16, requires_grad=True) for n in (2, 3)]
    batch = make_batch(None, read_needs(model), [((), {"inputs_embeds": value}) for value in embeds])
    model(**batch.inputs).logits[:, -1].sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in embeds)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "bloom", "gpt_neox", "t5"])
def test_generated_tokens_equal_those_alone(family: str, side: str) -> None:
    model, tokenizer = tiny_model(family), word_tokenizer(side)
    rows = [[3, 4, 5, 6], [7], [8, 9]]
    batch = make_batch(tokenizer, read_needs(model), [((ids,), {}) for ids in rows], generate=True)
    assert set(batch.inputs) == {"input_ids", "attention_mask"}
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    tokens = model.generate(**batch.inputs, **options)
    for row, ids in enumerate(rows):
        own = model.generate(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), **options)
        assert tokens[row, -4:].tolist() == own[0, -4:].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_hidden_tokens_keep_their_numbers(family: str, side: str) -> None:
    model, ids = tiny_model(family), [3, 4, 5]
    for mask in ([1, 0, 1], [0, 1, 1]):
        batch = make_batch(word_tokenizer(side), read_needs(model), [((ids,), {"attention_mask": [mask]}), (([6, 7, 8, 9],), {})])
        where = columns(batch, 3, side == "left")
        close(run(model, batch)[0, where][-1], alone(model, ids, attention_mask=torch.tensor([mask]))[-1])


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "bloom", "bert"])
def test_padding_of_the_users_own_is_padding(family: str) -> None:
    model, tokenizer = tiny_model(family), word_tokenizer("left")
    encoding = tokenizer([text([3, 4, 5]), text([6])], padding=True, return_tensors="pt")
    one = make_batch(tokenizer, read_needs(model), [((encoding,), {})])
    two = make_batch(tokenizer, read_needs(model), [((encoding,), {}), (([7, 8, 9, 10],), {})])
    for batch in (one, two):
        close(run(model, batch)[1, -1:], alone(model, [6]))
        close(run(model, batch)[0, -3:], alone(model, [3, 4, 5]))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "bert"])
def test_position_ids_of_one_invoke_leave_the_others_theirs(family: str, side: str) -> None:
    model = tiny_model(family)
    own = torch.tensor([[5, 6, 9]])
    batch = make_batch(
        word_tokenizer(side), read_needs(model), [(([3, 4, 5],), {"position_ids": own}), (([6, 7, 8, 9],), {}), (([6],), {})]
    )
    logits, left = run(model, batch), side == "left"
    mask = torch.ones(1, 3, dtype=torch.long)
    close(logits[0, columns(batch, 3, left)], alone(model, [3, 4, 5], position_ids=own, attention_mask=mask))
    close(logits[1], alone(model, [6, 7, 8, 9]))
    close(logits[2, columns(batch, 1, left)], alone(model, [6]))


def test_a_model_that_counts_the_mask_does_so_beside_given_numbers() -> None:
    model, mask = tiny_model("opt"), torch.tensor([[1, 0, 1]])
    given = (([6, 7, 8, 9],), {"position_ids": torch.arange(4)})
    logits = run(model, make_batch(None, read_needs(model), [(([3, 4, 5],), {"attention_mask": mask}), given]))
    close(logits[0, -1], alone(model, [3, 4, 5], attention_mask=mask)[-1])


def test_position_ids_that_jump_need_a_mask() -> None:
    needs = read_needs(tiny_model("llama"))
    packed = ((), {"input_ids": [[3, 4]], "position_ids": torch.tensor([[0, 0]])})
    with pytest.raises(RecordError, match="attention_mask= beside"):
        make_batch(None, needs, [packed, (([5, 6, 7],), {})])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gpt2", "bloom", "opt", "bert"])
def test_the_loss_counts_the_same_tokens(family: str, side: str) -> None:
    """The loss of a batch is the mean over all labels that count, so invokes weigh as much as they have labels."""
    model, rows = tiny_model(family), [[3, 4, 5, 6], [7, 8]]
    batch = make_batch(
        word_tokenizer(side), read_needs(model), [((ids,), {"labels": torch.tensor([ids])}) for ids in rows] + [(([9],), {})]
    )
    with torch.no_grad():
        losses = [model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss for ids in rows]
        loss = model(**batch.inputs).loss
    counted = [len(ids) - (0 if family == "bert" else 1) for ids in rows]
    close(loss, sum(one * count for one, count in zip(losses, counted, strict=True)) / sum(counted))


def test_classes_are_joined_and_missing_ones_do_not_count() -> None:
    needs = read_needs(tiny_model("bert"))
    batch = make_batch(
        None, needs, [(([3, 4],), {"labels": torch.tensor([1])}), (([5],), {}), (([[6], [7]],), {"labels": torch.tensor([0, 2])})]
    )
    assert batch.inputs["labels"].tolist() == [1, -100, 0, 2]


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_decoder_reads_is_padded_on_its_right(side: str) -> None:
    model, tokenizer = tiny_model("t5"), word_tokenizer(side)
    invokes = [((text([3, 4, 5]),), {"labels": text([6, 7])}), ((text([8]),), {"labels": [[9, 10, 11]]}), ((text([12, 13]),), {})]
    batch = make_batch(tokenizer, read_needs(model), invokes)
    assert batch.inputs["labels"].tolist() == [[6, 7, -100], [9, 10, 11], [-100, -100, -100]]
    assert "decoder_input_ids" not in batch.inputs
    logits = run(model, batch)
    close(logits[0, :2], alone(model, [3, 4, 5], decoder_input_ids=torch.tensor([[0, 6]])))
    close(logits[1], alone(model, [8], decoder_input_ids=torch.tensor([[0, 9, 10]])))
    close(logits[2, :1], alone(model, [12, 13]))


def test_decoder_ids_of_several_lengths() -> None:
    model = tiny_model("t5")
    batch = make_batch(None, read_needs(model), [(([3],), {"decoder_input_ids": [0, 5, 6]}), (([4, 5],), {})])
    assert batch.inputs["decoder_input_ids"].tolist() == [[0, 5, 6], [0, 0, 0]]
    logits = run(model, batch)
    close(logits[0], alone(model, [3], decoder_input_ids=torch.tensor([[0, 5, 6]])))
    close(logits[1, :1], alone(model, [4, 5]))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_prompt_is_what_the_tokenizer_gives(family: str) -> None:
    tokenizer, model = word_tokenizer("left", names=("input_ids", "token_type_ids", "attention_mask")), tiny_model(family)
    needs, prompt = read_needs(model), text([3, 4, 5])
    inputs = make_batch(tokenizer, needs, [((prompt,), {"use_cache": False})]).inputs
    expected = {**tokenizer(prompt, return_tensors="pt"), "use_cache": False}
    if family == "t5":
        expected["decoder_input_ids"] = torch.tensor([[0]])
    assert list(inputs) == [*expected] or set(inputs) == set(expected)
    torch.testing.assert_close({**inputs, "use_cache": 0}, {**expected, "use_cache": 0}, rtol=0, atol=0)


def test_one_prompts_tensors_are_passed_on_themselves() -> None:
    embeds = torch.randn(2, 3, 16, requires_grad=True)
    assert make_batch(None, read_needs(tiny_model("gpt2")), [((), {"inputs_embeds": embeds})]).inputs == {"inputs_embeds": embeds}


def test_a_tokenizer_without_a_padding_token_is_left_as_it_is() -> None:
    tokenizer, model = word_tokenizer("left", pad=None), tiny_model("gpt2")
    batch = make_batch(tokenizer, read_needs(model), [((text([3, 4, 5]),), {}), ((text([6]),), {})])
    assert batch.inputs["input_ids"].tolist() == [[3, 4, 5], [1, 1, 6]]  # the end of text
    assert (tokenizer.pad_token, tokenizer.padding_side) == (None, "left")
    tokenizer.add_special_tokens({"pad_token": "<new>"})  # an id that the model has no embedding for
    assert make_batch(tokenizer, read_needs(model), [(([[3, 4], [5]],), {})]).inputs["input_ids"].tolist() == [[3, 4], [1, 5]]


def test_token_types_are_zero_where_an_invoke_gives_none() -> None:
    tokenizer, needs = word_tokenizer(names=("input_ids", "token_type_ids", "attention_mask")), read_needs(tiny_model("bert"))
    pair = {"input_ids": [[3, 4, 5]], "token_type_ids": [[0, 1, 1]]}
    batch = make_batch(tokenizer, needs, [((pair,), {}), (([6],), {}), ((text([7, 8]),), {})])
    assert batch.inputs["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_arguments_of_the_model_are_shared() -> None:
    needs = read_needs(tiny_model("gpt2"))
    first, second = (([3, 4],), {"output_attentions": True}), (([5],), {"use_cache": False, "output_attentions": True})
    inputs = make_batch(None, needs, [first, second], {"output_hidden_states": True}).inputs
    assert (inputs["output_attentions"], inputs["use_cache"], inputs["output_hidden_states"]) == (True, False, True)
    with pytest.raises(RecordError, match="use_cache has two values"):
        make_batch(None, needs, [(([3],), {"use_cache": True}), second])
    with pytest.raises(RecordError, match="use_cache has two values"):
        make_batch(None, needs, [second], {"use_cache": True})


def test_further_tensors_with_an_entry_for_each_row_are_joined() -> None:
    needs, extra = read_needs(tiny_model("gpt2")), torch.arange(6.0).view(3, 2)
    batch = make_batch(None, needs, [(([3, 4, 5],), {"extra": extra[:1]}), (([[6], [7]],), {"extra": extra[1:]})])
    assert batch.inputs["extra"].equal(extra)
    spans = [torch.ones(1, 3), torch.ones(1, 1)]  # as wide as the rows are long
    batch = make_batch(
        word_tokenizer("left"), needs, [((ids,), {"spans": span}) for ids, span in zip([[3, 4, 5], [6]], spans, strict=True)]
    )
    assert batch.inputs["spans"].tolist() == [[1, 1, 1], [0, 0, 1]]
    with pytest.raises(RecordError, match="extra is given to some"):
        make_batch(None, needs, [(([3],), {"extra": extra[:1]}), (([4],), {})])


def test_what_does_not_go_into_one_call_is_refused() -> None:
    gpt2, needs = tiny_model("gpt2"), read_needs(tiny_model("gpt2"))
    embeds = ((), {"inputs_embeds": torch.randn(1, 2, 16)})
    refused = {
        "cannot be mixed": [(([3],), {}), embeds],
        "several dtypes": [embeds, ((), {"inputs_embeds": torch.randn(1, 2, 16).double()})],
        "more than their length": [embeds, ((), {"inputs_embeds": torch.randn(1, 3, 8)})],
        "attention_mask: rows of shapes": [(([3, 4],), {"attention_mask": torch.ones(1, 3)}), (([5],), {})],
        "only its maker knows": [(([3],), {"past_key_values": object()}), (([4, 5],), {})],
        "labels has 3 rows": [(([[3], [4]],), {"labels": torch.ones(3, 1, dtype=torch.long)}), (([4, 5],), {})],
        "tokens has numbers of shape": [(([3, 4],), {"position_ids": torch.tensor([[0, 1, 2]])}), (([4, 5],), {})],
        "a batch of nothing": [((), {})],
    }
    for message, invokes in refused.items():
        with pytest.raises(RecordError, match=message):
            make_batch(None, needs, invokes)
    with pytest.raises(RecordError, match="give it to the invokes"):
        make_batch(None, read_needs(gpt2), [(([3],), {})], {"labels": torch.tensor([[3]])})


def test_a_model_without_a_mask_takes_only_rows_of_one_length() -> None:
    class Bag(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return input_ids.sum(1)

    needs = read_needs(Bag())
    assert list(make_batch(word_tokenizer(), needs, [((text([3, 4]),), {}), (([5, 6],), {})]).inputs) == ["input_ids"]
    with pytest.raises(RecordError, match="takes no attention_mask"):
        make_batch(None, needs, [(([3, 4],), {}), (([5],), {})])


def test_a_decoder_that_reads_the_input_gets_no_padding_before_it() -> None:
    needs = replace(read_needs(tiny_model("t5")), decoder="own")
    with pytest.raises(RecordError, match="decodes its own input"):
        make_batch(word_tokenizer("left"), needs, [(([3, 4],), {}), (([5],), {})])
    assert "decoder_input_ids" not in make_batch(word_tokenizer("right"), needs, [(([3, 4],), {}), (([5],), {})]).inputs


def test_a_decoder_needs_to_know_where_to_start() -> None:
    needs = read_needs(tiny_model("t5", decoder_start_token_id=None))
    with pytest.raises(RecordError, match="decoder_input_ids="):
        make_batch(None, needs, [(([3],), {})])


def test_a_prompt_may_be_as_long_as_the_table_of_positions() -> None:
    model = tiny_model("roberta")
    longest = list(range(3, LONGEST + 2))  # RoBERTa's table begins behind its padding token's place
    close(run(model, make_batch(word_tokenizer("left"), read_needs(model), [((longest,), {}), (([3],), {})]))[1, -1:], alone(model, [3]))
