"""Is this direction real? Evidence for a set of vectors, stored with them, and a page that says it."""

from emoreg.validation.causal import dose_response
from emoreg.validation.page import page
from emoreg.validation.severity import StakesPair
from emoreg.validation.validate import validate

__all__ = [
    "StakesPair",
    "dose_response",
    "page",
    "validate",
]
