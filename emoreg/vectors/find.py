"""Vectors by whatever names them."""

import re
from pathlib import Path

from emoreg import checks
from emoreg.vectors.artifacts import load_artifact
from emoreg.vectors.emotion_vectors import EmotionVectors
from emoreg.vectors.hub import pull_from_hub
from emoreg.vectors.storage import SUFFIX, existing, with_suffix

WANDB = "wandb:"
"""What the name of an artifact begins with."""

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def find(source: EmotionVectors | str | Path) -> EmotionVectors:
    """Vectors from where they are.

    Example:
        >>> find("vectors/qwen3-0.6b")                      # a file, with or without .safetensors
        >>> find("me/qwen3-0.6b-emotions")                  # a repository on the Hugging Face Hub
        >>> find("wandb:me/project/qwen3-0.6b:latest")      # an artifact of Weights & Biases

    Args:
        source: vectors, which are given back as they are; or a name. A file that exists comes before a repository of
            the same name.

    Raises:
        ValueError: if nothing is there, saying where it was looked for; or if what is there is not sound.
    """
    if isinstance(source, EmotionVectors):
        return source
    checks.kind("vectors", source, str | Path, "EmotionVectors, the path of a file, or the name of a repository")
    checks.text("vectors", str(source), "the path of a file, or the name of a repository")
    file = existing(source)
    if file is not None:
        return EmotionVectors.load(file)
    name = str(source)
    if name.startswith(WANDB):
        return load_artifact(name.removeprefix(WANDB))
    if isinstance(source, Path) or name.endswith(SUFFIX) or not _REPOSITORY.fullmatch(name):
        return EmotionVectors.load(source)  # which says that there is none
    try:
        return pull_from_hub(name)
    except ValueError as error:
        raise ValueError(
            f"no vectors at {with_suffix(name)}, and none in a repository of that name: {error}; make them with "
            "`emoreg extract`, or correct the name"
        ) from error
