"""Penalties, schedules and targets, and the term that they make on one model. Knows no trainer."""

from emoreg.regularizer.penalties import (
    ANCHOR_WEIGHT,
    HINGE_WEIGHT,
    Anchor,
    Band,
    Hinge,
    Penalty,
    default_penalties,
    thresholds,
)
from emoreg.regularizer.regularizer import Regularizer
from emoreg.regularizer.schedules import Schedule, check_steps, constant, cosine, linear
from emoreg.regularizer.scoped import Scale, sums_over_scope
from emoreg.regularizer.target import Target
from emoreg.regularizer.term import Term

__all__ = [
    "ANCHOR_WEIGHT",
    "HINGE_WEIGHT",
    "Anchor",
    "Band",
    "Hinge",
    "Penalty",
    "Regularizer",
    "Scale",
    "Schedule",
    "Target",
    "Term",
    "check_steps",
    "constant",
    "cosine",
    "default_penalties",
    "linear",
    "sums_over_scope",
    "thresholds",
]
