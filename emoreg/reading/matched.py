"""Reference text in the format of the rows that are trained on, as the base model reads it.

What is held, and subtracted, in plain text says nothing of chat replies: on a real chat model every emotion's replies
moved down together while plain reference text stayed (docs/evidence-smollm2.md). So reference text takes the rows' own
prompts, template and position, and their style: scenes told under other emotions beside matter-of-fact answers.

Shapes: N texts, T positions, L layers, K emotions.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from emoreg.corpus import replies_without
from emoreg.model import base_is_rewritten, without_adapters
from emoreg.reading.frames import Row, leads, reply_starts
from emoreg.reading.read import z_of
from emoreg.reading.reference import ReferenceText
from emoreg.vectors import EmotionVectors

TEXTS, TOKENS, LONGEST_LEAD = 32, 64, 64
"""Reference texts, the tokens that are read of each, and the longest lead before one."""
OWN, LONGEST_ROW = 4, 192
"""The training rows that are read at each log as they are, and where a reply begins too late for one."""


def matched(
    model: nn.Module,
    vectors: EmotionVectors,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    n_penalised: int,
) -> ReferenceText | None:
    """Shipped texts in the place of the rows' replies, and a few of the rows as they are.

    Args:
        model: its base is read: with adapters off, or, where there are none, as it is now.
        vectors: those that belong to it, the penalised emotions first.
        tokenizer: the one that cut the rows.
        rows: some of those that are trained on.
        n_penalised: P, how many these are. Reference text holds none of them, nor any desperation.

    Returns:
        None if there is no row, or the tokenizer has no tokens for the shipped texts, as one of a toy world has not.
    """
    absent = ("desperate", *vectors.emotions[:n_penalised])
    texts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in replies_without(absent, TEXTS)]
    if any(tokenizer.unk_token_id in ids for ids in texts) or not rows:
        return None
    before = leads(rows, tokenizer, LONGEST_LEAD)
    placed = [_placed(before[n % len(before)], ids[:TOKENS]) for n, ids in enumerate(texts)]
    own = _replies(rows, tokenizer)
    ids_NT, mask_NT, present_NT = (
        pad_sequence([torch.tensor(part) for part in parts], batch_first=True)
        for parts in zip(*((ids, counted, [True] * len(ids)) for ids, counted in (*placed, *own)), strict=True)
    )
    z_NTLK = []
    # Where adapters took a part of the base's weights, model and adapters together are the base as training begins.
    with nullcontext() if base_is_rewritten(model) else without_adapters(model):
        for at in range(0, len(ids_NT), 8):
            some = slice(at, at + 8)
            z_NTLK.append(torch.stack(z_of(model, vectors, ids_NT[some], present_NT[some]), 2))
    return ReferenceText.of_readings(ids_NT, mask_NT, torch.cat(z_NTLK), n_own=len(own), n_penalised=n_penalised)


def _placed(lead: list[int], reply: list[int]) -> tuple[list[int], list[bool]]:
    """Ids, and which of them count."""
    row = Row(lead + reply, [False] * len(lead) + [True] * len(reply))
    return row.ids, row.counted()


def _replies(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[tuple[list[int], list[bool]]]:
    """The first rows as they are, of which the reply's first tokens count."""
    found = []
    for row, start in zip(rows, reply_starts(rows, tokenizer), strict=True):
        end = max(start, 1) + TOKENS
        if start < LONGEST_ROW and any(counted := row.counted(start)[:end]):
            found.append((row.ids[:end], counted))
    return found[:OWN]
