"""Conversations as a tokenizer's chat template writes them: which tokens are whose.

Few templates mark the replies (``{% generation %}``), so contents are found from outside: a message is rendered again
with two characters around its content that occur nowhere else, and without these the rendering must be the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from emoreg.corpus.passage import Passage

Messages = Sequence[Any]
"""What datasets have under ``messages``: objects with a ``role`` and a ``content``, a text."""


class Span(NamedTuple):
    """The tokens of a message's own content, in the conversation as `apply_chat_template` tokenises it."""

    role: str
    start: int
    end: int
    """One past the last."""

    @property
    def reply_start(self) -> int:
        """The position from which the content is predicted: the template's last token before it, the "colon" after
        "Assistant" in Sofroniew et al. Scope ``reply_start`` selects it where a reply's labels start at its content;
        where they start at something that the template puts first, such as an empty ``<think></think>``, before that.

        Raises:
            ValueError: if the template writes nothing before the content.
        """
        if self.start == 0:
            raise ValueError(f"the chat template writes nothing before the first content, of {self.role!r}")
        return self.start - 1


class Reply(Passage):
    """A conversation as the template writes it, special tokens included, up to the end of what is read of it.

    A text like any other to extraction, which reads it from its reply on and adds no special token.
    """


def spans(tokenizer: PreTrainedTokenizerBase, messages: Messages, **options: Any) -> list[Span]:
    """Where each message's own content is, in tokens, without role markers, ends of turns and what else is the
    template's. A token across the border is the content's.

    A message without content (a tool call) has no span. Of a reply whose reasoning (up to ``</think>``) the template
    drops or moves, the span is what follows it.

    Args:
        tokenizer: a fast one, with a chat template.
        messages: the conversation.
        options: for the template, such as ``enable_thinking=False``.

    Raises:
        ValueError: if the template refuses the messages, or a content is not exactly once in its place: left out,
            repeated or rewritten.
    """
    text = _render(tokenizer, _checked(messages), **options)
    offsets = _offsets(tokenizer, text)
    numbers = [n for n, message in enumerate(messages) if (message.get("content") or "").strip()]
    return [
        Span(messages[n]["role"], *_tokens(offsets, *_find(tokenizer, messages, n, text, options))) for n in numbers
    ]


def reply(
    tokenizer: PreTrainedTokenizerBase,
    messages: Messages,
    read: str = "reply",
    **options: Any,
) -> Reply:
    """A conversation as a text for extraction, labelled or neutral, of which only the last reply is read.

    Example:
        >>> messages = [{"role": "user", "content": "Is it done?"}, {"role": "assistant", "content": "No."}]
        >>> text = reply(tokenizer, messages)
        >>> LabelledText(text, "calm")

    Args:
        tokenizer: a fast one, with a chat template.
        messages: the conversation, an ``assistant``'s message last; earlier ones are context.
        read: ``reply``, its own tokens, or ``reply_start``, the one token from which it is predicted. That one also
            where the user has the last word: what the template writes to have the model reply then ends the text.
        options: for the template.

    Raises:
        ValueError: as in `spans`, or if there is no reply to read.
    """
    if read not in ("reply", "reply_start"):
        raise ValueError(f"read must be 'reply' or 'reply_start', got {read!r}")
    last = messages[-1] if _checked(messages) else {}
    answered = last.get("role") == "assistant" and bool((last.get("content") or "").strip())
    if not messages or not (answered or read == "reply_start"):
        raise ValueError(
            f"expected a conversation that ends in an assistant's message with a content, got {str(last)[:60]}"
        )
    text = _render(tokenizer, messages, add_generation_prompt=not answered, **options)
    offsets = _offsets(tokenizer, text)
    span = Span("assistant", len(offsets), len(offsets))
    if answered:
        span = Span("assistant", *_tokens(offsets, *_find(tokenizer, messages, len(messages) - 1, text, options)))
    start, end = (span.start, span.end) if read == "reply" else (span.reply_start, span.reply_start + 1)
    return Reply(text[: offsets[end - 1][1]], offsets[start][0])


def reply_marker(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that a chat template writes between a user's content and the reply, up to what may be the reply's own:
    white space, and an opened ``<think>``. None without a template, or under one that refuses a lone question."""
    asked = "\ue000"  # private: no template knows it
    try:
        text = _render(tokenizer, [{"role": "user", "content": asked}], add_generation_prompt=True)
    except ValueError:
        return []
    marker = text.rpartition(asked)[2].partition("<think>")[0].rstrip()
    return tokenizer(marker, add_special_tokens=False)["input_ids"]


def _checked(messages: Messages) -> Messages:
    if not isinstance(messages, (list, tuple)):
        raise ValueError(f"expected a list of messages, got {type(messages).__name__}")
    for message in messages:
        texts = (message.get("role"), message.get("content") or "") if isinstance(message, Mapping) else (None,)
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"expected messages with a role and a content that are texts, got {str(message)[:80]}")
    return messages


def _render(tokenizer: PreTrainedTokenizerBase, messages: Messages, **options: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **options))
    except TemplateError as error:
        raise ValueError(f"the tokenizer's chat template refuses these messages: {error}") from None


def _offsets(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} cannot tell where its tokens are in a text; use a fast tokenizer")
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]


def _tokens(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int]:
    inside = [n for n, (a, b) in enumerate(offsets) if a < end and b > start and b > a]
    if not inside:
        raise ValueError(f"the tokenizer makes no token of characters {start} to {end} of the conversation")
    return inside[0], inside[-1] + 1


def _find(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, number: int, text: str, options: Mapping[str, Any]
) -> tuple[int, int]:
    """From which character to which a message's content goes in the rendered conversation."""
    content = messages[number]["content"]
    known = text + str(messages)
    first, last = [c for c in map(chr, range(0xE000, 0xF8FF)) if c not in known][:2]  # private: no template knows them
    for skipped in dict.fromkeys((0, content.rfind("</think>") + len("</think>") if "</think>" in content else 0)):
        before, own = content[:skipped], content[skipped:]
        core = own.strip()
        # Inside of the whitespace, which many templates strip.
        marked = before + own.replace(core, first + core + last, 1)
        others = [*messages[:number], {**messages[number], "content": marked}, *messages[number + 1 :]]
        found = _render(tokenizer, others, **options)
        once = found.count(first) == found.count(last) == 1
        if core and once and found.replace(first, "").replace(last, "") == text:
            return found.index(first), found.index(last) - 1
    raise ValueError(
        f"message {number}, of {messages[number]['role']!r}, is not exactly once in what the chat template writes: "
        f"{content[:60]!r}; it is left out, repeated or rewritten. Give the messages as the model is to see them"
    )
