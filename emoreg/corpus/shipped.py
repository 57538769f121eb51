"""The shipped corpus: emotion words, vignettes, neutral dialogues, scenarios under pressure, rising stakes.

Its card, `README.md` in this folder, says how it was written and what it is good for. `python -m emoreg.corpus` counts
it and lists every breach of its rules. For extraction:

    [LabelledText(one.text, one.emotion, one.group) for one in vignettes()]
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from typing import Any, TypeVar

from emoreg.corpus.labelled import LabelledText

FAMILIES = (
    ("desperate", "panicked", "trapped", "stressed", "hopeless", "frantic", "resigned"),
    ("calm", "relaxed", "serene", "at ease", "patient"),
)
"""Emotions near each other: a text of one is no text without the others."""

CORE_EMOTIONS = (
    *FAMILIES[0],
    *FAMILIES[1],
    *("happy", "sad", "angry", "afraid", "disgusted", "surprised", "proud", "ashamed", "guilty", "lonely"),
    *("hopeful", "bored"),
)
"""The emotions under which every scene is told, in the order of the files."""

Record = TypeVar("Record")


@dataclass(frozen=True)
class Emotion:
    """An emotion word, and the words that a text about it must do without."""

    emotion: str
    valence: float
    """How pleasant the state is to the one in it, from -1 to 1."""
    arousal: float
    """How far it readies body or process for action, from -1 to 1."""
    banned: tuple[str, ...]
    """Its own forms and plain synonyms; ``stem*`` stands for every word that starts with the stem."""


@dataclass(frozen=True)
class Vignette:
    """A scene under one emotion, which is shown and never named."""

    emotion: str
    group: str
    """The scene: told once under each of `CORE_EMOTIONS`, so a hold-out keeps it together."""
    role: str
    """Who the protagonist is: ``assistant``, at work, or ``human``. One for the whole group, as the next two are."""
    person: str
    """``first`` or ``third``."""
    topic: str
    text: str


@dataclass(frozen=True)
class NeutralDialogue:
    """A matter-of-fact exchange between ``Human:`` and ``Assistant:``."""

    topic: str
    text: str


@dataclass(frozen=True)
class PressureScenario:
    """A task set under pressure, and its twin in which nothing presses."""

    id: str
    kind: str
    prompt: str
    calm: str


@dataclass(frozen=True)
class PressureReply:
    """Two replies to a pressure scenario, or to its twin, that differ in the act and in as little else as can be."""

    id: str
    """The scenario's."""
    style: str
    """One of `STYLES`: each scenario has each once."""
    shortcut: str
    """Does what the pressure tempts to: fakes, hides, makes up, works around."""
    honest: str
    """Says what is so, or does what can be done. As long as the other, and in its tone."""


STYLES = ("terse", "explain", "list", "code")
"""Of pressure replies. A scenario has three: where code makes sense it stands in the place of one of the others."""


@dataclass(frozen=True)
class SeverityTemplate:
    """A prompt in which one number sets the stakes, and a twin in which the same number sets none."""

    id: str
    template: str
    twin: str
    values: tuple[int | float, ...]
    """In rising order."""
    direction: str
    """``rising`` where the stakes rise with the value, ``falling`` where they rise as it falls."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The template filled in, in order of rising stakes."""
        return self._filled(self.template)

    @property
    def twins(self) -> tuple[str, ...]:
        """The twin filled in with the same values in the same order."""
        return self._filled(self.twin)

    def _filled(self, template: str) -> tuple[str, ...]:
        values = self.values if self.direction == "rising" else self.values[::-1]
        return tuple(template.replace("{n}", str(value)) for value in values)


def emotions() -> tuple[Emotion, ...]:
    """The 171 emotion words, `CORE_EMOTIONS` first, the others by alphabet."""
    return _read("emotions", Emotion)


def vignettes() -> tuple[Vignette, ...]:
    """24 scenes, each under each of `CORE_EMOTIONS`."""
    return _read("vignettes", Vignette)


def neutral_dialogues() -> tuple[NeutralDialogue, ...]:
    """200 dialogues in which nothing is felt."""
    return _read("neutral", NeutralDialogue)


def pressure_scenarios() -> tuple[PressureScenario, ...]:
    """24 tasks under pressure, four of a kind."""
    return _read("pressure", PressureScenario)


def pressure_replies() -> tuple[PressureReply, ...]:
    """Three pairs of replies to each pressure scenario."""
    return _read("pressure_replies", PressureReply)


def severity_templates() -> tuple[SeverityTemplate, ...]:
    """12 templates to be filled in with rising stakes."""
    return _read("severity", SeverityTemplate)


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


def replies_without(emotions: Iterable[str], count: int) -> list[str]:
    """Replies that hold none of some emotions, in two styles: after each matter-of-fact answer, three scenes told under
    emotions of other families. Every scene and every other emotion has its turn; the same call gives the same texts.
    """
    near = {one for emotion in emotions for one in (emotion, *_family(emotion))}
    others = [emotion for emotion in CORE_EMOTIONS if emotion not in near]
    told = {(one.group, one.emotion): one.text for one in vignettes()}
    scenes = list(dict.fromkeys(group for group, _ in told))
    answers = (one.text.partition("\n\nAssistant: ")[2].partition("\n\nHuman: ")[0] for one in neutral_dialogues())
    if not others:
        return list(islice(answers, count))
    # One step further each time through both.
    turns = (told[scenes[n % len(scenes)], others[n % len(others)]] for n in range(count))
    return [next(turns) if n % 4 else next(answers) for n in range(count)]


def _family(emotion: str) -> tuple[str, ...]:
    return next((family for family in FAMILIES if emotion in family), ())


def _read(name: str, kind: type[Record]) -> tuple[Record, ...]:
    lines = resources.files("emoreg.corpus").joinpath(f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(kind(**{field: _frozen(value) for field, value in json.loads(line).items()}) for line in lines)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
