"""Does a reading rise with what is at stake, or only with a number?

Shapes: L layers, K emotions, V values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from emoreg.extraction import Stream, text_vectors, tokenise
from emoreg.validation.scores import spearman


@dataclass(frozen=True)
class StakesPair:
    """One sentence with a number in it, V times over, and its twin with the same numbers."""

    stakes: tuple[str, ...]
    """In order of what is at stake."""
    twin: tuple[str, ...]
    """The numbers in the same order, of something that does not matter."""


def rises(
    stream: Stream,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[StakesPair],
    directions_LKD: Float[Tensor, "L K D"],
) -> tuple[Float[Tensor, "L K"], Float[Tensor, "L K"]]:
    """Spearman's rho of the reading with the order of the texts, mean over pairs: of stakes, and of twins.

    References:
        Sofroniew et al. 2026, arXiv 2604.07729, for the templates. Without twins a count of berries did as well.
    """
    texts = [text for pair in pairs for text in (*pair.stakes, *pair.twin)]
    vectors_LND = text_vectors(stream, tokenise(stream.model, tokenizer, texts))
    readings_LNK = vectors_LND @ directions_LKD.mT
    rho: tuple[list[Tensor], list[Tensor]] = ([], [])
    at = 0
    for pair in pairs:
        for side, n in ((0, len(pair.stakes)), (1, len(pair.twin))):
            rho[side].append(_rho(readings_LNK[:, at : at + n]))
            at += n
    return torch.stack(rho[0]).mean(0), torch.stack(rho[1]).mean(0)


def _rho(readings_LVK: Float[Tensor, "L V K"]) -> Float[Tensor, "L K"]:
    flat = readings_LVK.movedim(1, 0).flatten(1).T
    found = [spearman([float(v) for v in range(readings_LVK.shape[1])], one.tolist()) for one in flat]
    return torch.tensor(found).unflatten(0, (readings_LVK.shape[0], -1))
