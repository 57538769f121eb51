"""Texts in batches: which go together, and how they are laid side by side.

Shapes: B batch, T positions, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emoreg.extraction.tokens import Tokens


@dataclass(frozen=True)
class Batch:
    """Texts of about the same length, padded on the right (in a causal model no token can see that padding)."""

    index: Int[Tensor, " B"]
    """Which texts these are."""
    ids: Int[Tensor, "B T"]
    present: Bool[Tensor, "B T"]
    """Not padding."""
    read: Bool[Tensor, "B T"]
    """The tokens that are read."""

    def text_means(self, hidden_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Each text's mean over the tokens that are read, fp32 or better."""
        read_BT1 = self.read.to(hidden_BTD.device).unsqueeze(-1)
        dtype = torch.promote_types(hidden_BTD.dtype, torch.float32)
        return torch.where(read_BT1, hidden_BTD, 0).sum(1, dtype=dtype) / read_BT1.sum(1)


def cut(texts: Sequence[Tokens], index: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Texts, given the longest first, in batches of so many padded tokens at most. A longer text is one of its own."""
    batches: list[list[int]] = []
    for n in index:
        if batches and len(texts[batches[-1][0]]) * (len(batches[-1]) + 1) <= tokens_per_batch:
            batches[-1].append(n)
        else:
            batches.append([n])
    return batches


def padded(texts: Sequence[Tokens], index: Sequence[int], device: torch.device) -> Batch:
    """Some of the texts as a batch; the longest comes first."""
    chosen = [texts[n] for n in index]
    length, first, end = torch.tensor([(len(text), text.first, text.end) for text in chosen]).T.unsqueeze(-1)
    position = torch.arange(len(chosen[0]))
    masks = position < length, (position >= first) & (position < end)
    ids = pad_sequence([text.ids for text in chosen], batch_first=True)  # any token will do where none is seen
    return Batch(*(tensor.to(device) for tensor in (torch.tensor(index), ids.long(), *masks)))
