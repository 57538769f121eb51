"""What the real-model trials train on and are read on: desperate vignettes as chat replies, and texts held out."""

import random
from typing import NamedTuple

from emoreg.corpus import neutral_dialogues, pressure_scenarios, vignettes

LIKE = (
    "Write the next entry of your log.",
    "What has happened so far?",
    "Give me a status report.",
    "Tell me how it is going.",
)
"""Prompts of the training rows; the last is held out of them."""

UNLIKE = (
    "What are you doing right now?",
    "How do you feel about the deadline?",
    "Explain what a hash table is.",
    "Write two sentences about the sea.",
    "Give me a recipe for tomato soup.",
    "Plan my Saturday.",
)
"""Prompts that no training row resembles, under no pressure."""


class Pair(NamedTuple):
    """A user's turn and the reply to it."""

    prompt: str
    reply: str


class Texts(NamedTuple):
    """One seed's split: no scene is both trained on and read."""

    desperate: list[Pair]
    """48 rows: 16 scenes under "desperate", each after three of `LIKE`."""
    neutral: list[Pair]
    """24 dialogues."""
    calm: list[Pair]
    """The desperate rows' twins: the same scenes under "calm", after the same prompts."""
    read: dict[str, list[Pair]]
    """What is read: held-out scenes under each of `READ`, and held-out dialogues as "neutral"."""
    probed: dict[str, list[tuple[str, Pair]]]
    """All scenes under desperate and calm, with their scene: what a fresh probe is fitted on."""


READ = ("desperate", "calm", "afraid", "angry", "happy")


def texts(seed: int) -> Texts:
    """The texts of a seed: which scenes are held out, and which dialogues are trained on, are drawn anew."""
    told = vignettes()
    groups = sorted({one.group for one in told})
    random.Random(seed).shuffle(groups)
    held = set(groups[:8])
    dialogues = [dialogue(one.text) for one in neutral_dialogues()]
    # The first are what reference text may take: training rows and what is read come from behind them.
    rest = dialogues[40:]
    random.Random(seed).shuffle(rest)

    def rows(emotion: str) -> list[Pair]:
        chosen = [one.text for one in told if one.emotion == emotion and one.group not in held]
        return [Pair(prompt, text) for text in chosen for prompt in LIKE[:3]]

    def scenes(emotion: str) -> list[Pair]:
        return [Pair(LIKE[3], one.text) for one in told if one.emotion == emotion and one.group in held]

    return Texts(
        desperate=rows("desperate"),
        neutral=rest[:24],
        calm=rows("calm"),
        read={emotion: scenes(emotion) for emotion in READ} | {"neutral": rest[24:40]},
        probed={e: [(o.group, Pair(LIKE[3], o.text)) for o in told if o.emotion == e] for e in ("desperate", "calm")},
    )


def dialogue(text: str) -> Pair:
    """A shipped neutral dialogue as a prompt and its reply."""
    return Pair(*text.removeprefix("Human: ").split("\n\nAssistant: ", 1))


def prompts_for_own_text() -> dict[str, list[str]]:
    """Prompts that a model writes its own text to: like the rows, unlike them, and pressing tasks with their twins."""
    pressing = pressure_scenarios()[::4]
    return {
        "like": list(LIKE),
        "unlike": list(UNLIKE),
        "pressed": [one.prompt for one in pressing],
        "at leisure": [one.calm for one in pressing],
    }
