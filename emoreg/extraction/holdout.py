"""Readings of texts along directions that were fitted without them, and how well these tell two kinds of texts apart.

Readings along directions of different folds have different zeros, so only texts of one fold are compared.

Shapes: S sources of readings (layers, say), N texts, K emotions, P positives, Q negatives, B draws, L layers, D width.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from emoreg.corpus import LabelledText

Fitted = TypeVar("Fitted")


def folds_of(corpus: Sequence[LabelledText], judged: Sequence[str], folds: int, seed: int) -> list[int]:
    """Which of the folds each text is held out in: groups stay together, emotions are spread evenly.

    Raises:
        ValueError: if an emotion that is judged has fewer groups than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = [group_of(item) for item in corpus]
    for emotion in judged:
        n_groups = len({name for name, item in zip(names, corpus, strict=True) if item.emotion == emotion})
        if not 2 <= folds <= n_groups:
            raise ValueError(
                f"folds must be between 2 and the number of groups of each emotion judged; got {folds}, "
                f"and {emotion!r} has {n_groups} groups"
            )
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    emotion_of_text, fold_of_text = [item.emotion for item in corpus], [0] * len(corpus)
    split = splitter.split(names, emotion_of_text, [number[name] for name in names])
    for fold, (_, held_out) in enumerate(split):
        for n in held_out:
            fold_of_text[n] = fold
    return fold_of_text


def group_of(item: LabelledText) -> tuple[str, str]:
    """What a text is held out together with: its group, or its own copies."""
    return ("text", str(item.text)) if item.group is None else ("group", item.group)


def held_out_readings(
    fold_N: Int[Tensor, " N"], fit: Callable[[int], Fitted], read: Callable[[int, Fitted], Tensor]
) -> Float[Tensor, "S N K"]:
    """Each text's readings along what was fitted on the other folds.

    Args:
        fold_N: in which fold each text is held out.
        fit: the number of a fold to what is fitted on the texts outside it.
        read: the number of a fold, and what was fitted, to the readings (S, M, K) of the M texts in it, in their order.
    """
    fitted = {fold: fit(fold) for fold in fold_N.unique().tolist()}  # all first: what cannot be fitted shows at once
    parts = [(fold_N == fold, read(fold, one)) for fold, one in fitted.items()]
    found_SNK = parts[0][1].new_zeros(len(parts[0][1]), len(fold_N), parts[0][1].shape[-1])
    for inside_N, inside_SMK in parts:
        found_SNK[:, inside_N] = inside_SMK
    return found_SNK


def auc_within_folds(
    readings_SN: Float[Tensor, "S N"],
    positive_N: Bool[Tensor, " N"],
    negative_N: Bool[Tensor, " N"],
    fold_N: Int[Tensor, " N"],
    weight_BN: Float[Tensor, "B N"] | None = None,
) -> Float[Tensor, "B S"]:
    """AUC of some texts against some others: the share of pairs, of one fold, in the right order; a tie is half of one.

    Args:
        readings_SN: of every text, by every source.
        positive_N: the texts that should read higher.
        negative_N: the texts that should read lower.
        fold_N: the fold of each.
        weight_BN: how often each counts, draw by draw; by default once, in one draw.

    Returns:
        fp64; .5 where no fold holds texts of both kinds.
    """
    weight_BN = torch.ones(1, len(fold_N)) if weight_BN is None else weight_BN
    right_BS = torch.zeros(len(weight_BN), len(readings_SN), dtype=torch.float64)
    compared_B1 = torch.zeros(len(weight_BN), 1, dtype=torch.float64)
    for fold in fold_N.unique():
        high_N, low_N = positive_N & (fold_N == fold), negative_N & (fold_N == fold)
        high_BP, low_BQ = weight_BN[:, high_N].double(), weight_BN[:, low_N].double()
        compared_B1 += high_BP.sum(1, keepdim=True) * low_BQ.sum(1, keepdim=True)
        for source, readings_N in enumerate(readings_SN):
            at_P, (low_Q, order_Q) = readings_N[high_N], readings_N[low_N].sort()
            # The weight of all negatives up to each place in their order; a positive lies between two such places.
            up_to = torch.nn.functional.pad(low_BQ[:, order_Q].cumsum(1), (1, 0))
            below_BP, not_above_BP = (up_to[:, torch.searchsorted(low_Q, at_P, right=right)] for right in (False, True))
            right_BS[:, source] += (high_BP * (below_BP + not_above_BP)).sum(1) / 2
    return torch.where(compared_B1 > 0, right_BS / compared_B1, 0.5)
