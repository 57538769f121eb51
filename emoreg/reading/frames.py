"""Rows of training data, and other texts in their place: the same prompt, template and position, another reply.

Shapes: B rows, T positions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from emoreg.corpus import reply_marker
from emoreg.reading.scope import IGNORE, like, real_and_starts


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
    without a template, with the row. What the template puts first into every reply (an empty ``<think></think>``, or
    its opening) does not belong to it.
    """
    marker = reply_marker(tokenizer)
    added = set(cast(Any, tokenizer).get_added_vocab().values())

    def is_frame(token: int) -> bool:
        return token in added or not cast(str, tokenizer.decode([token])).strip()

    return [_extended(row.ids, _reply_at(row, marker, added), is_frame) for row in rows]


def leads(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, longest: int) -> list[list[int]]:
    """What stands before the reply in each row: of those in which it is short enough, or of all its last tokens."""
    found = [row.ids[:at] for row, at in zip(rows, reply_starts(rows, tokenizer), strict=True)]
    return [lead for lead in found if len(lead) <= longest] or [lead[-longest:] for lead in found]


def _reply_at(row: Row, marker: Sequence[int], added: set[int]) -> int:
    if not row.loss[0]:
        return next((n for n, taken in enumerate(row.loss) if taken), len(row.ids))
    n = len(marker)
    after = (at + n for at in range(len(row.ids) - n + 1) if n and row.ids[at : at + n] == list(marker))
    return next(after, 1 if row.ids[0] in added else 0)


def _extended(ids: Sequence[int], at: int, is_frame: Callable[[int], bool]) -> int:
    while 0 < at < len(ids) and is_frame(ids[at]):
        at += 1
    return at
