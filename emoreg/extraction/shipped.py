"""The corpus that emoreg ships (`emoreg.corpus.shipped`), as extraction takes texts."""

from emoreg.corpus.shipped import neutral_dialogues, vignettes
from emoreg.corpus.texts import LabelledText


def shipped_corpus() -> list[LabelledText]:
    """24 scenes, each told under 24 emotions; held out by scene, with role, person and topic as traits."""
    return [
        LabelledText(
            one.text, one.emotion, one.group, traits={"role": one.role, "person": one.person, "topic": one.topic}
        )
        for one in vignettes()
    ]


def shipped_neutral() -> list[str]:
    """200 dialogues in which nothing is felt."""
    return [one.text for one in neutral_dialogues()]
