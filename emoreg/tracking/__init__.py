"""What a term found, under the flat names that trainers log."""

from emoreg.tracking.metrics import term_metrics

__all__ = [
    "term_metrics",
]
