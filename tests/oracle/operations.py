"""The operations that random programs are made of: templates of Python, sorted by what they do to storage."""

from __future__ import annotations

UNARY = (
    "{0} * 0.5",
    "{0} + 1.0",
    "1.0 - {0}",
    "-{0}",
    "{0} / 2",
    "{0} ** 2",
    "abs({0})",
    "{0}.clone()",
    "{0}.clone()",
    "{0}.softmax(-1)",
    "{0}.mean(-1, keepdim=True)",
    "{0}.sum(0, keepdim=True)",
    "{0}.mean()",
    "{0}.max(-1).values",
    "{0}.cumsum(-1)",
    "{0}[..., [0, -1]]",
    "{0}[{0} > 0].sum()",
    "torch.relu({0})",
    "torch.tanh({0})",
    "torch.where({0} > 0, {0}, 0.1 * {0})",
    "torch.zeros_like({0})",
    "torch.nn.functional.gelu({0})",
)
BINARY = (
    "{0} + {1}",
    "{0} - {1}",
    "{0} * {1}",
    "torch.maximum({0}, {1})",
    "torch.lerp({0}, {1}, 0.5)",
    "torch.where({0} > {1}, {0}, {1})",
    "torch.cat(({0}, {1}), -1)",
    "torch.stack([{0}, {1}]).sum(0)",
    "torch.add({0}, {1}, alpha=0.5)",
    "{0} @ {1}.transpose(-1, -2)",
)
VIEWS = (
    "{0}[:, 0]",
    "{0}[0]",
    "{0}[-1:]",
    "{0}[..., 1:]",
    "{0}[:, ::2]",
    "{0}[..., -1]",
    "{0}[None]",
    "{0}.transpose(-1, -2)",
    "{0}.transpose(0, 1)",
    "{0}.unsqueeze(-1)",
    "{0}.squeeze(0)",
    "{0}.narrow(-1, 0, 2)",
    "{0}.select(0, 1)",
    "{0}.unflatten(-1, (2, -1))",
    "{0}.movedim(0, -1)",
    "{0}.diagonal(dim1=-2, dim2=-1)",
    "{0}.view_as({0})",
    "{0}.detach()",
)
VIEWS_WITHOUT_GRAD = ("{0}.chunk(2, -1)[0]", "{0}.unbind(0)[1]", "{0}.split(1, -1)[1]")
"""Autograd forbids in-place edits of views that were returned several at a time."""
MAYBE_VIEWS = (
    "{0}.reshape(-1)",
    "{0}.flatten(0, 1)",
    "{0}.transpose(-1, -2).reshape(-1)",
    "{0}.contiguous()",
    "{0}.to(torch.float64)",
)
MAYBE_VIEWS_BY_INDEX = ("{0}[({1}.sum() > 0).long()]",)
EDITS = (
    "{0}[:, 0] = 0",
    "{0}[0] = {n}",
    "{0}[..., -1] += {n}",
    "{0}[{0} > 0] = {n}",
    "{0}[..., 0].mul_({n})",
    "{0} += {n}",
    "{0} *= {n}",
    "{0} -= {n}",
    "{0}.add_({n})",
    "{0}.mul_({n})",
    "{0}.zero_()",
    "{0}.fill_({n})",
    "{0}.clamp_(min=0)",
    "{0}.transpose(-1, -2).neg_()",
    "{0}.masked_fill_({0} < 0, {n})",
    "torch.relu_({0})",
)
EDITS_BY_VALUE = (
    "{0}[:] = {1}",
    "{0}[:, 0] = {1}",
    "{0}[0] = {1}",
    "{0}[..., 1:] = {1}",
    "{0} += {1}",
    "{0} *= {1}",
    "{0}.add_({1})",
    "{0}.sub_({1}, alpha=0.5)",
    "{0}.mul_({1})",
    "{0}.copy_({1})",
    "{0}[:, -1].add_({1})",
    "{0}[..., 0] -= {1}",
    "{0}[{0} > {1}] = 0.25",
)
EDITS_THAT_RETURN = ("{0}.add_({n})", "{0}.mul_({n})", "{0}.clamp_(max=0.5)", "torch.relu_({0})", "{0}.fill_({n})")
NUMBERS = ("0.5", "-1.5", "2", "0.25", "-0.75")
