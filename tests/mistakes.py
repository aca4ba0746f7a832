"""Mistakes that users make, each with the error that it gets: the table behind the tests and behind a section of ``docs/errors.md``.

``python -m tests.mistakes --write`` writes that section anew.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import nnsight_graph as nnsight
from nnsight_graph import CacheDict, LanguageModel, NNsight

PAGE = Path(__file__).parent.parent / "docs" / "errors.md"
BEGIN, END = "<!-- mistakes -->\n", "<!-- end of mistakes -->\n"
HERE = "  # here"


class Mistake(NamedTuple):
    """A program that goes wrong.

    Attributes:
        title: What was done.
        error: The class of the error.
        text: A part of its message, as a regular expression.
        program: Runs it; the line that the error stands on ends with ``# here``.
    """

    title: str
    error: type[BaseException]
    text: str
    program: Callable[[], Any]

    @property
    def line(self) -> str:
        """The line at fault."""
        lines = [line for line in inspect.getsource(self.program).splitlines() if line.endswith(HERE)]
        return lines[0].removesuffix(HERE).strip() if lines else ""


MISTAKES: list[Mistake] = []


def mistake(title: str, error: type[BaseException], text: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add a program to the table."""

    def add(program: Callable[[], Any]) -> Callable[[], Any]:
        MISTAKES.append(Mistake(title, error, text, program))
        return program

    return add


torch.manual_seed(0)
net = nn.Sequential(OrderedDict(layer1=nn.Linear(5, 10), layer2=nn.Linear(10, 2)))
model = NNsight(net)
other = NNsight(nn.Linear(5, 5))
lm = LanguageModel("nnsight-graph/capitals")
x = torch.ones(1, 5)
prompt = "The Eiffel Tower is in the city of"

# ---------------------------------------------------------------------- shapes, indices, types


@mistake("A value of another shape is put in a module's place", RuntimeError, r"shapes cannot be multiplied \(1x7 and 10x2\)")
def wrong_shape() -> None:
    with model.trace(x, validate=True):
        model.layer1.output = torch.zeros(1, 7)  # here


@mistake("An index that is too large", IndexError, "index 10 is out of bounds for dimension 1 with size 10")
def wrong_index() -> None:
    with model.trace(x, validate=True):
        model.layer1.output[:, 10] = 0  # here


@mistake("A value of another dtype is put in a module's place", RuntimeError, "same dtype")
def wrong_dtype() -> None:
    with model.trace(x, validate=True):  # here
        model.layer1.output = model.layer1.output.double()


@mistake("Tensors on two devices", RuntimeError, "on the same device|two different devices|[Dd]evice")
def wrong_device() -> None:
    with model.trace(x, validate=True):
        (model.layer1.output + torch.ones(10, device="meta")).save()  # here


@mistake("A list where a tensor belongs", TypeError, "must be Tensor, not list")
def list_for_tensor() -> None:
    with model.trace(x, validate=True):
        model.layer1.output = [1.0, 2.0]  # here


@mistake("`None` where a tensor belongs", TypeError, "cannot be replaced by None")
def none_for_tensor() -> None:
    with model.trace(x):
        model.layer1.output = None  # here


@mistake("Shapes that do not fit an operation", RuntimeError, "must match the size")
def operands_that_do_not_fit() -> None:
    with model.trace(x, validate=True):
        (model.layer1.output + torch.ones(3)).save()  # here


@mistake("An edit of a slice of a copy: an index list makes a copy, so the model never sees it", nnsight.RecordError, "changes a copy")
def edit_of_a_copy() -> None:
    with model.trace(x, validate=True):
        model.layer1.output[[0]][:, 3] = 0  # here


@mistake("An operation on a tuple as if it were a tensor", TypeError, "can't multiply sequence")
def tuple_as_tensor() -> None:
    with lm.trace(prompt, validate=True):
        (lm.transformer.h[0].attn.output * 0.5).save()  # here


@mistake("Unpacking into the wrong number of names", ValueError, "too many values to unpack")
def wrong_number_of_names() -> None:
    with model.trace(x.repeat(3, 1)):
        a, b = model.layer1.output  # here
        a.save(), b.save()


