"""Generations: every forward is a step. What is right is what transformers does with hooks that count."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

import nnsight_graph as nnsight
from nnsight_graph import LanguageModel

from .families import text, tiny_model, word_tokenizer

PROMPT = [5, 6, 7, 8]
NEW = 5
HEAD = {"gpt2": "lm_head", "llama": "lm_head", "t5": "lm_head"}
BLOCK = {"gpt2": "transformer.h.1.mlp", "llama": "model.layers.1.mlp", "t5": "decoder.block.1.layer.2"}
CAUSAL = ["gpt2", "llama"]
CACHES = [{}, {"use_cache": False}, {"cache_implementation": "static"}]


def by_hand(module, edits=None, inputs=None, **options):
    """``(seen, result)``: outputs by path and step; ``edits[path](step, output, seen)`` is what the model goes on with."""
    seen, now, handles = {}, {"step": -1}, []

    def begin(_module, _args, _kwargs):
        now["step"] += 1

    def watch(path):
        def hook(_module, _args, output):
            step = max(now["step"], 0)
            if edits and path in edits:
                output = edits[path](step, output, seen)
            seen.setdefault((path, step), output)
            return output

        return hook

    handles.append(module.register_forward_pre_hook(begin, with_kwargs=True))
    for path, child in module.named_modules():
        handles.append(child.register_forward_hook(watch(path)))
    try:
        result = module.generate(torch.tensor([PROMPT]) if inputs is None else inputs, **options)
    finally:
        for handle in handles:
            handle.remove()
    return seen, result


def close(got, expected, **how):
    values, expected = [value.value if issubclass(type(value), nnsight.Proxy) else value for value in got], list(expected)
    assert len(values) == len(expected)
    for value, right in zip(values, expected, strict=True):
        torch.testing.assert_close(value, right, **(how or {"rtol": 0, "atol": 0}))


def wrapped(family, **options):
    """The model, twice: one for the trace, one for the hooks; no token ends a generation."""
    module = tiny_model(family, **options)
    module.generation_config.eos_token_id = None
    module.generation_config.pad_token_id = 0
    return LanguageModel(module, tokenizer=word_tokenizer("left")), copy.deepcopy(module)


def _first(output):
    """A block's output, or its first item, where it returns a tuple."""
    return output[0] if isinstance(output, tuple) else output


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("options", CACHES, ids=["cache", "no cache", "static cache"])
def test_every_step_is_read(family, options):
    lm, module = wrapped(family)
    seen, expected = by_hand(module, max_new_tokens=NEW, **options)
    with lm.generate(text(PROMPT), max_new_tokens=NEW, **options) as tracer:
        hidden, logits = nnsight.list().save(), nnsight.list().save()
        with tracer.iter[:]:
            hidden.append(lm.get(f"model.{BLOCK[family]}").output)
            logits.append(lm.get(HEAD[family]).output)
        two = None
        for step in tracer.iter[2:4]:
            two = lm.get(f"model.{BLOCK[family]}").output.save() if step == 2 else two
        result = tracer.result.save()
    first = [_first(seen[BLOCK[family], step]) for step in range(NEW)]
    close(logits, [seen[HEAD[family], step] for step in range(NEW)])
    close(map(_first, hidden), first)
    close([_first(two.value)], first[2:3])
    close([result], [expected])


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("options", CACHES, ids=["cache", "no cache", "static cache"])
def test_a_vector_of_the_prompt_steers_the_rest(family, options):
    lm, module = wrapped(family)
    block = BLOCK[family]

    def steer(step, output, seen):
        return output if step == 0 else output + 3 * seen[block, 0][:, -1:]

    _, expected = by_hand(module, {block: steer}, max_new_tokens=NEW, **options)
    with lm.generate(text(PROMPT), max_new_tokens=NEW, **options) as tracer:
        tokens = nnsight.list().save()
        with tracer.iter.prompt:
            vector = lm.get(f"model.{block}").output[:, -1:]
        with tracer.iter.generated:
            lm.get(f"model.{block}").output += 3 * vector
        with tracer.iter[:]:
            tokens.append(lm.lm_head.output[0, -1].argmax())
        result = tracer.result.save()
    assert not torch.equal(expected, module.generate(torch.tensor([PROMPT]), max_new_tokens=NEW, **options))
    close([result], [expected])
    assert [int(token) for token in tokens] == result[0, len(PROMPT) :].tolist()


