"""Conversations as prompts: lists of messages, ``{"role": "user", "content": "Hello"}``, by the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import MisuseError

Message = Mapping[str, Any]


def conversations(prompt: Any) -> list[Sequence[Message]] | None:
    """The conversations of a prompt: itself, or the items of a list of several; ``None`` where it is something else.

    >>> conversations([{"role": "user", "content": "Hello"}])
    [[{'role': 'user', 'content': 'Hello'}]]
    >>> conversations(["Hello"]) is None
    True
    """
    if _is_conversation(prompt):
        return [prompt]
    several = isinstance(prompt, (list, tuple)) and bool(prompt) and all(map(_is_conversation, prompt))
    return list(prompt) if several else None


def _is_conversation(value: Any) -> bool:
    messages = isinstance(value, (list, tuple)) and bool(value)
    return messages and all(isinstance(item, Mapping) and "role" in item and "content" in item for item in value)


def as_texts(tokenizer: Any, chats: Sequence[Sequence[Message]]) -> list[str]:
    """The texts of conversations, with what makes the model answer at the end; one that ends with the assistant's words goes on there.

    Raises:
        MisuseError: there is no tokenizer, or it has no chat template.
    """
    if tokenizer is None:
        raise MisuseError("a conversation needs a tokenizer: LanguageModel(model, tokenizer=...)")
    if getattr(tokenizer, "chat_template", None) is None:
        raise MisuseError("this tokenizer has no chat template: set tokenizer.chat_template, or give the conversation as one text")
    texts = []
    for chat in chats:
        goes_on = chat[-1]["role"] == "assistant"
        texts.append(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on))
    return texts
