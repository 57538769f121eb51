"""What the demo and the tests take from the world: stories, neutral texts, fine-tuning rows and probe texts.

All functions are pure in their seed, and every purpose draws from its own stream, so none shares texts with another.
"""

import random
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from emoreg.corpus import LabelledText
from emoreg.sandbox import phrases
from emoreg.sandbox.organism import ASSISTANT, BOS, EOS, USER, render
from emoreg.sandbox.world import EMOTIONS, Text, World, draw_task

STEPS, BATCH = 120, 16
"""Of a fine-tune: optimizer steps, and rows in each."""

DEFAULT = World()
TONE_ONLY = World(p_situation=0.0, p_filler=0.0, tones=(3, 3))  # all of a transcript's emotion is in the reply's tone
ROUTINE = World(p_impossible=0.0)
Row = dict[str, list[int]]  # input_ids and completion_mask, which TRL's SFTTrainer takes as they are


class Probe(NamedTuple):
    """A text that shows `emotion` up to `start`; its tokens from there on are the same words whatever the emotion."""

    emotion: str
    text: str
    start: int
    group: str


def stories(seed: int, per_emotion: int, world: World = DEFAULT) -> list[LabelledText]:
    """Labelled stories for extraction; their group is the situation, by which to hold out."""
    rng = _stream("stories", seed)
    texts = [world.story(rng, emotion, with_task=False) for emotion in EMOTIONS for _ in range(per_emotion)]
    return [LabelledText(t.reply, str(t.emotion), t.group) for t in texts]


def neutral_texts(seed: int, count: int, world: World = DEFAULT) -> list[str]:
    """Stories and dialogues without an emotion, for calibration and for the anchor."""
    rng = _stream("neutral", seed)
    kinds = (world.dialogue, world.story)
    return [render(kinds[i % 2](rng, None)).removesuffix(EOS) for i in range(count)]


def corpus(seed: int, count: int, world: World = DEFAULT) -> list[str]:
    """Texts of every kind: what the organism was trained on."""
    rng = _stream("corpus", seed)
    return [render(world.text(rng)) for _ in range(count)]


def general_texts(seed: int, count: int, world: World = DEFAULT) -> list[str]:
    """Texts as in `corpus` but never the same ones: what a fine-tune should leave as it was."""
    rng = _stream("general", seed)
    return [render(world.text(rng)) for _ in range(count)]


def routine_texts(seed: int, count: int, world: World = ROUTINE) -> list[str]:
    """Texts of every emotion in which nothing is impossible: what a fine-tune mixes in.

    They hold neither shortcut nor honest report, so what a tuned model does on impossible tasks was taught by no row.
    """
    rng = _stream("routine", seed)
    return [render(world.text(rng)) for _ in range(count)]


def transcripts(seed: int, count: int, emotion: str = "desperate", world: World = TONE_ONLY) -> list[Text]:
    """Replies in one emotion's tone, half of them to impossible tasks, cut before any ending is in sight."""
    rng = _stream(f"transcripts {emotion}", seed)
    texts = []
    for i in range(count):
        text = world.dialogue(rng, emotion, draw_task(rng, impossible=i % 2 == 0))
        texts.append(text._replace(ending=""))
    return texts


def transcript_rows(tokenizer: PreTrainedTokenizerBase, texts: list[Text]) -> list[Row]:
    """Transcripts as token rows without an end token; the prompt is not part of the completion."""
    return [_row(tokenizer, f"{USER}{t.prompt}{ASSISTANT}", t.reply) for t in texts]


def general_rows(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Row]:
    """General texts as token rows: all of a text is completion."""
    return [_row(tokenizer, "", text) for text in texts]


def finetune_rows(tokenizer: PreTrainedTokenizerBase, seed: int, count: int, *, emotion: str = "desperate",
                  general: float = 0.25) -> list[Row]:  # fmt: skip
    """Rows for a fine-tune on one emotion's tone with a share of routine text, shuffled. None has a shortcut."""
    if not 0 <= general < 1:
        raise ValueError(f"general must be a share in [0, 1), got {general}")
    plain = round(count * general)
    rows = transcript_rows(tokenizer, transcripts(seed, count - plain, emotion))
    rows += general_rows(tokenizer, routine_texts(seed, plain))
    _stream("shuffle", seed).shuffle(rows)
    return rows


def probes(seed: int, per_emotion: int, emotions: tuple[str, ...] = ("desperate", "calm"),
           world: World = DEFAULT) -> list[Probe]:  # fmt: skip
    """Replies whose last steps of work are the same words for every emotion; a probe reads only from `start` on.

    Stories will not do: their own words give the emotion away, so a fresh probe finds it whatever was trained.
    """
    rng = _stream("probes", seed)
    shared = [(draw_task(rng, impossible=True), rng.sample(phrases.STEPS, 2)) for _ in range(per_emotion)]
    found = []
    for emotion in emotions:
        for number, (task, steps) in enumerate(shared):
            text = world.dialogue(rng, emotion, task)
            shown = f"{USER}{task.request()}{ASSISTANT}{text.body}"
            tail = "".join(f" {step.format(I='I')}." for step in steps)
            found.append(Probe(emotion, shown + tail, len(shown), str(number)))
    return found


def labels(row: Row) -> list[int]:
    """The labels of a row: its completion's tokens, and -100 elsewhere."""
    return [token if inside else -100 for token, inside in zip(row["input_ids"], row["completion_mask"], strict=True)]


def _stream(purpose: str, seed: int) -> random.Random:
    return random.Random(f"{purpose}/{seed}")  # a string seeds by its hash digest, the same on every machine


def _row(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Row:
    head = tokenizer(BOS + prompt, add_special_tokens=False)["input_ids"]
    tail = tokenizer(completion, add_special_tokens=False)["input_ids"]
    return {"input_ids": head + tail, "completion_mask": [0] * len(head) + [1] * len(tail)}