@mistake("A method that tensors do not have", AttributeError, "has no attribute 'summ'")
def wrong_method() -> None:
    with model.trace(x, validate=True):
        model.layer1.output.summ().save()  # here


@mistake("`.inputs` without its structure", TypeError, r"takes \(\(positional, ...\), \{name: value\}\)")
def wrong_inputs() -> None:
    with model.trace(x):
        model.layer1.inputs = torch.zeros(1, 5)  # here


# ---------------------------------------------------------------------- names


@mistake("A module that is not there", AttributeError, "Near: layer1|Near: layer2")
def wrong_module_name() -> None:
    with model.trace(x):
        model.layer3.output.save()  # here


@mistake("An index of a module that is not there", IndexError, r"has 8 submodules: there is no model.transformer.h\[8\]")
def wrong_module_index() -> None:
    with lm.trace(prompt):
        lm.transformer.h[8].output.save()  # here


@mistake("A module where a value belongs", nnsight.RecordError, "is a module, not a value: use model.layer1.output")
def module_as_value() -> None:
    with model.trace(x):
        (model.layer2.output + model.layer1).save()  # here


@mistake("A site outside a trace", nnsight.RecordError, "is there only inside a trace")
def site_outside_a_trace() -> None:
    model.layer1.output  # here


@mistake("Two models in one trace", nnsight.RecordError, "belongs to another model")
def two_models() -> None:
    with model.trace(x):
        model.layer1.output[:] = other.output.sum()  # here


@mistake("An unknown module in a cache", nnsight.RecordError, "no module 'layer9'. Near")
def unknown_module_in_a_cache() -> None:
    with model.trace(x) as tracer:
        tracer.cache(["layer9"])  # here


# ---------------------------------------------------------------------- order and reach


@mistake("An edit that needs what comes later", nnsight.OutOfOrderError, "which the model reaches only after it")
def late_write() -> None:
    with model.trace(x, validate=True):
        model.layer1.output[:] = model.layer2.output.sum()  # here


@mistake("A module that does not run", nnsight.MissedSiteError, "was never reached")
def module_that_never_runs() -> None:
    spare = NNsight(nn.ModuleDict({"used": nn.Linear(5, 5), "unused": nn.Linear(5, 5)}))
    spare._module.forward = lambda value: spare._module["used"](value)
    with spare.trace(x):
        spare.unused.output.save()  # here


@mistake("A step that never comes", nnsight.UnsetValueError, "step 40 never came")
def step_that_never_comes() -> None:
    with lm.generate(prompt, max_new_tokens=3) as tracer:
        with tracer.iter[40]:
            late = lm.lm_head.output.save()
    late.value  # here


@mistake("A write in the last step", nnsight.RecordError, "that it was the last is known only when it is over")
def write_in_the_last_step() -> None:
    with lm.generate(prompt, max_new_tokens=3) as tracer:
        for _ in tracer.iter[:]:
            lm.lm_head.output.save()
        lm.lm_head.output = torch.zeros(1)  # here


@mistake("A value of a branch is used outside it", nnsight.CheckError, "may not exist here")
def value_of_a_branch() -> None:
    with model.trace(x) as tracer:
        with tracer.cond(model.layer1.output.sum() > 0):
            doubled = model.layer1.output * 2
        (doubled + 1).save()  # here


@mistake("A call counted from behind", nnsight.RecordError, "calls are counted from 0")
def call_from_behind() -> None:
    with model.trace(x):
        model.layer1.call[-1].output.save()  # here


# ---------------------------------------------------------------------- values


@mistake("A value that was not saved", nnsight.UnsetValueError, "it was not saved: add .save\\(\\) to the line")
def forgotten_save() -> None:
    with model.trace(x):
        hidden = model.layer1.output
    hidden + 1  # here


@mistake("A value of an earlier trace that was not saved", nnsight.UnsetValueError, "only saved values can be used in a later one")
def value_of_an_earlier_trace() -> None:
    with model.trace(x):
        hidden = model.layer1.output
    with model.trace(x):
        model.layer1.output[:] = hidden  # here


@mistake("A value of a trace that failed", nnsight.UnsetValueError, "its trace was given up")
def value_of_a_failed_trace() -> None:
    try:
        with model.trace(x):
            hidden = model.layer1.output.save()
            raise KeyError("mine")
    except KeyError:
        pass
    hidden + 1  # here


