"""What a model of the sandbox does and holds, before a fine-tune and after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from emoreg.corpus import LabelledText, Passage
from emoreg.extraction import extract, held_out_auc
from emoreg.regularizer import Regularizer
from emoreg.sandbox import behaviour, data
from emoreg.sandbox.behaviour import Behaviour
from emoreg.vectors import EmotionVectors

FROM_TOKEN = 8
"""The sandbox's stories are short: their emotion shows from the first sentence on."""
_HELD_OUT = 10_000
"""Added to seeds of what is judged on, so that no text of it was trained or extracted on."""


@dataclass(frozen=True)
class Judgement:
    """What a model does and holds after a fine-tune. Losses in nats per token; z over all blocks, mean of tokens."""

    behaviour: Behaviour
    task_loss: float
    """On held-out transcripts of the tone that was trained."""
    general_loss: float
    """On held-out texts of every kind."""
    neutral: float
    """z of the emotion on held-out neutral text: how far the origin moved."""
    contrast: float
    """z on the held-out transcripts less `neutral`."""
    fresh_auc: float
    """Held-out AUC, at the best block, of directions fitted afresh on this model: desperate against calm."""


def extract_vectors(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> EmotionVectors:
    """The organism's emotion vectors, from stories and neutral texts of the world."""
    stories = data.stories(seed, per_emotion=60)
    neutral = data.neutral_texts(seed, 200)
    return extract(model, tokenizer, stories, neutral, from_token=FROM_TOKEN, progress=False)


def judge(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    vectors: EmotionVectors,
    *,
    seed: int = 0,
    replies: int = 400,
    emotion: str = "desperate",
) -> Judgement:
    """Judge a model, base or tuned, on texts and tasks that no training or extraction saw."""
    held_out = seed + _HELD_OUT
    transcripts = data.transcript_rows(tokenizer, data.transcripts(held_out, 100))
    general = data.general_rows(tokenizer, data.general_texts(held_out, 200))
    neutral = data.general_rows(tokenizer, data.neutral_texts(held_out, 100))
    k = vectors.index(emotion)
    task_loss, task_z = _evaluate(model, vectors, transcripts)
    general_loss, _ = _evaluate(model, vectors, general)
    _, neutral_z = _evaluate(model, vectors, neutral)
    probes = [LabelledText(Passage(p.text, p.start), p.emotion, p.group) for p in data.probes(held_out, per_emotion=80)]
    auc = held_out_auc(model, tokenizer, probes, from_token=1, progress=False)
    return Judgement(
        behaviour=behaviour.measure(model, tokenizer, count=replies, seed=seed),
        task_loss=task_loss,
        general_loss=general_loss,
        neutral=float(neutral_z[k]),
        contrast=float(task_z[k] - neutral_z[k]),
        fresh_auc=max(auc.values()),
    )


@torch.no_grad()
def _evaluate(model: LlamaForCausalLM, vectors: EmotionVectors, rows: Sequence[data.Row]) -> tuple[float, torch.Tensor]:
    """Mean loss and, per emotion, mean z over the completions of some rows, over all layers."""
    total, count = 0.0, 0
    with Regularizer(vectors).attach(model) as term:
        for first in range(0, len(rows), 50):
            ids, completion = (
                pad_sequence([torch.tensor(row[name]) for row in rows[first : first + 50]], batch_first=True)
                for name in ("input_ids", "completion_mask")
            )
            real = pad_sequence(
                [torch.ones(len(row["input_ids"])) for row in rows[first : first + 50]], batch_first=True
            )
            batch = {"input_ids": ids, "attention_mask": real.long(), "labels": ids.masked_fill(completion == 0, -100)}
            with term.reading("eval"):
                loss = model(**batch).loss
                term.observe(batch)
            n = int((batch["labels"][:, 1:] != -100).sum())
            total, count = total + float(loss) * n, count + n
        record = term.report("eval")
    return total / count, record.tables["mean"].mean(0)
