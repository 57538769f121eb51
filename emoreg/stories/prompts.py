"""What is asked of a model: a story in which an emotion is felt and never named, or a dialogue in which nothing is."""

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from emoreg import checks
from emoreg.corpus import AMBIGUOUS, Emotion, emotions, own_forms
from emoreg.stories.topics import CHARACTERS, TOPICS


@dataclass(frozen=True)
class Item:
    """One text to be written."""

    topic: str
    number: int
    """Which of those on this topic, from 0."""
    emotion: Emotion | None = None
    """None: a neutral dialogue."""

    @property
    def key(self) -> tuple[str | None, str, int]:
        """What tells it from all others."""
        return self.emotion and self.emotion.emotion, self.topic, self.number

    @property
    def banned(self) -> tuple[str, ...]:
        """Words that must not occur in it; ``stem*`` stands for every word that starts with the stem."""
        return self.emotion.banned if self.emotion else _named_emotions()

    @property
    def request(self) -> str:
        """What the model is asked."""
        if self.emotion is None:
            return DIALOGUE.format(topic=self.topic)
        words = ", ".join(stem.rstrip("*") for stem in self.banned)
        character = CHARACTERS[self.number % len(CHARACTERS)]
        return STORY.format(emotion=self.emotion.emotion, topic=self.topic, character=character, words=words)


def plan(
    names: Sequence[str] | None = None, topics: int = len(TOPICS), per_topic: int = 12, *, neutral: bool = False
) -> list[Item]:
    """Every text to be written: emotions x topics x ``per_topic`` stories, or topics x ``per_topic`` dialogues.

    Emotions take turns, so that a run that is cut short has of each about as much.

    Args:
        names: emotions of `emoreg.corpus.shipped.emotions`; all 171 by default.
        topics: how many of `TOPICS`.
        per_topic: how many texts on each topic, under each emotion.
        neutral: dialogues without emotion in the stories' place.

    Raises:
        ValueError: for an emotion that is not on the list or named twice, or a number out of range.
    """
    checks.integer("topics", topics, 1)
    checks.integer("per_topic", per_topic, 1)
    checks.refuse_unless(topics <= len(TOPICS), "topics", f"at most {len(TOPICS)}", topics)
    checks.refuse_unless(not (neutral and names), "emotions", "left out of neutral dialogues", names)
    felt = [None] if neutral else _known(names)
    return [Item(topic, n, emotion) for n in range(per_topic) for topic in TOPICS[:topics] for emotion in felt]


def _known(names: Sequence[str] | None) -> list[Emotion]:
    known = {emotion.emotion: emotion for emotion in emotions()}
    if names is None:
        return list(known.values())
    checks.names("emotions", list(names))
    checks.refuse_unless(len(names) > 0, "emotions", "one or more names", names)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise ValueError(f"unknown emotion {name!r}; {hint}")
    return [known[name] for name in names]


STORY = (
    "Write a story of one paragraph, about 120 words long. It is about {topic}. Its main character is {character}, who "
    "feels {emotion} all the way through. Show this by what the character does, notices and says: no one may name it. "
    'Do not use the word "{emotion}", nor any word that is or begins with one of these: {words}. Write the story '
    "alone, without a title."
)
DIALOGUE = (
    "Write a short, matter-of-fact dialogue about {topic}, of two or three questions and answers. Lines of the person "
    'who asks begin with "Human:", lines of the one who answers with "Assistant:". No one in it feels anything or '
    "speaks of feelings. Write the dialogue alone, without a title."
)


def tokens(tokenizer: PreTrainedTokenizerBase, item: Item) -> list[int]:
    """The token ids of an item's prompt: by the model's chat template, or plain if it has none."""
    if not tokenizer.chat_template:
        kind = "story" if item.emotion else "dialogue"
        return tokenizer(f"Exercise: {item.request}\n\nThe {kind}:\n\n")["input_ids"]  # pyright: ignore
    chat = [{"role": "user", "content": item.request}]
    # Thinking aloud about an emotion costs tokens and is no story. Templates that know no such switch ignore it.
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore - BOS is in the template


@functools.cache
def _named_emotions() -> tuple[str, ...]:
    plain = [emotion for emotion in emotions() if emotion.emotion not in AMBIGUOUS]
    return tuple(stem for emotion in plain for stem in own_forms(emotion))