@mistake("`if` on a traced value in a function that the block calls", nnsight.RecordError, "Use tracer.cond\\(value\\), or torch.where")
def if_in_a_function() -> None:
    def silence(value: Any) -> None:
        if value.sum() > 0:  # here
            value[:] = 0

    with model.trace(x):
        silence(model.layer1.output)


@mistake("Iterating a value of unknown length", nnsight.RecordError, "how many items a traced value has is unknown")
def iterating_what_is_not_known() -> None:
    def each(value: Any) -> list[Any]:
        return [row * 2 for row in value.nonzero()]  # here

    with model.trace(x):
        each(model.layer1.output)


@mistake("`.item()` used as a number of Python's", nnsight.RecordError, "known only while the model runs")
def item_as_a_number() -> None:
    names = ["a", "b"]
    with model.trace(x):
        names[model.layer1.output.argmax().item()]  # here


@mistake("A traced value in a formatted string", nnsight.RecordError, "Use tracer.log to print it while the model runs")
def formatted() -> None:
    with model.trace(x):
        f"{model.layer1.output.sum():.2f}"  # here


@mistake("numpy on a traced value", nnsight.RecordError, "Save it and convert it afterwards, or use nnsight_graph.apply")
def numpy_in_a_trace() -> None:
    with model.trace(x):
        np.linalg.norm(np.asarray(model.layer1.output))  # here


@mistake("Copying a traced value", nnsight.RecordError, r"Use .clone\(\), or save it")
def deep_copy() -> None:
    with model.trace(x):
        copy.deepcopy(model.layer1.output)  # here


@mistake("Saving outside a trace", nnsight.RecordError, "save belongs inside its trace|save belongs inside a trace")
def saving_outside() -> None:
    nnsight.save(torch.ones(1))  # here


@mistake("A function that writes into its argument", nnsight.NNsightError, r"mutates=\(0,\)")
def function_that_writes() -> None:
    def clipped(value: torch.Tensor) -> torch.Tensor:
        return value.clamp_(0, 1)

    with model.trace(x):
        nnsight.apply(clipped, model.layer1.output).save()  # here


@mistake("A value that the model overwrites", nnsight.NNsightError, "Read a copy: 0.output.clone\\(\\)")
def overwritten() -> None:
    inplace = NNsight(nn.Sequential(nn.Linear(5, 5), nn.ReLU(inplace=True)))
    with torch.no_grad(), inplace.trace(x):
        inplace[0].output.save()  # here


# ---------------------------------------------------------------------- the model itself


@mistake("An edit of a parameter in a branch", nnsight.RecordError, "Here, edit a .clone\\(\\)")
def edit_of_a_parameter() -> None:
    with model.trace(x) as tracer:
        with tracer.cond(model.layer1.output.sum() > 0):
            model.layer1.weight[0] = 0  # here


@mistake("Assigning an attribute of a module in a trace", nnsight.RecordError, "cannot be assigned in a trace")
def assigned_attribute() -> None:
    with model.trace(x):
        model.layer1.out_features = 3  # here


@mistake("An optimizer's step in a trace", nnsight.RecordError, "before the model runs")
def optimizer_step() -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with model.trace(x):
        model.layer1.output.sum().save()
        optimizer.step()  # here


@mistake("A compiled model", nnsight.NNsightError, "Wrap the model as it was before")
def compiled_model() -> None:
    NNsight(torch.compile(net))  # here


@mistake("The result of the call is replaced", nnsight.RecordError, "the result of a call cannot be replaced")
def replaced_result() -> None:
    with lm.generate(prompt, max_new_tokens=1):
        lm.generator.output = torch.zeros(1)  # here


# ---------------------------------------------------------------------- traces and invokes


@mistake("A trace in a trace", nnsight.RecordError, "traces cannot be nested")
def nested_traces() -> None:
    with model.trace(x):
        with other.trace(x):  # here
            pass


@mistake("A trace that is used twice", nnsight.RecordError, "open a new one with model.trace")
def used_twice() -> None:
    tracer = model.trace(x)
    with tracer:
        model.layer1.output.save()
    with tracer:  # here
        pass