def test_the_prompt_has_all_positions_and_a_generated_step_one():
    lm, module = wrapped("gpt2")
    seen, _ = by_hand(module, max_new_tokens=3)
    with lm.generate(text(PROMPT), max_new_tokens=3) as tracer:
        with tracer.iter.prompt:
            prompt = lm.transformer.h[0].mlp.output.save()
        rest = nnsight.list().save()
        with tracer.iter.generated:
            rest.append(lm.transformer.h[0].mlp.output)
    assert [value.shape[1] for value in (prompt, *rest)] == [len(PROMPT), 1, 1]
    close([prompt, *rest], [seen["transformer.h.0.mlp", step] for step in range(3)])


def test_next_and_all():
    lm, module = wrapped("gpt2")
    seen, _ = by_hand(module, max_new_tokens=3)
    with lm.generate(text(PROMPT), max_new_tokens=3):
        found = [lm.transformer.h[1].output.save()]
        found += [lm.transformer.h[1].next().output.save() for _ in range(2)]
        out = lm.generator.output.save()
    close(found, [seen["transformer.h.1", step] for step in range(3)])
    with lm.generate(text(PROMPT), max_new_tokens=3):
        every = nnsight.list().save()
        lm.transformer.h.all()
        every.append(lm.transformer.h[1].output)
        again = lm.generator.output.save()
    close([*every, again], [*(seen["transformer.h.1", step] for step in range(3)), out.value])


def test_the_last_step_after_an_open_loop_and_in_an_empty_invoke():
    lm, module = wrapped("llama")
    seen, expected = by_hand(module, max_new_tokens=NEW)
    with lm.generate(max_new_tokens=NEW) as tracer:
        with tracer.invoke(text(PROMPT)):
            with tracer.iter[:]:
                pass
            last = lm.lm_head.output.save()
        with tracer.invoke():
            again, result = lm.lm_head.output.save(), tracer.result.save()
    close([last, again, result], [seen["lm_head", NEW - 1], seen["lm_head", NEW - 1], expected])


def test_a_generation_without_a_trace():
    lm, module = wrapped("gpt2")
    close([lm.generate(text(PROMPT), max_new_tokens=3, trace=False)], [module.generate(torch.tensor([PROMPT]), max_new_tokens=3)])


def test_options_come_from_a_generation_config():
    lm, module = wrapped("gpt2")
    config = GenerationConfig(max_new_tokens=3, pad_token_id=0)
    before = config.to_dict()
    seen, expected = by_hand(module, generation_config=copy.deepcopy(config))
    with lm.generate(text(PROMPT), generation_config=config) as tracer:
        logits = nnsight.list().save()
        with tracer.iter[:]:
            logits.append(lm.lm_head.output)
        result = tracer.result.save()
    close([*logits, result], [*(seen["lm_head", step] for step in range(3)), expected])
    assert config.to_dict() == before


