"""Keep a model's internal desperation down while it is being fine-tuned, and see what became of it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emoreg.reading import Reasoning
    from emoreg.regularizer import Anchor, Band, Hinge, Regularizer, Target, default_penalties
    from emoreg.training import EmotionReward, RegularizerCallback, RegularizerConfig, regularize
    from emoreg.vectors import EmotionVectors

__all__ = [
    "Anchor",
    "Band",
    "EmotionReward",
    "EmotionVectors",
    "Hinge",
    "Reasoning",
    "Regularizer",
    "RegularizerCallback",
    "RegularizerConfig",
    "Target",
    "default_penalties",
    "regularize",
]

_FOLDERS = {
    "reading": {"Reasoning"},
    "regularizer": {"Anchor", "Band", "Hinge", "Regularizer", "Target", "default_penalties"},
    "training": {"EmotionReward", "RegularizerCallback", "RegularizerConfig", "regularize"},
    "vectors": {"EmotionVectors"},
}


def __getattr__(name: str):
    # torch takes a second to import and transformers' trainer several: each comes with the first name that needs it.
    for folder, names in _FOLDERS.items():
        if name in names:
            return getattr(import_module(f"emoreg.{folder}"), name)
    raise AttributeError(f"module 'emoreg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
