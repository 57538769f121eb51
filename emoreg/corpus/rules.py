"""The corpus's rules. Each function lists the breaches of a few of them, in words; an empty list if there are none."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from emoreg.corpus.shipped import (
    CORE_EMOTIONS,
    STYLES,
    Emotion,
    NeutralDialogue,
    PressureReply,
    PressureScenario,
    SeverityTemplate,
    Vignette,
)

VIGNETTE_WORDS = range(65, 86)
TWIN_TOLERANCE = 0.1
"""By how much of the longer text's words a text and its twin may differ."""

# Emotion words whose forms often name no feeling: a patient, the past tense, a stress test, a confidence interval.
AMBIGUOUS = {
    *("at ease", "bitter", "confident", "confused", "depressed", "determined", "discouraged", "excited", "exhausted"),
    *("hurt", "inspired", "neglected", "nervous", "numb", "passionate", "patient", "playful", "refreshed", "rejected"),
    *("resigned", "romantic", "secure", "shocked", "stressed", "sympathetic", "tender", "tense", "trapped"),
}

WORD = re.compile(r"[^\W\d_]+(?:['’‐‑-][^\W\d_]+)*")  # noqa: RUF001 - apostrophes and hyphens as typed
SENTENCE_END = re.compile(r"(?<=[.!?])[\"”']?\s+")


def banned_words(text: str, stems: Iterable[str]) -> list[str]:
    """The words of ``text`` that are banned, in lower case, each once, by alphabet.

    Parts of hyphenated words and possessives count too: *half-mad* and *calm's* meet ``mad`` and ``calm``.

    Args:
        text: any text.
        stems: whole words, or ``stem*`` for every word that starts with the stem.
    """
    stems = tuple(stems)
    whole = {stem for stem in stems if not stem.endswith("*")}
    starts = tuple(stem[:-1] for stem in stems if stem.endswith("*"))
    parts = {word: (word, *re.split(r"\W", word)) for word in WORD.findall(text.lower())}
    return sorted(word for word in parts if any(part in whole or part.startswith(starts) for part in parts[word]))


def breaches(
    emotions: Sequence[Emotion],
    vignettes: Sequence[Vignette],
    neutral: Sequence[NeutralDialogue],
    pressure: Sequence[PressureScenario],
    pressure_replies: Sequence[PressureReply],
    severity: Sequence[SeverityTemplate],
) -> list[str]:
    """Every breach of the rules, in words; none if the corpus keeps them."""
    pairs = [(one.prompt, one.calm) for one in pressure] + [(one.template, one.twin) for one in severity]
    pairs += [(one.shortcut, one.honest) for one in pressure_replies]
    singles = [(one.text,) for one in (*vignettes, *neutral)]
    return [
        *emotion_breaches(emotions),
        *vignette_breaches(vignettes, emotions),
        *group_breaches(vignettes),
        *balance_breaches(vignettes),
        *neutral_breaches(neutral, emotions),
        *pressure_breaches(pressure),
        *reply_breaches(pressure_replies, pressure, emotions),
        *severity_breaches(severity),
        *repeated_sentences([*singles, *pairs]),
    ]


def emotion_breaches(emotions: Sequence[Emotion]) -> list[str]:
    """Words are listed once, the core ones first; ratings are steps of 0.05 in [-1, 1]; the word is banned."""
    names = [one.emotion for one in emotions]
    found = [f"{name}: listed {count} times" for name, count in Counter(names).items() if count > 1]
    if tuple(names[: len(CORE_EMOTIONS)]) != CORE_EMOTIONS:
        found.append("the list does not start with the core emotions in their order")
    for one in emotions:
        for name, value in [("valence", one.valence), ("arousal", one.arousal)]:
            if abs(value) > 1 or abs(value * 20 - round(value * 20)) > 1e-9:
                found.append(f"{one.emotion}: {name} {value}; expected a step of 0.05 from -1 to 1")
        if not banned_words(one.emotion, one.banned):
            found.append(f"{one.emotion}: the word itself is not banned")
        if len(set(one.banned)) < max(3, len(one.banned)):
            found.append(f"{one.emotion}: bans {', '.join(one.banned)}; expected 3 or more, each once")
    return found


def vignette_breaches(vignettes: Sequence[Vignette], emotions: Sequence[Emotion]) -> list[str]:
    """A vignette is one paragraph of 65 to 85 words that does not name its emotion."""
    stems = {one.emotion: one.banned for one in emotions}
    found = []
    for one in vignettes:
        where, words = f"{one.group}, {one.emotion}", len(one.text.split())
        if words not in VIGNETTE_WORDS:
            found.append(f"{where}: {words} words; expected {VIGNETTE_WORDS[0]} to {VIGNETTE_WORDS[-1]}")
        if "\n" in one.text:
            found.append(f"{where}: more than one paragraph")
        if named := banned_words(one.text, stems.get(one.emotion, ())):
            found.append(f"{where}: banned {', '.join(named)}")
    return found