@mistake("More than a look at the graph before the block has ended", nnsight.RecordError, "in its open block a graph can be printed")
def graph_too_early() -> None:
    with model.trace(x) as tracer:
        tracer.graph.save("program.nng")  # here


@mistake("A line for a trace that is over", nnsight.RecordError, r"tracer.stop\(\) belongs inside the block of its tracer")
def line_too_late() -> None:
    with model.trace(x) as tracer:
        model.layer1.output.save()
    tracer.stop()  # here


@mistake("A cache before the block has ended", nnsight.RecordError, "is filled when its trace has run")
def cache_too_early() -> None:
    with model.trace(x) as tracer:
        cache: CacheDict = tracer.cache()
        cache.model.layer1  # here


@mistake("A trace without an input", nnsight.RecordError, r"a trace needs an input: model.trace\(x\)")
def no_input() -> None:
    with model.trace():  # here
        model.layer1.output.save()


@mistake("An invoke in a trace that has an input", nnsight.RecordError, r"invokes belong to a trace without one, model.trace\(\)")
def invoke_beside_an_input() -> None:
    with model.trace(x) as tracer:
        with tracer.invoke(x):  # here
            pass


@mistake("An invoke without an input, before any with one", nnsight.RecordError, "there is none yet")
def empty_invoke_first() -> None:
    with model.trace() as tracer:
        with tracer.invoke():  # here
            pass


@mistake("An invoke in an invoke", nnsight.RecordError, "invokes cannot be nested")
def nested_invokes() -> None:
    with model.trace() as tracer:
        with tracer.invoke(x):
            with tracer.invoke(x):  # here
                pass


@mistake("Rows that are not the invoke's", nnsight.NNsightError, r"the rows of this invoke are \[1, 10\]; what is put there is \[2, 10\]")
def wrong_rows() -> None:
    with model.trace(validate=True) as tracer:
        with tracer.invoke(x):
            model.layer1.output = torch.zeros(2, 10)  # here
        with tracer.invoke(x):
            model.layer2.output.save()


@mistake("Inputs that make no batch", nnsight.RecordError, "the invokes do not fit into one batch")
def inputs_that_make_no_batch() -> None:
    with model.trace() as tracer:  # here
        with tracer.invoke(torch.ones(1, 5)):
            model.layer1.output.save()
        with tracer.invoke(torch.ones(1, 6)):
            model.layer1.output.save()


# ---------------------------------------------------------------------- language models


@mistake("An empty prompt", nnsight.RecordError, "empty|no tokens")
def empty_prompt() -> None:
    with lm.trace(""):  # here
        lm.lm_head.output.save()


@mistake("A prompt that is too long", nnsight.RecordError, "has positions for 96")
def long_prompt() -> None:
    with lm.trace(" the" * 200):  # here
        lm.lm_head.output.save()


@mistake("An option that is spelt wrong", nnsight.RecordError, "'validat' is taken by nothing.*near: validate")
def spelt_wrong() -> None:
    with model.trace(x, validat=True):  # here
        model.layer1.output.save()


@mistake("An argument that the model does not have", nnsight.RecordError, "'attention_maks' is taken by nothing.*near: attention_mask")
def no_such_argument() -> None:
    with lm.trace(prompt, attention_maks=torch.ones(1, 11)):  # here
        lm.lm_head.output.save()


@mistake("Pictures for a model that is given no processor", nnsight.RecordError, "'images' is for a processor")
def no_processor() -> None:
    with lm.trace(prompt, images=[]):  # here
        lm.lm_head.output.save()


@mistake("An argument of generate for a trace", nnsight.RecordError, "'max_new_tokens' is an argument of generate")
def no_generation() -> None:
    with lm.trace(prompt, max_new_tokens=3):  # here
        lm.lm_head.output.save()


@mistake("An option for the tokenizer, without text", nnsight.RecordError, "truncation is for the tokenizer")
def no_text() -> None:
    with lm.trace([401, 481, 74], truncation=True):  # here
        lm.lm_head.output.save()


@mistake("A prompt for a model that was given without a tokenizer", nnsight.RecordError, "tokenizer")
def no_tokenizer() -> None:
    plain = LanguageModel(lm.dispatch()._module)
    with plain.trace(prompt):  # here
        plain.lm_head.output.save()


