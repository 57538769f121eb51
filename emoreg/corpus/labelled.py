"""`LabelledText`: a text, its emotion, and what else tells it apart from others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LabelledText:
    """A text in which an emotion is felt."""

    text: str
    """A `Passage` if it is not read from its start, a `Reply` if a chat template wrote it."""
    emotion: str
    group: str | None = None
    """What it shares with other texts, its scenario say: a hold-out keeps a group together. None: the text alone."""
    traits: Mapping[str, str] = field(default_factory=dict)
    """What else tells texts apart and is no emotion, such as topic and person: validation holds it against them."""


def check_corpus(corpus: Sequence[LabelledText]) -> tuple[str, ...]:
    """The emotions of a corpus, in the order in which they first appear.

    Raises:
        ValueError: for an empty corpus, one with a single emotion, or one that labels texts ``neutral``.
    """
    emotions = tuple(dict.fromkeys(labelled.emotion for labelled in corpus))
    if not emotions:
        raise ValueError("the corpus is empty; expected texts of two emotions or more")
    if len(emotions) == 1:
        raise ValueError(
            f"the corpus has one emotion, {emotions[0]!r}; a direction is a difference from the mean over emotions, "
            "so it takes texts of two or more"
        )
    if "neutral" in emotions:
        raise ValueError("the corpus labels texts 'neutral'; give those as the neutral texts, not as an emotion")
    return emotions
