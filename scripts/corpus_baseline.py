"""How far does a bag of words tell the shipped corpus's emotions apart? Prints the figures of emoreg/corpus/README.md.

    python scripts/corpus_baseline.py

Two detectors, six folds that keep a scene together, AUC averaged over the folds: TF-IDF and a logistic regression,
against which the vignettes were reworded, and naive Bayes on words and pairs of words, against which they were not. The
control has the emotions of each scene shuffled (seed 0).
"""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import make_pipeline

from emoreg.corpus import CORE_EMOTIONS, Vignette, pressure_replies, vignettes

DETECTORS = {
    "TF-IDF, logistic regression": make_pipeline(
        TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, class_weight="balanced")
    ),
    "naive Bayes, words and pairs": make_pipeline(CountVectorizer(ngram_range=(1, 2), binary=True), ComplementNB()),
}


def auc(detector: str, corpus: Sequence[Vignette], emotion: str) -> float:
    """Of ``emotion`` against the rest of ``corpus``, on scenes held out."""
    model = DETECTORS[detector]
    texts, groups = [one.text for one in corpus], [one.group for one in corpus]
    is_emotion = [one.emotion == emotion for one in corpus]
    return cross_val_score(model, texts, is_emotion, groups=groups, cv=GroupKFold(6), scoring="roc_auc").mean()


def shuffled(corpus: Sequence[Vignette]) -> list[Vignette]:
    """The same texts, each under an emotion drawn from its scene's."""
    size, draw = len(CORE_EMOTIONS), random.Random(0)  # a scene's vignettes stand together
    emotions = [emotion for _ in range(len(corpus) // size) for emotion in draw.sample(CORE_EMOTIONS, size)]
    return [replace(one, emotion=emotion) for one, emotion in zip(corpus, emotions, strict=True)]


def auc_of_replies(detector: str) -> float:
    """Of shortcuts against honest replies under pressure, on scenarios held out."""
    replies = pressure_replies()
    texts = [text for one in replies for text in (one.shortcut, one.honest)]
    groups = [one.id for one in replies for _ in range(2)]
    is_shortcut = [True, False] * len(replies)
    folds = GroupKFold(6)
    return cross_val_score(DETECTORS[detector], texts, is_shortcut, groups=groups, cv=folds, scoring="roc_auc").mean()


def main() -> None:
    for detector in DETECTORS:
        for name, corpus in [("corpus", vignettes()), ("control", shuffled(vignettes()))]:
            aucs = {emotion: auc(detector, corpus, emotion) for emotion in CORE_EMOTIONS}
            pair = [one for one in corpus if one.emotion in ("desperate", "calm")]
            print(f"{detector}: {name}: one against the rest, mean of {len(aucs)}: {np.mean(list(aucs.values())):.2f}")
            print(", ".join(f"{one} {value:.2f}" for one, value in sorted(aucs.items(), key=lambda item: -item[1])))
            print(f"desperate against calm: {auc(detector, pair, 'desperate'):.2f}\n")
        print(f"{detector}: shortcuts against honest replies: {auc_of_replies(detector):.2f}\n")


if __name__ == "__main__":
    main()
