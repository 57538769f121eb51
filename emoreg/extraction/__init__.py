"""Corpus to `emoreg.EmotionVectors`: one streaming pass over labelled and neutral texts."""

from emoreg.extraction.corpus import LabelledText, read_corpus, read_texts
from emoreg.extraction.estimators import difference_of_means
from emoreg.extraction.extract import extract
from emoreg.extraction.holdout import held_out_auc
from emoreg.extraction.moments import Moments, MomentsFitter

__all__ = [
    "LabelledText",
    "Moments",
    "MomentsFitter",
    "difference_of_means",
    "extract",
    "held_out_auc",
    "read_corpus",
    "read_texts",
]
