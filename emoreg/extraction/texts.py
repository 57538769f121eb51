"""Texts through a stream: each as one vector, its mean hidden state, or token by token.

Shapes: B batch, T positions, D width, L layers, N texts, G groups.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from emoreg.extraction.batches import Batch
from emoreg.extraction.moments import Moments
from emoreg.extraction.shards import Shards
from emoreg.extraction.stream import Stream
from emoreg.extraction.tokens import Tokens
from emoreg.model import input_device


def text_moments(
    stream: Stream,
    texts: Sequence[Tokens],
    groups: Sequence[int],
    n_groups: int,
    *,
    products: bool = False,
    shards: Shards | None = None,
) -> Moments:
    """Moments of text vectors: one row per text, into the group that it is given."""
    group_of_text = torch.tensor(groups, device=input_device(stream.model))
    each_G = torch.arange(n_groups, device=group_of_text.device)

    def rows(_layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.text_means(hidden_BTD), group_of_text[batch.index, None] == each_G

    return stream.moments(texts, rows, n_groups, products=products, shards=shards)


def text_vectors(stream: Stream, texts: Sequence[Tokens]) -> Float[Tensor, "L N D"]:
    """Each text's own vector, fp32: moments in which every text is a group."""
    return text_moments(stream, texts, range(len(texts)), len(texts)).sums.float()


def text_readings(
    stream: Stream, texts: Sequence[Tokens], directions_LKD: Float[Tensor, "L K D"]
) -> Float[Tensor, "L N K"]:
    """Each text's readings along some directions, fp64; the vectors themselves are not kept."""
    directions = dict(zip(stream.layers, directions_LKD, strict=True))
    each_N = torch.arange(len(texts), device=input_device(stream.model))

    def rows(layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        directions[layer] = directions[layer].to(hidden_BTD.device)  # once: a layer stays where it computes
        return batch.text_means(hidden_BTD) @ directions[layer].T, batch.index[:, None] == each_N

    return stream.moments(texts, rows, len(texts)).sums


def token_moments(stream: Stream, texts: Sequence[Tokens], shards: Shards | None = None) -> Moments:
    """Moments of every token's hidden state, with its norm as a last component."""

    def rows(_layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        states_BTD = hidden_BTD.float()
        rows_BTD = torch.cat([states_BTD, states_BTD.norm(dim=-1, keepdim=True)], dim=-1)
        return rows_BTD.flatten(0, 1), batch.read.reshape(-1, 1)

    return stream.moments(texts, rows, 1, products=True, shards=shards)
