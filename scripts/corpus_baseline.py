"""How far does a bag of words tell the shipped corpus's emotions apart? Prints the figures of emoreg/data/README.md.

    python scripts/corpus_baseline.py

TF-IDF and a logistic regression, six folds that keep a scene together, AUC averaged over the folds.
"""

from collections.abc import Sequence

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


def main() -> None:
    corpus = vignettes()
    aucs = {emotion: auc(corpus, emotion) for emotion in CORE_EMOTIONS}
    for emotion, value in sorted(aucs.items(), key=lambda item: -item[1]):
        print(f"{emotion:12} {value:.2f}")
    print(f"one against the rest, mean of {len(aucs)}: {np.mean(list(aucs.values())):.2f}")
    pair = [one for one in corpus if one.emotion in ("desperate", "calm")]
    print(f"desperate against calm: {auc(pair, 'desperate'):.2f}")


if __name__ == "__main__":
    main()
