"""What a model wrote -> the text in it that is kept, or why there is none."""

import re

from transformers import PreTrainedTokenizerBase

from emoreg.corpus import banned_words
from emoreg.stories.prompts import Item

TOO_SHORT, BANNED, DUPLICATE, NO_DIALOGUE = "too short", "banned word", "duplicate", "no dialogue"


class Accept:
    """Picks a text out and judges it; each accepted one is a duplicate from then on.

    Args:
        tokenizer: the model's, which counts.
        min_tokens: a text has at least so many, special ones not counted.
        texts: those that are there already.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, min_tokens: int, texts: set[str]) -> None:
        self._tokenizer, self._min_tokens, self._texts = tokenizer, min_tokens, texts

    def __call__(self, item: Item, written: str) -> tuple[str, str | None]:
        """The text, and why it is refused: None if it is not."""
        said = written.rpartition("</think>")[2].strip()
        text = self._story(said) if item.emotion else _dialogue(said)
        reason = self._refusal(item, text)
        if reason is None:
            self._texts.add(text)
        return text, reason

    def _story(self, said: str) -> str:
        # A title or a "Here is the story:" may come before, and of a model without a chat template the next exercise
        # behind: the story is the first paragraph of its length.
        paragraphs = [" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", said)]
        return next((text for text in paragraphs if self._is_long(text)), "")

    def _refusal(self, item: Item, text: str) -> str | None:
        if item.emotion is None and "Assistant:" not in text:
            return NO_DIALOGUE
        if not self._is_long(text):
            return TOO_SHORT
        if banned_words(text, item.banned):
            return BANNED
        return DUPLICATE if text in self._texts else None

    def _is_long(self, text: str) -> bool:
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return len(ids) >= self._min_tokens  # pyright: ignore - a list


def _dialogue(said: str) -> str:
    """From the first question on; empty if there is none."""
    at = said.find("Human:")
    return said[at:] if at >= 0 else ""
