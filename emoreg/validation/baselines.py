"""What a direction has to beat: words alone, embeddings alone, and directions at random.

Shapes: L layers, N texts, D width, K emotions, R random directions.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from emoreg.validation.scores import held_out_readings
from emoreg.validation.texts import Texts

RANDOM_DIRECTIONS = 100


def word_readings(texts: Texts) -> Float[Tensor, "N K"]:
    """Held-out scores of a bag of words for each emotion: TF-IDF and a logistic regression, over the same folds."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    read, emotion_N = texts.read, texts.emotion.numpy()
    found_NK = np.zeros((len(read), len(texts.emotions)), dtype=np.float32)
    for fold in range(int(texts.fold.max()) + 1):
        inside = np.flatnonzero(texts.fold.numpy() == fold)
        outside = np.flatnonzero(texts.fold.numpy() != fold)
        words = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True)
        seen = words.fit_transform([read[n] for n in outside])
        model = LogisticRegression(C=10.0, max_iter=200).fit(seen, emotion_N[outside])
        scores = model.decision_function(words.transform([read[n] for n in inside]))
        found_NK[inside] = np.stack([-scores, scores], 1) if scores.ndim == 1 else scores
    return torch.from_numpy(found_NK)


def embedding_readings(texts: Texts) -> Float[Tensor, "N K"]:
    """Held-out readings of the mean embedding along each emotion's mean less the mean over emotions."""

    def fit(rows_SND: Tensor, emotion_N: Tensor) -> Tensor:  # no direction, no error: texts may be the same words
        member_NK = torch.nn.functional.one_hot(emotion_N, len(texts.emotions)).float()
        means_SKD = (member_NK / member_NK.sum(0)).T @ rows_SND
        return means_SKD - means_SKD.mean(1, keepdim=True)

    return held_out_readings(texts.embedded[None], texts.emotion, texts.fold, fit)[0]


def random_auc(texts: Texts, seed: int) -> Float[Tensor, "L K"]:
    """The AUC that 95 % of random directions stay below, told the better sign of each."""
    make = torch.Generator().manual_seed(seed)
    directions_RD = torch.randn(RANDOM_DIRECTIONS, texts.rows.shape[-1], generator=make)
    readings_LRN = (texts.rows @ directions_RD.T).mT
    order_LRN = readings_LRN.argsort(-1).argsort(-1).float() + 1
    member_NK = torch.nn.functional.one_hot(texts.emotion, len(texts.emotions)).float()
    n_K = member_NK.sum(0)
    right_LRK = (order_LRN @ member_NK - n_K * (n_K + 1) / 2) / (n_K * (len(member_NK) - n_K))
    return torch.maximum(right_LRK, 1 - right_LRK).quantile(0.95, dim=1)
