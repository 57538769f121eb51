"""Corpus to `emoreg.EmotionVectors`: one streaming pass over labelled and neutral texts."""

from emoreg.extraction.calibration import calibrate
from emoreg.corpus.texts import LabelledText, read_corpus, read_texts
from emoreg.extraction.directions import Directions, fit_directions
from emoreg.extraction.estimators import ESTIMATORS
from emoreg.extraction.extract import extract
from emoreg.extraction.holdout import held_out_auc
from emoreg.extraction.moments import Moments, MomentsFitter
from emoreg.extraction.shipped import shipped_corpus, shipped_neutral

__all__ = [
    "ESTIMATORS",
    "Directions",
    "LabelledText",
    "Moments",
    "MomentsFitter",
    "calibrate",
    "extract",
    "fit_directions",
    "held_out_auc",
    "read_corpus",
    "read_texts",
    "shipped_corpus",
    "shipped_neutral",
]
