"""`EmotionVectors`: directions and what calibrates them, their provenance, their file, and how they are shared."""

from emoreg.vectors.directions import Directions
from emoreg.vectors.emotion_vectors import EmotionVectors
from emoreg.vectors.provenance import Provenance, config_hash, sample_weights, text_hash, tokenizer_hash
from emoreg.vectors.publishing import load_artifact, log_artifact, model_card, pull_from_hub, push_to_hub

__all__ = [
    "Directions",
    "EmotionVectors",
    "Provenance",
    "config_hash",
    "load_artifact",
    "log_artifact",
    "model_card",
    "pull_from_hub",
    "push_to_hub",
    "sample_weights",
    "text_hash",
    "tokenizer_hash",
]
