"""What a direction has to beat: words alone, embeddings alone, and directions at random.

Shapes: L layers, N texts, M those of one fold, D width, K emotions, R random directions.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emoreg.extraction import held_out_readings
from emoreg.validation.scores import vector_readings
from emoreg.validation.texts import Texts

RANDOM_DIRECTIONS = 100


def word_readings(texts: Texts) -> Float[Tensor, "N K"]:
    """Held-out scores of a bag of words for each emotion: TF-IDF and a logistic regression, over the same folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    read, emotion_N, fold_N = np.array(texts.read, dtype=object), texts.emotion.numpy(), texts.fold.numpy()

    def fit(fold: int) -> tuple[TfidfVectorizer, LogisticRegression]:
        words = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True)
        seen = words.fit_transform(read[fold_N != fold])
        return words, LogisticRegression(C=10.0, max_iter=200).fit(seen, emotion_N[fold_N != fold])

    def score(fold: int, fitted: tuple[TfidfVectorizer, LogisticRegression]) -> Float[Tensor, "1 M K"]:
        words, model = fitted
        scores = model.decision_function(words.transform(read[fold_N == fold]))
        both_MK = np.stack([-scores, scores], 1) if scores.ndim == 1 else scores
        return torch.from_numpy(both_MK.astype(np.float32))[None]

    return held_out_readings(texts.fold, fit, score)[0]


def embedding_readings(texts: Texts) -> Float[Tensor, "N K"]:
    """Held-out readings of the mean embedding along each emotion's mean less the mean over emotions."""

    def fit(vectors_SND: Tensor, emotion_N: Tensor) -> Tensor:  # no direction, no error: texts may be the same words
        member_NK = torch.nn.functional.one_hot(emotion_N, len(texts.emotions)).float()
        means_SKD = (member_NK / member_NK.sum(0)).T @ vectors_SND
        return means_SKD - means_SKD.mean(1, keepdim=True)

    return vector_readings(texts.embedded[None], texts.emotion, texts.fold, fit)[0]


def random_auc(texts: Texts, seed: int) -> Float[Tensor, "L K"]:
    """The AUC that 95 % of random directions stay below, told the better sign of each."""
    make = torch.Generator().manual_seed(seed)
    directions_RD = torch.randn(RANDOM_DIRECTIONS, texts.vectors.shape[-1], generator=make)
    readings_LRN = (texts.vectors @ directions_RD.T).mT
    order_LRN = readings_LRN.argsort(-1).argsort(-1).float() + 1
    member_NK = torch.nn.functional.one_hot(texts.emotion, len(texts.emotions)).float()
    n_K = member_NK.sum(0)
    right_LRK = (order_LRN @ member_NK - n_K * (n_K + 1) / 2) / (n_K * (len(member_NK) - n_K))
    return torch.maximum(right_LRK, 1 - right_LRK).quantile(0.95, dim=1)
