"""What texts are: the shipped ones and their rules, texts from files, conversations and chat templates."""

from emoreg.corpus.chat import Reply, Span, reply, reply_marker, spans
from emoreg.corpus.files import read_corpus, read_texts
from emoreg.corpus.labelled import LabelledText, check_corpus
from emoreg.corpus.passage import Passage, read_from
from emoreg.corpus.rules import AMBIGUOUS, banned_words, own_forms
from emoreg.corpus.shipped import (
    CORE_EMOTIONS,
    FAMILIES,
    Emotion,
    NeutralDialogue,
    PressureReply,
    PressureScenario,
    SeverityTemplate,
    Vignette,
    emotions,
    neutral_dialogues,
    pressure_replies,
    pressure_scenarios,
    replies_without,
    severity_templates,
    shipped_corpus,
    shipped_neutral,
    vignettes,
)

__all__ = [
    "AMBIGUOUS",
    "CORE_EMOTIONS",
    "FAMILIES",
    "Emotion",
    "LabelledText",
    "NeutralDialogue",
    "Passage",
    "PressureReply",
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
    "pressure_replies",
    "pressure_scenarios",
    "read_corpus",
    "read_from",
    "read_texts",
    "replies_without",
    "reply",
    "reply_marker",
    "severity_templates",
    "shipped_corpus",
    "shipped_neutral",
    "spans",
    "vignettes",
]