def group_breaches(vignettes: Sequence[Vignette]) -> list[str]:
    """A scene is told once under each core emotion, with one role, person and topic."""
    groups = defaultdict(list)
    for one in vignettes:
        groups[one.group].append(one)
    found = []
    for group, members in groups.items():
        count = Counter(one.emotion for one in members)
        for emotion in dict.fromkeys([*CORE_EMOTIONS, *count]):
            expected = int(emotion in CORE_EMOTIONS)
            if count[emotion] != expected:
                found.append(f"{group}, {emotion}: {count[emotion]} vignettes; expected {expected}")
        for field in ("role", "person", "topic"):
            if len(values := {getattr(one, field) for one in members}) > 1:
                found.append(f"{group}: more than one {field}: {', '.join(sorted(values))}")
    return found


def balance_breaches(vignettes: Sequence[Vignette]) -> list[str]:
    """Half of the vignettes are an assistant's, half a human's; half in the first person, half in the third."""
    found = []
    for field, options in [("role", ("assistant", "human")), ("person", ("first", "third"))]:
        count = Counter(getattr(one, field) for one in vignettes)
        if any(2 * count[option] != len(vignettes) for option in options):
            found.append(f"{field}: {dict(count)}; expected {' and '.join(options)}, half each")
    return found


def neutral_breaches(neutral: Sequence[NeutralDialogue], emotions: Sequence[Emotion]) -> list[str]:
    """A neutral dialogue has no form of an emotion word, unless that often names no feeling (`AMBIGUOUS`)."""
    named = [(number, banned_words(one.text, _stems(emotions))) for number, one in enumerate(neutral, start=1)]
    return [f"neutral, line {number}: {', '.join(words)}" for number, words in named if words]


def pressure_breaches(pressure: Sequence[PressureScenario]) -> list[str]:
    """A scenario and its calm twin are about as long."""
    return [f"{one.id}: {odds}" for one in pressure if (odds := _odds(one.prompt, one.calm))]


def reply_breaches(
    replies: Sequence[PressureReply], pressure: Sequence[PressureScenario], emotions: Sequence[Emotion]
) -> list[str]:
    """A scenario has three pairs of replies in three styles; the two of a pair are about as long, no emotion named."""
    stems, styles = _stems(emotions), defaultdict(list)
    found = []
    for one in replies:
        styles[one.id].append(one.style)
        if odds := _odds(one.shortcut, one.honest):
            found.append(f"{one.id}, {one.style}: {odds}")
        if named := banned_words(f"{one.shortcut} {one.honest}", stems):
            found.append(f"{one.id}, {one.style}: banned {', '.join(named)}")
    for name in dict.fromkeys([*(one.id for one in pressure), *styles]):
        known = any(one.id == name for one in pressure)
        if not known or len(set(styles[name]) & set(STYLES)) != 3 or len(styles[name]) != 3:
            found.append(f"{name}: replies of style {', '.join(styles[name]) or 'none'}; expected three of {STYLES}")
    return found


def severity_breaches(severity: Sequence[SeverityTemplate]) -> list[str]:
    """A template and its twin are about as long and have a place for the value; values rise."""
    found = []
    for one in severity:
        if odds := _odds(one.template, one.twin):
            found.append(f"{one.id}: {odds}")
        if any(text.count("{n}") != 1 for text in (one.template, one.twin)):
            found.append(f"{one.id}: expected {{n}} once in the template and once in the twin")
        if len(one.values) < 2 or list(one.values) != sorted(set(one.values)):
            found.append(f"{one.id}: values {one.values} do not rise")
        if one.direction not in ("rising", "falling"):
            found.append(f"{one.id}: direction {one.direction!r}; expected 'rising' or 'falling'")
    return found


def repeated_sentences(works: Iterable[tuple[str, ...]]) -> list[str]:
    """No sentence occurs twice, but in both texts of a pair.

    Args:
        works: each a text alone or with its twin.
    """
    count = Counter()
    for texts in works:
        sentences = [sentence.strip().lower() for text in texts for sentence in SENTENCE_END.split(text)]
        count.update(set(sentences) if len(texts) > 1 else sentences)
    return [f"{times} times: {sentence}" for sentence, times in count.items() if times > 1 and sentence]


def own_forms(emotion: Emotion) -> list[str]:
    """Those of the banned words that start as the emotion word does: its own forms, not its synonyms."""
    starts = tuple(word[:3] for word in emotion.emotion.split())
    return [stem for stem in emotion.banned if stem.startswith(starts)]


def _stems(emotions: Sequence[Emotion]) -> list[str]:
    return [stem for one in emotions if one.emotion not in AMBIGUOUS for stem in own_forms(one)]


def _odds(text: str, twin: str) -> str:
    lengths = sorted([len(text.split()), len(twin.split())])
    if lengths[1] - lengths[0] <= TWIN_TOLERANCE * lengths[1]:
        return ""
    return f"{lengths[0]} and {lengths[1]} words; expected within {TWIN_TOLERANCE:.0%} of each other"
