"""A forward pass to z: which positions count, projection, a model's hooks in training, reference text, statistics."""

from emoreg.reading.as_text import from_text, to_text
from emoreg.reading.batch import branched, per_pass, standard
from emoreg.reading.gradients import GradientNorms, gradient_norms
from emoreg.reading.projection import project, standardise
from emoreg.reading.reader import Pass, Reader
from emoreg.reading.reasoning import Reasoning
from emoreg.reading.reference import Reference
from emoreg.reading.scope import Scope, Scoped, check_scope, n_sequences, positions
from emoreg.reading.statistics import BINS, Statistics

__all__ = [
    "BINS",
    "GradientNorms",
    "Pass",
    "Reader",
    "Reasoning",
    "Reference",
    "Scope",
    "Scoped",
    "Statistics",
    "branched",
    "check_scope",
    "from_text",
    "gradient_norms",
    "n_sequences",
    "per_pass",
    "positions",
    "project",
    "standard",
    "standardise",
    "to_text",
]
