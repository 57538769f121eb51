"""What is measured of all directions at once: how well they separate, against what they must beat, and how stably.

Shapes: L layers, N texts, D width, K emotions, J neighbours, S sources (words, embeddings and the layers), B draws.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from emoreg.extraction import auc_within_folds
from emoreg.validation import baselines, geometry
from emoreg.validation.scores import Fit, auc_draws, vector_readings
from emoreg.validation.texts import Texts

NEIGHBOURS = 3
"""How many of the nearest emotions are an emotion's hard negatives."""


def separation(
    texts: Texts,
    fit: Fit,
    stored_LKD: Float[Tensor, "L K D"],
    opposites: tuple[str, str],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """How well each emotion's texts are told from the others', by layers and by what must be beaten."""
    of_layers_LNK = vector_readings(texts.vectors, texts.emotion, texts.fold, fit)
    lexical_2NK = torch.stack([baselines.word_readings(texts), baselines.embedding_readings(texts)])
    readings_SNK = torch.cat([lexical_2NK, of_layers_LNK])
    auc_BSK = auc_draws(readings_SNK, texts.emotion, texts.fold, texts.group, draws, seed)
    lexical_BK, layers_BLK = auc_BSK[:, :2].max(1).values, auc_BSK[:, 2:]
    gain_BLK = layers_BLK - lexical_BK[:, None]
    auc_LK = layers_BLK[0]
    stored_LNK = texts.vectors @ stored_LKD.mT
    one_fold_N = torch.zeros_like(texts.fold)
    best = int(auc_LK.mean(1).argmax())
    neighbours_KJ = _neighbours(stored_LKD[best])
    low, high = (torch.tensor(q) for q in (0.025, 0.975))
    found: dict[str, Any] = {
        "auc": auc_LK,
        "auc_low": layers_BLK.quantile(low, dim=0),
        "auc_high": layers_BLK.quantile(high, dim=0),
        "random": baselines.random_auc(texts, seed),
        "gain": gain_BLK[0],
        "gain_low": gain_BLK.quantile(low, dim=0),
        "stored": auc_draws(stored_LNK, texts.emotion, one_fold_N, texts.group, 0, seed)[0],
        "neighbours": [[texts.emotions[j] for j in row] for row in neighbours_KJ.tolist()],
        "hard": _hard(of_layers_LNK, texts, neighbours_KJ),
        "crosstalk": geometry.crosstalk(of_layers_LNK[best], texts),
        "best": best,
    }
    for n, name in enumerate(("words", "embeddings")):
        found[name] = {
            "auc": auc_BSK[0, n],
            "low": auc_BSK[:, n].quantile(low, dim=0),
            "high": auc_BSK[:, n].quantile(high, dim=0),
        }
    if set(opposites) <= set(texts.emotions):
        first, second = (texts.emotions.index(name) for name in opposites)
        difference_SN = readings_SNK[..., first] - readings_SNK[..., second]
        is_first, is_second = texts.emotion == first, texts.emotion == second
        auc_S = auc_within_folds(difference_SN, is_first, is_second, texts.fold)[0].float()
        found["opposites"] = {
            "pair": list(opposites), "words": auc_S[0], "embeddings": auc_S[1], "layers": auc_S[2:],
        }  # fmt: skip
    return found


def stability(texts: Texts, fit: Fit, best: int, seed: int) -> dict[str, Any]:
    """How much of a direction is these texts' doing, and how much length, topic and person."""
    half_LK = geometry.split_half(texts, fit, seed)
    per_half = len(texts.corpus) / len(texts.emotions) / 2
    confounds, cosine_LK = geometry.residualised(texts, fit)
    return {
        "half": half_LK,
        "reliability": geometry.reliability(half_LK),
        "enough": geometry.texts_enough(half_LK[best], per_half),
        "confounds": list(confounds),
        "residualised": cosine_LK,
    }


def _neighbours(directions_KD: Float[Tensor, "K D"]) -> Tensor:
    near_KK = geometry.cosines(directions_KD) - 3 * torch.eye(len(directions_KD))
    return near_KK.topk(min(NEIGHBOURS, len(directions_KD) - 1), dim=-1).indices


def _hard(readings_LNK: Float[Tensor, "L N K"], texts: Texts, neighbours_KJ: Tensor) -> Float[Tensor, "L K"]:
    """Mean AUC of each emotion against its neighbours, one by one, along its own direction."""
    found = []
    for k, near in enumerate(neighbours_KJ.tolist()):
        own_LN, is_k = readings_LNK[..., k], texts.emotion == k
        against = [auc_within_folds(own_LN, is_k, texts.emotion == j, texts.fold)[0].float() for j in near]
        found.append(torch.stack(against).mean(0))
    return torch.stack(found, dim=-1)
