"""Does a reading rise with what is at stake, or only with a number?

Shapes: L layers, K emotions, V values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg.extraction import tokenise
from emoreg.validation.scores import spearman
from emoreg.validation.texts import text_vectors


@dataclass(frozen=True)
class Rise:
    """One sentence with a number in it, V times over, and its twin with the same numbers."""

    stakes: tuple[str, ...]
    """In order of what is at stake."""
    twin: tuple[str, ...]
    """The numbers in the same order, of something that does not matter."""


def rises(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    templates: Sequence[Rise],
    layers: Sequence[int],
    directions_LKD: Float[Tensor, "L K D"],
    *,
    tokens_per_batch: int,
    bar: tqdm,
) -> tuple[Float[Tensor, "L K"], Float[Tensor, "L K"]]:
    """Spearman's rho of the reading with the order of the texts, mean over templates: of stakes, and of twins.

    References:
        Sofroniew et al. 2026, arXiv 2604.07729, for the templates. Without twins a count of berries did as well.
    """
    texts = [text for rise in templates for text in (*rise.stakes, *rise.twin)]
    rows_LND = text_vectors(model, layers, tokenise(model, tokenizer, texts), 1, tokens_per_batch, bar)
    readings_LNK = rows_LND @ directions_LKD.mT
    rho: tuple[list[Tensor], list[Tensor]] = ([], [])
    at = 0
    for rise in templates:
        for side, n in ((0, len(rise.stakes)), (1, len(rise.twin))):
            rho[side].append(_rho(readings_LNK[:, at : at + n]))
            at += n
    return torch.stack(rho[0]).mean(0), torch.stack(rho[1]).mean(0)


def _rho(readings_LVK: Float[Tensor, "L V K"]) -> Float[Tensor, "L K"]:
    flat = readings_LVK.movedim(1, 0).flatten(1).T
    found = [spearman([float(v) for v in range(readings_LVK.shape[1])], one.tolist()) for one in flat]
    return torch.tensor(found).unflatten(0, (readings_LVK.shape[0], -1))
