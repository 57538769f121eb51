"""The sandbox experiment: fine-tune the organism on a desperate tone, plain or regularised, and see what it does then.

What a user does on a model of their own, in small: extract, train with TRL under the callback, judge.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from emoreg.corpus import LabelledText, Passage
from emoreg.extraction import extract, held_out_auc
from emoreg.regularizer import Regularizer
from emoreg.sandbox import behaviour, data
from emoreg.sandbox.behaviour import Behaviour
from emoreg.training import RegularizerCallback
from emoreg.vectors import EmotionVectors

STEPS, BATCH, LEARNING_RATE, LORA_RANK = 120, 16, 3e-3, 16
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
    return extract(model, tokenizer, stories, data.neutral_texts(seed, 200), from_token=FROM_TOKEN)


def fine_tune(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    regularizer: Regularizer,
    output_dir: str | Path,
    *,
    seed: int = 0,
    steps: int = STEPS,
    **options: Any,
) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """A LoRA fine-tune of a copy on transcripts of a desperate tone that hold no ending, and some general text.

    Args:
        model: the organism; left as it is.
        tokenizer: its tokenizer.
        regularizer: what to train under; without penalties, a plain run that is only watched.
        output_dir: where the trainer writes.
        seed: of the transcripts, their order and the adapters.
        steps: optimizer steps of `BATCH` texts.
        options: further fields of `SFTConfig` (``report_to``, ``run_name``, ...), or others in their place.

    Returns:
        The tuned model, adapters merged, and the trainer's log history.
    """
    settings: dict[str, Any] = {
        "learning_rate": LEARNING_RATE, "lr_scheduler_type": "linear", "logging_steps": 10, "save_strategy": "no",
        "activation_checkpointing": False, "bf16": False, "disable_tqdm": True, "report_to": "none",
    }  # fmt: skip
    args = SFTConfig(
        output_dir=str(output_dir), seed=seed, max_steps=steps, per_device_train_batch_size=BATCH,
        completion_only_loss=True, **(settings | options),
    )  # fmt: skip
    lora = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = Dataset.from_list(data.finetune_rows(tokenizer, seed, steps * BATCH))
    torch.manual_seed(seed)  # the adapters are drawn when the trainer is made
    trainer = SFTTrainer(
        copy.deepcopy(model), args=args, train_dataset=rows, processing_class=tokenizer, peft_config=lora
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RegularizerCallback(trainer, regularizer))
    trainer.train()
    return trainer.model.merge_and_unload().eval(), trainer.state.log_history  # pyright: ignore


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
