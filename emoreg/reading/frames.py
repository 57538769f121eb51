"""Rows of training data, and other texts in their place: the same prompt, template and position, another reply.

Shapes: B rows, T positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from emoreg.corpus import reply_marker
from emoreg.reading.scope import IGNORE, like, real_and_starts

LONGEST_OPENING = 8
"""How many tokens at most every reply may begin with that are not its own."""


class Row(NamedTuple):
    """A sequence as it is trained on."""

    ids: list[int]
    loss: list[bool]
    """The tokens that the loss is taken on."""

    def counted(self, start: int = 0) -> list[bool]:
        """The same from a position on, but for the sequence's first token, which no scope selects."""
        return [taken and n >= max(start, 1) for n, taken in enumerate(self.loss)]


def rows_of(batches: Iterable[Mapping[str, Tensor]]) -> list[Row]:
    """The first sequence of each batch, without its padding: of a pair the chosen one, of a pack its first."""
    found = []
    for batch in batches:
        real, starts = (mask[0] for mask in real_and_starts(batch))
        number = starts.long().cumsum(0)
        where = (real & (number == 1)).nonzero()[:, 0].tolist()
        labels = batch.get("labels")
        ids = batch["input_ids"][0].tolist()
        loss = [True] * len(ids) if labels is None or labels.shape != like(batch).shape else labels[0].ne(IGNORE)
        found.append(Row([ids[n] for n in where], [bool(loss[n]) for n in where]))
    return found


def reply_starts(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where the reply begins in each row.

    Where the loss does; where the loss is taken on all of a row, after what the chat template writes before a reply;
    without a template, with the row. What every reply begins with (an empty ``<think></think>``, or its opening) does
    not belong to it, nor does white space.
    """
    marker = reply_marker(tokenizer)
    added = set(cast(Any, tokenizer).get_added_vocab().values())
    starts = [_reply_at(row, marker, added) for row in rows]
    replies = [row.ids[at : at + LONGEST_OPENING] for row, at in zip(rows, starts, strict=True) if at and row.ids[at:]]
    opening = _common(replies, added) if len(replies) > 1 else []

    def opened(row: Row, at: int) -> int:
        at += len(opening) if at and row.ids[at : at + len(opening)] == opening else 0
        while 0 < at < len(row.ids) and not cast(str, tokenizer.decode([row.ids[at]])).strip():
            at += 1
        return at

    return [opened(row, at) for row, at in zip(rows, starts, strict=True)]


def leads(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, longest: int) -> list[list[int]]:
    """What stands before the reply in each row: of those in which it is short enough; else cut, but for a BOS."""
    added = set(cast(Any, tokenizer).get_added_vocab().values())
    found = [row.ids[:at] for row, at in zip(rows, reply_starts(rows, tokenizer), strict=True)]
    short = [lead for lead in found if len(lead) <= longest]
    return short or [lead[: lead[0] in added] + lead[-(longest - (lead[0] in added)) :] for lead in found]


def _reply_at(row: Row, marker: Sequence[int], added: set[int]) -> int:
    first = next((n for n, taken in enumerate(row.loss) if taken), len(row.ids))
    # Collators of packed rows take no loss on a sequence's first token, whatever the data say.
    n, masked = len(marker), first > 1
    after = (at + n for at in range(len(row.ids) - n + 1) if n and row.ids[at : at + n] == list(marker))
    return first if masked else next(after, first or int(row.ids[0] in added))


def _common(replies: Sequence[Sequence[int]], added: set[int]) -> list[int]:
    """What all of them begin with, up to the last added token in it, and none of them is whole."""
    together = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*replies, strict=False))
    found = [tokens[0] for tokens in together][: min(map(len, replies)) - 1]
    while found and found[-1] not in added:
        found.pop()
    return found
