"""A forward pass to z: which positions count, projection, a model's hooks in training, reference text, statistics."""

from emoreg.reading.as_text import from_text, to_text
from emoreg.reading.batch import per_pass
from emoreg.reading.frames import Row, leads, rows_of
from emoreg.reading.gradients import GradientNorms, gradient_norms
from emoreg.reading.matched import matched
from emoreg.reading.read import readings, z_of
from emoreg.reading.reader import Pass, Reader
from emoreg.reading.reasoning import Reasoning
from emoreg.reading.reference import Reference, ReferenceText
from emoreg.reading.scope import IGNORE, Scope, Scoped, check_scope, n_sequences
from emoreg.reading.statistics import BINS, Statistics

__all__ = [
    "BINS",
    "IGNORE",
    "GradientNorms",
    "Pass",
    "Reader",
    "Reasoning",
    "Reference",
    "ReferenceText",
    "Row",
    "Scope",
    "Scoped",
    "Statistics",
    "check_scope",
    "from_text",
    "gradient_norms",
    "leads",
    "matched",
    "n_sequences",
    "per_pass",
    "readings",
    "rows_of",
    "to_text",
    "z_of",
]
