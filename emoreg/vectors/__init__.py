"""`EmotionVectors`: directions and what calibrates them, their provenance, their file, and how they are shared."""

from emoreg.vectors.artifacts import load_artifact, log_artifact, push_artifact
from emoreg.vectors.belonging import sample_weights
from emoreg.vectors.card import model_card
from emoreg.vectors.directions import Directions
from emoreg.vectors.emotion_vectors import EmotionVectors
from emoreg.vectors.find import find
from emoreg.vectors.hub import pull_from_hub, push_to_hub
from emoreg.vectors.provenance import Provenance, config_hash, text_hash, tokenizer_hash

__all__ = [
    "Directions",
    "EmotionVectors",
    "Provenance",
    "config_hash",
    "find",
    "load_artifact",
    "log_artifact",
    "model_card",
    "pull_from_hub",
    "push_artifact",
    "push_to_hub",
    "sample_weights",
    "text_hash",
    "tokenizer_hash",
]
