"""Stories in which an emotion is felt and never named, written by the model whose vectors they are for."""

from emoreg.stories.generate import Backend, Sampling, Transformers
from emoreg.stories.output import Settings, resume
from emoreg.stories.prompts import Item, plan
from emoreg.stories.run import Outcome, write
from emoreg.stories.topics import TOPICS
from emoreg.stories.vllm import Vllm

__all__ = [
    "TOPICS",
    "Backend",
    "Item",
    "Outcome",
    "Sampling",
    "Settings",
    "Transformers",
    "Vllm",
    "plan",
    "resume",
    "write",
]