@mistake("Generation whose steps cannot be told apart", nnsight.RecordError, "runs the model several tokens ahead")
def assisted_generation() -> None:
    with lm.generate(prompt, prompt_lookup_num_tokens=3):  # here
        lm.lm_head.output.save()


@mistake("A remote run", nnsight.RemoteError, "leave remote=True out to run here")
def remote_run() -> None:
    with lm.trace(prompt, remote=True):  # here
        lm.lm_head.output.save()


# ---------------------------------------------------------------------- modules, tracers and values taken for each other


@mistake("`.save()` of a module", AttributeError, r"a module, and not a value\. Write model\.layer1\.output\.save\(\)")
def module_saved() -> None:
    with model.trace(x):
        model.layer1.save()  # here


@mistake("Arithmetic with a module", TypeError, r"is a module, and not a value: write model\.layer1\.output")
def module_as_number() -> None:
    with model.trace(x):
        model.layer1 * 2  # here


@mistake("`.save` without parentheses", AttributeError, r"without parentheses: it keeps nothing, .* Write \.save\(\)")
def save_without_parentheses() -> None:
    with model.trace(x):
        value = model.layer1.output.save
    value.shape  # here


@mistake("The output of a list of modules", nnsight.RecordError, r"a list of modules: it is never called, .*\.h\[0\]\.output")
def output_of_a_list() -> None:
    with lm.trace(prompt):
        lm.transformer.h.output.save()  # here


@mistake("A name of another family's", AttributeError, r"It has transformer, lm_head; .*rename=\"standard\"")
def name_of_another_family() -> None:
    with lm.trace(prompt):
        lm.model.layers[3].output.save()  # here


@mistake("A name that is misspelt", AttributeError, r"has no 'ouput'\. Near: output")
def misspelt() -> None:
    with model.trace(x):
        model.layer1.ouput  # here


@mistake("An invoke of the model", AttributeError, r"that is the tracer's\. with model\.trace\(\) as tracer: with tracer\.invoke")
def invoke_of_a_model() -> None:
    with lm.invoke(prompt):  # here
        pass


@mistake("A trace without `with`", AttributeError, "a tracer has no 'logits': the model runs when a with block ends")
def trace_without_with() -> None:
    out = lm.trace(prompt)
    out.logits  # here


@mistake("A block that is not there", IndexError, r"has 8 submodules: there is no model\.transformer\.h\[33\]")
def block_out_of_range() -> None:
    with lm.trace(prompt):
        lm.transformer.h[33].output.save()  # here


@mistake("A name bound under a traced `if`", nnsight.UnsetValueError, r"write nnsight\.save\(count\) below it, in the block")
def bound_in_a_branch() -> None:
    count = 0
    with model.trace(x):
        if model.layer1.output.sum() < 1e9:
            count += 1
    count + 1  # here


@mistake("Text given to a call of the model", TypeError, r"takes ids, not text: use with model\.trace\(text\)")
def text_to_a_call() -> None:
    lm("The Eiffel Tower")  # here


@mistake("A function of another library on a traced value", TypeError, r"decode\(\) was given a traced value.*\.apply\(decode, value\)")
def decoded_at_once() -> None:
    with lm.trace(prompt):
        lm.tokenizer.decode(lm.lm_head.output[0, -1].argmax())  # here


@mistake("An output outside a trace", ValueError, r"is there only inside a trace")
def output_outside() -> None:
    model.layer1.output.save()  # here


def section() -> str:
    """The section of the page."""
    rows = ["| Mistake | Line | Error |", "|---|---|---|"]
    for one in MISTAKES:
        try:
            one.program()
            shown = "-"
        except one.error as error:
            name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ in ("builtins", "nnsight_graph.errors"))
            shown = f"`{name}`: {_short(str(error))}"
        rows.append(f"| {one.title} | `{one.line}` | {shown} |".replace("||", "\\|\\|"))
    return "\n".join(rows) + "\n"


def _short(text: str) -> str:
    text = text.splitlines()[0].replace("|", "\\|").replace(str(Path(__file__)), "mistakes.py").replace(" of /", " of ")
    return text if len(text) <= 260 else text[:257] + "..."


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if "--write" in sys.argv:
        PAGE.write_text(f"{before}{BEGIN}{section()}{END}{after}")
    else:
        print(section())
