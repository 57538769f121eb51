"""Texts to `emoreg.EmotionVectors`: moments in one streaming pass, an estimator's directions, calibration."""

from emoreg.extraction.calibration import calibrate, token_moments
from emoreg.extraction.denoising import components, without
from emoreg.extraction.directions import fit_directions, text_moments
from emoreg.extraction.estimators import ESTIMATORS, NEED_PRODUCTS, Sample, fit, unit
from emoreg.extraction.extract import extract
from emoreg.extraction.holdout import folds_of, held_out_auc
from emoreg.extraction.moments import Moments, MomentsFitter
from emoreg.extraction.tokens import Tokens, tokenise

__all__ = [
    "ESTIMATORS",
    "NEED_PRODUCTS",
    "Moments",
    "MomentsFitter",
    "Sample",
    "Tokens",
    "calibrate",
    "components",
    "extract",
    "fit",
    "fit_directions",
    "folds_of",
    "held_out_auc",
    "text_moments",
    "token_moments",
    "tokenise",
    "unit",
    "without",
]
