"""How well readings tell one emotion's texts from the others', and how sure that is. Nothing here knows a model.

Shapes: S sources of readings (layers and baselines), N texts, K emotions, B draws.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from emoreg.extraction import auc_within_folds, held_out_readings

Fit = Callable[[Tensor, Tensor], Tensor]
"""Vectors (S, N, D) of texts and their emotions (N) to directions (S, K, D)."""


def vector_readings(
    vectors_SND: Float[Tensor, "S N D"], emotion_N: Int[Tensor, " N"], fold_N: Int[Tensor, " N"], fit: Fit
) -> Float[Tensor, "S N K"]:
    """Each text's readings along directions that were fitted on the vectors of the other folds' texts."""
    return held_out_readings(
        fold_N,
        lambda fold: fit(vectors_SND[:, fold_N != fold], emotion_N[fold_N != fold]),
        lambda fold, directions_SKD: vectors_SND[:, fold_N == fold] @ directions_SKD.mT,
    )


def auc_draws(
    readings_SNK: Float[Tensor, "S N K"],
    emotion_N: Int[Tensor, " N"],
    fold_N: Int[Tensor, " N"],
    group_N: Int[Tensor, " N"],
    draws: int,
    seed: int,
) -> Float[Tensor, "B S K"]:
    """AUC of each emotion against the rest: on the texts as they are, then on ``draws`` bootstrap samples of groups.

    Every source is judged on the same samples, so that their differences have intervals too.
    """
    make = torch.Generator().manual_seed(seed)
    n_groups = int(group_N.max()) + 1
    drawn = torch.randint(n_groups, (draws, n_groups), generator=make)
    weight_BG = torch.nn.functional.one_hot(drawn, n_groups).sum(1) if draws else torch.zeros(0, n_groups)
    weight_BN = torch.cat([torch.ones(1, len(group_N)), weight_BG[:, group_N].float()])
    found = []
    for k in range(readings_SNK.shape[-1]):
        is_k = emotion_N == k
        found.append(auc_within_folds(readings_SNK[..., k], is_k, ~is_k, fold_N, weight_BN).float())
    return torch.stack(found, dim=-1)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rho; 0 where one of the two does not vary."""
    if min(len(set(first)), len(set(second))) < 2:
        return 0.0
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def null_maxima(
    vectors_SND: Float[Tensor, "S N D"],
    emotion_N: Int[Tensor, " N"],
    fold_N: Int[Tensor, " N"],
    group_N: Int[Tensor, " N"],
    permutations: int,
    seed: int,
) -> Float[Tensor, "B K"]:
    """The best held-out AUC over all layers when labels mean nothing: what a search over layers finds by luck.

    Labels change places within a group where groups hold several emotions (a scene keeps its emotions), else among all
    texts. Directions are differences of means; readings come from products of texts with texts, so that a permutation
    costs no more in a wide model than in a narrow one.
    """
    make, n_emotions = np.random.default_rng(seed), int(emotion_N.max()) + 1
    gram_SNN = vectors_SND @ vectors_SND.mT
    within = all(len(emotion_N[group_N == g].unique()) > 1 for g in group_N.unique())
    blocks = [torch.where(group_N == g)[0] for g in group_N.unique()] if within else [torch.arange(len(group_N))]
    maxima = []
    for _ in range(permutations):
        labels_N = emotion_N.clone()
        for block in blocks:
            labels_N[block] = emotion_N[block[make.permutation(len(block))]]
        maxima.append(_auc_of_means(gram_SNN, labels_N, fold_N, n_emotions).max(0).values)
    return torch.stack(maxima) if maxima else torch.zeros(0, n_emotions)


def _auc_of_means(gram_SNN, emotion_N, fold_N, n_emotions: int) -> Float[Tensor, "S K"]:
    member_NK = torch.nn.functional.one_hot(emotion_N, n_emotions).to(gram_SNN)
    right = compared = torch.zeros(())
    for fold in range(int(fold_N.max()) + 1):
        inside_N = fold_N == fold
        weight_NK = torch.nn.functional.normalize(member_NK * ~inside_N[:, None], p=1, dim=0)
        readings_SMK = gram_SNN[:, inside_N] @ (weight_NK - weight_NK.mean(1, keepdim=True))
        ranks_SMK = torch.from_numpy(rankdata(readings_SMK.numpy(), axis=1)).to(gram_SNN)
        own_MK = member_NK[inside_N]
        n_K = own_MK.sum(0)
        right = right + (ranks_SMK * own_MK).sum(1) - n_K * (n_K + 1) / 2
        compared = compared + n_K * (len(own_MK) - n_K)
    return right / compared.clamp(min=1)