def test_what_generate_returns_in_a_dict():
    lm, module = wrapped("gpt2")
    options = {"max_new_tokens": 3, "return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True}
    _, expected = by_hand(module, **options)
    with lm.generate(text(PROMPT), **options) as tracer:
        result = tracer.result.save()
        sequences = tracer.result.sequences.save()
    close([result.sequences, sequences, *result.scores], [expected.sequences, expected.sequences, *expected.scores])
    close([result.hidden_states[1][2]], [expected.hidden_states[1][2]])


# ------------------------------------------------------------------ early ends


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_an_end_that_comes_early(family):
    lm, module = wrapped(family)
    plain = module.generate(torch.tensor([PROMPT]), max_new_tokens=NEW)[0].tolist()
    generated = plain[len(PROMPT) if family == "gpt2" else 1 :]
    end = generated[2]
    steps = generated.index(end) + 1
    seen, expected = by_hand(module, max_new_tokens=NEW, eos_token_id=end)
    with lm.generate(text(PROMPT), max_new_tokens=NEW, eos_token_id=end) as tracer:
        logits, numbers = nnsight.list().save(), nnsight.list().save()
        with tracer.iter[:] as step:
            logits.append(lm.lm_head.output)
            numbers.append(step)
        last = lm.lm_head.output.save()
        with tracer.iter[steps]:
            never = lm.lm_head.output.save()
            lm.lm_head.output[:] = 0
        result = tracer.result.save()
    assert steps < NEW
    assert numbers == list(range(steps))
    close([*logits, last, result], [*(seen["lm_head", step] for step in range(steps)), seen["lm_head", steps - 1], expected])
    with pytest.raises(nnsight.UnsetValueError, match=f"step {steps} never came: the model made {steps} step"):
        never.value


def test_one_of_two_rows_ends_early():
    lm, module = wrapped("gpt2")
    inputs = torch.tensor([PROMPT, [9, 10, 11, 12]])
    plain = module.generate(inputs, max_new_tokens=NEW)
    end = int(plain[0, len(PROMPT) + 1])
    expected = module.generate(inputs, max_new_tokens=NEW, eos_token_id=end)
    with lm.generate(max_new_tokens=NEW, eos_token_id=end) as tracer:
        with tracer.invoke(inputs[0].tolist()):
            one = tracer.result.save()
        with tracer.invoke(inputs[1].tolist()):
            two = tracer.result.save()
    close([one, two], [expected[:1], expected[1:]])


# ------------------------------------------------------------------ invokes


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_prompts_of_any_length_as_alone(family, use_cache):
    lm, module = wrapped(family)
    prompts = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
    alone = [by_hand(module, inputs=torch.tensor([prompt]), max_new_tokens=NEW, use_cache=use_cache) for prompt in prompts]
    with lm.generate(max_new_tokens=NEW, use_cache=use_cache) as tracer:
        results, logits = [], []
        for prompt in prompts:
            with tracer.invoke(text(prompt)):
                own = nnsight.list().save()
                with tracer.iter[:]:
                    own.append(lm.lm_head.output[:, -1])
                logits.append(own)
                results.append(tracer.result.save())
    for number, (seen, expected) in enumerate(alone):
        close(logits[number], [seen["lm_head", step][:, -1] for step in range(NEW)], rtol=1e-4, atol=1e-4)
        new = results[number].value[0, -NEW:].tolist()
        assert new == expected[0, -NEW:].tolist()


@pytest.mark.parametrize("family", CAUSAL)
def test_one_prompt_is_steered_and_the_other_is_not(family):
    lm, module = wrapped(family)
    block = BLOCK[family]
    _, plain = by_hand(module, inputs=torch.tensor([[10, 11]]), max_new_tokens=NEW)
    _, steered = by_hand(module, {block: lambda _step, output, _seen: output * -4}, max_new_tokens=NEW)
    with lm.generate(max_new_tokens=NEW) as tracer:
        with tracer.invoke(text(PROMPT)):
            with tracer.iter[:]:
                lm.get(f"model.{block}").output *= -4
            one = tracer.result.save()
        with tracer.invoke(text([10, 11])):
            two = tracer.result.save()
        with tracer.invoke():
            both = lm.generator.output.save()
    assert one.value[0, -NEW:].tolist() == steered[0, -NEW:].tolist()
    assert two.value[0, -NEW:].tolist() == plain[0, -NEW:].tolist()
    close([both], [torch.cat([one.value, two.value])])


def test_a_vector_of_one_prompt_steers_another():
    lm, module = wrapped("gpt2")
    block = BLOCK["gpt2"]
    seen, _ = by_hand(module, inputs=torch.tensor([[9, 8, 7, 6]]), max_new_tokens=1)
    vector = seen[block, 0][:, -1:] * 5
    _, expected = by_hand(module, {block: lambda step, output, _: output + vector if step else output}, max_new_tokens=NEW)
    with lm.generate(max_new_tokens=NEW) as tracer:
        with tracer.invoke(text([9, 8, 7, 6])):
            other = lm.get(f"model.{block}").output[:, -1:] * 5
        with tracer.invoke(text(PROMPT)):
            with tracer.iter.generated:
                lm.get(f"model.{block}").output += other
            result = tracer.result.save()
    close([result], [expected])


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2},
        {"num_beams": 2, "use_cache": False},
    ],
    ids=str,
)
def test_rows_are_multiplied(options):
    lm, module = wrapped("gpt2")
    inputs = torch.tensor([PROMPT, [9, 10, 11, 12]])
    options = {"max_new_tokens": NEW, **options}
    torch.manual_seed(3)
    seen, expected = by_hand(module, inputs=inputs, **options)
    torch.manual_seed(3)
    with lm.generate(**options) as tracer:
        with tracer.invoke(inputs[0].tolist()):
            one, first = tracer.result.save(), lm.lm_head.output.save()
        with tracer.invoke(inputs[1].tolist()):
            logits = nnsight.list().save()
            with tracer.iter[:]:
                logits.append(lm.lm_head.output)
            two = tracer.result.save()
    half = expected.shape[0] // 2
    close([one, two], [expected[:half], expected[half:]])
    wide = [seen["lm_head", step] for step in range(NEW)]
    close([first, *logits], [wide[0][: wide[0].shape[0] // 2], *(value[value.shape[0] // 2 :] for value in wide)])


def test_a_write_reaches_all_beams_of_an_invoke():
    lm, module = wrapped("gpt2")
    inputs = torch.tensor([PROMPT, [9, 10, 11, 12]])

    def edit(_step, output, _seen):
        output = output.clone()
        output[3:] *= -3
        return output

    _, expected = by_hand(module, {"transformer.h.1.mlp": edit}, inputs=inputs, max_new_tokens=NEW, num_beams=3)
    with lm.generate(max_new_tokens=NEW, num_beams=3) as tracer:
        with tracer.invoke(inputs[0].tolist()):
            pass
        with tracer.invoke(inputs[1].tolist()):
            with tracer.iter[:]:
                lm.transformer.h[1].mlp.output *= -3
        with tracer.invoke():
            result = tracer.result.save()
    close([result], [expected])


def test_sampling_draws_as_without_a_trace():
    lm, module = wrapped("llama")
    torch.manual_seed(1)
    _, expected = by_hand(module, max_new_tokens=NEW, do_sample=True, temperature=2.0)
    torch.manual_seed(1)
    with lm.generate(text(PROMPT), max_new_tokens=NEW, do_sample=True, temperature=2.0) as tracer:
        with tracer.iter[:]:
            lm.lm_head.output.save()
        result = tracer.result.save()
    close([result], [expected])


# ------------------------------------------------------------------ an encoder


def test_the_encoder_runs_once():
    lm, module = wrapped("t5")
    seen, expected = by_hand(module, {"encoder": lambda _, output, __: _doubled(output)}, max_new_tokens=NEW)
    with lm.generate(text(PROMPT), max_new_tokens=NEW) as tracer:
        lm.encoder.output.last_hidden_state[:] *= 2
        states = lm.encoder.output.last_hidden_state.save()
        logits = nnsight.list().save()
        with tracer.iter[:]:
            logits.append(lm.lm_head.output)
        result = tracer.result.save()
    close([*logits, result], [*(seen["lm_head", step] for step in range(NEW)), expected])
    close([states], [seen["encoder", 0].last_hidden_state])
    with pytest.raises(nnsight.MissedSiteError, match=r"encoder.output \[step 1\]"), lm.generate(text(PROMPT), max_new_tokens=3) as tracer:
        with tracer.iter[1]:
            lm.encoder.output.last_hidden_state.save()


def _doubled(output):
    output.last_hidden_state = output.last_hidden_state * 2
    return output


# ------------------------------------------------------------------ streamers


class Kept(BaseStreamer):
    def __init__(self):
        self.values, self.ended = [], 0

    def put(self, value):
        self.values.append(value.clone())

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("family", ["gpt2", "t5"])
@pytest.mark.parametrize("own", [False, True])
def test_tokens_as_they_come(family, own):
    lm, module = wrapped(family)
    other, streamer = Kept(), Kept()
    expected = module.generate(torch.tensor([PROMPT]), max_new_tokens=NEW, streamer=other)
    options = {"streamer": streamer} if own else {}
    with lm.generate(text(PROMPT), max_new_tokens=NEW, **options) as tracer:
        tokens = nnsight.list().save()
        with tracer.iter[:]:
            tokens.append(lm.generator.streamer.output)
        last = lm.generator.streamer.output.save()
        result = lm.generator.output.save()
    close([torch.cat(list(tokens)), last, result], [expected[0, -NEW:], expected[0, -1:], expected])
    if own:
        close(streamer.values, other.values)
        assert streamer.ended == 1


def test_a_streamer_of_the_users_alone():
    lm, _ = wrapped("gpt2")
    streamer = Kept()
    with lm.generate(text(PROMPT), max_new_tokens=NEW, streamer=streamer) as tracer:
        result = tracer.result.save()
    close([torch.cat([value.reshape(-1) for value in streamer.values])], [result.value[0]])


def test_tokens_that_come_cannot_be_replaced():
    lm, _ = wrapped("gpt2")
    with pytest.raises(nnsight.RecordError, match="logits"), lm.generate(text(PROMPT), max_new_tokens=NEW):
        lm.generator.streamer.output = torch.tensor([3])
    with pytest.raises(nnsight.RecordError, match="cannot be replaced"), lm.generate(text(PROMPT), max_new_tokens=NEW):
        lm.generator.output = torch.tensor([3])
    with pytest.raises(nnsight.RecordError, match="only inside a trace"):
        lm.generator.output


# ------------------------------------------------------------------ what is refused, and what is left


@pytest.mark.parametrize(
    "options",
    [
        {"assistant_model": "another"},
        {"prompt_lookup_num_tokens": 3},
        {"custom_generate": "somebody/something"},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"dola_layers": "high"},
        {"num_beams": 4, "num_beam_groups": 2},
        {"num_beams": 2, "force_words_ids": [[5]]},
        {"generation_config": GenerationConfig(prompt_lookup_num_tokens=2)},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("invoked", [False, True])
def test_generations_whose_steps_cannot_be_told_apart(options, invoked):
    lm, _ = wrapped("gpt2")
    name = "prompt_lookup_num_tokens" if "generation_config" in options else "|".join(options)
    prompts = [] if invoked else [text(PROMPT)]
    with pytest.raises(nnsight.RecordError, match=name), lm.generate(*prompts, max_new_tokens=2, **options) as tracer:
        if invoked:
            with tracer.invoke(text(PROMPT)):
                lm.lm_head.output.save()


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails):
    lm, module = wrapped("gpt2")
    config, tokenizer = lm._module.generation_config.to_dict(), {**vars(lm.tokenizer)}
    attributes = {name: set(vars(child)) for name, child in lm._module.named_modules()}
    try:
        with lm.generate(text(PROMPT), max_new_tokens=NEW, num_beams=2) as tracer:
            with tracer.iter[:]:
                hidden = lm.transformer.h[0].output
                lm.transformer.h[0].output = hidden.reshape(-1) if fails else hidden * 2
    except nnsight.NNsightError:
        assert fails
    except Exception:
        assert fails
    assert lm._module.generation_config.to_dict() == config
    assert {**vars(lm.tokenizer)} == tokenizer
    assert {name: set(vars(child)) for name, child in lm._module.named_modules()} == attributes
    close([lm._module.generate(torch.tensor([PROMPT]), max_new_tokens=3)], [module.generate(torch.tensor([PROMPT]), max_new_tokens=3)])


def test_the_shipped_model_goes_on_with_its_text():
    lm = LanguageModel("nnsight-graph/capitals")
    with lm.generate("The Eiffel Tower is in the city of", max_new_tokens=2) as tracer:
        tokens = nnsight.list().save()
        with tracer.iter[:]:
            tokens.append(lm.lm_head.output[0, -1].argmax())
        result = tracer.result.save()
    assert lm.tokenizer.decode(torch.stack(list(tokens))) == " Paris,"
    assert lm.tokenizer.decode(result[0]).endswith(" Paris,")

