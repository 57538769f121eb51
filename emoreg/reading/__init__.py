"""A forward pass to z: which positions count, projection, a model's hooks in training, reference text, statistics."""

from emoreg.reading.batch import branched, per_pass, standard
from emoreg.reading.projection import project, standardise
from emoreg.reading.read import readings, z_of
from emoreg.reading.reader import Pass, Reader
from emoreg.reading.reasoning import Reasoning
from emoreg.reading.reference import Reference
from emoreg.reading.scope import Scope, check_scope, n_sequences, positions, rows, tokens
from emoreg.reading.statistics import BINS, Statistics, from_text, to_text

__all__ = [
    "BINS",
    "Pass",
    "Reader",
    "Reasoning",
    "Reference",
    "Scope",
    "Statistics",
    "branched",
    "check_scope",
    "from_text",
    "n_sequences",
    "per_pass",
    "positions",
    "project",
    "readings",
    "rows",
    "standard",
    "standardise",
    "to_text",
    "tokens",
    "z_of",
]
