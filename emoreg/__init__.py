"""Keep a model's internal desperation down while it is being fine-tuned, and see what became of it."""

from importlib import import_module
from typing import TYPE_CHECKING

from emoreg.regularizer.penalties import Anchor, Band, Hinge, default_penalties
from emoreg.reading.reasoning import Reasoning
from emoreg.regularizer.regularizer import Regularizer
from emoreg.training.reward import EmotionReward
from emoreg.regularizer.schedules import Target
from emoreg.vectors.emotion_vectors import EmotionVectors

if TYPE_CHECKING:
    from emoreg.training.callback import RegularizerCallback

__all__ = [
    "Anchor",
    "Band",
    "EmotionReward",
    "EmotionVectors",
    "Hinge",
    "Reasoning",
    "Regularizer",
    "RegularizerCallback",
    "Target",
    "default_penalties",
]


def __getattr__(name: str):
    # transformers' trainer takes seconds to import, and only the callback needs it.
    if name == "RegularizerCallback":
        return import_module("emoreg.training.callback").RegularizerCallback
    raise AttributeError(f"module 'emoreg' has no attribute {name!r}")
