"""How far does a bag of words tell the shipped corpus's emotions apart? Prints the figures of emoreg/data/README.md.

    python scripts/corpus_baseline.py

TF-IDF and a logistic regression, six folds that keep a scene together, AUC averaged over the folds. The control has the
emotions of each scene shuffled (seed 0).
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from emoreg.data import CORE_EMOTIONS, Vignette, vignettes


def auc(corpus: Sequence[Vignette], emotion: str) -> float:
    """Of ``emotion`` against the rest of ``corpus``, on scenes held out."""
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, class_weight="balanced"))
    texts, groups = [one.text for one in corpus], [one.group for one in corpus]
    is_emotion = [one.emotion == emotion for one in corpus]
    return cross_val_score(model, texts, is_emotion, groups=groups, cv=GroupKFold(6), scoring="roc_auc").mean()


def shuffled(corpus: Sequence[Vignette]) -> list[Vignette]:
    """The same texts, each under an emotion drawn from its scene's."""
    size, draw = len(CORE_EMOTIONS), random.Random(0)  # a scene's vignettes stand together
    emotions = [emotion for _ in range(len(corpus) // size) for emotion in draw.sample(CORE_EMOTIONS, size)]
    return [replace(one, emotion=emotion) for one, emotion in zip(corpus, emotions, strict=True)]


def main() -> None:
    for name, corpus in [("corpus", vignettes()), ("control", shuffled(vignettes()))]:
        aucs = {emotion: auc(corpus, emotion) for emotion in CORE_EMOTIONS}
        pair = [one for one in corpus if one.emotion in ("desperate", "calm")]
        print(f"{name}: one against the rest, mean of {len(aucs)}: {np.mean(list(aucs.values())):.2f}")
        print(", ".join(f"{emotion} {value:.2f}" for emotion, value in sorted(aucs.items(), key=lambda item: -item[1])))
        print(f"desperate against calm: {auc(pair, 'desperate'):.2f}\n")


if __name__ == "__main__":
    main()
