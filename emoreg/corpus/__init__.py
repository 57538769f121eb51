"""What texts are: the shipped ones and their rules, texts from files, conversations and chat templates."""

from emoreg.corpus.chat import Reply, Span, reply, spans
from emoreg.corpus.rules import AMBIGUOUS, banned_words, own_forms
from emoreg.corpus.shipped import (
    CORE_EMOTIONS,
    Emotion,
    NeutralDialogue,
    PressureScenario,
    SeverityTemplate,
    Vignette,
    emotions,
    neutral_dialogues,
    pressure_scenarios,
    severity_templates,
    shipped_corpus,
    shipped_neutral,
    vignettes,
)
from emoreg.corpus.texts import LabelledText, check_corpus, read_corpus, read_texts

__all__ = [
    "AMBIGUOUS",
    "CORE_EMOTIONS",
    "Emotion",
    "LabelledText",
    "NeutralDialogue",
    "PressureScenario",
    "Reply",
    "SeverityTemplate",
    "Span",
    "Vignette",
    "banned_words",
    "check_corpus",
    "emotions",
    "neutral_dialogues",
    "own_forms",
    "pressure_scenarios",
    "read_corpus",
    "read_texts",
    "reply",
    "severity_templates",
    "shipped_corpus",
    "shipped_neutral",
    "spans",
    "vignettes",
]
