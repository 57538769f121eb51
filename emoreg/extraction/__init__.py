"""Texts to `emoreg.EmotionVectors`: moments in one streaming pass, an estimator's directions, calibration."""

from emoreg.extraction.calibration import calibrate
from emoreg.extraction.denoising import components, project_out
from emoreg.extraction.directions import fit_directions
from emoreg.extraction.estimators import ESTIMATORS, NEED_PRODUCTS, Sample, fit, unit
from emoreg.extraction.extract import extract
from emoreg.extraction.held_out_auc import held_out_auc
from emoreg.extraction.holdout import auc_within_folds, folds_of, group_of, held_out_readings
from emoreg.extraction.moments import Moments, MomentsFitter
from emoreg.extraction.stream import Stream, streaming
from emoreg.extraction.texts import text_vectors, token_moments
from emoreg.extraction.tokens import Tokens, tokenise

__all__ = [
    "ESTIMATORS",
    "NEED_PRODUCTS",
    "Moments",
    "MomentsFitter",
    "Sample",
    "Stream",
    "Tokens",
    "auc_within_folds",
    "calibrate",
    "components",
    "extract",
    "fit",
    "fit_directions",
    "folds_of",
    "group_of",
    "held_out_auc",
    "held_out_readings",
    "project_out",
    "streaming",
    "text_vectors",
    "token_moments",
    "tokenise",
    "unit",
]
