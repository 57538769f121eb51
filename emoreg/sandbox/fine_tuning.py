"""The sandbox's fine-tune on a desperate tone, plain or regularised: what a user does with a model, in small."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import SFTConfig, SFTTrainer

from emoreg.regularizer import Regularizer, default_penalties
from emoreg.sandbox import data
from emoreg.training import RegularizerCallback

LEARNING_RATE, LORA_RANK = 3e-3, 16
PENALTIES = default_penalties(hinge=0.05, anchor=0.3)
"""The default set at the weights that trials in this world ended with (``docs/sandbox.md``): a tiny model at a high
learning rate takes more than a chat model does."""


def fine_tune(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    regularizer: Regularizer,
    output_dir: str | Path,
    *,
    seed: int = 0,
    steps: int = data.STEPS,
    progress: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    """A LoRA fine-tune of a copy on transcripts of a desperate tone that hold no ending, and some general text.

    Args:
        model: the organism; left as it is.
        tokenizer: its tokenizer.
        regularizer: what to train under; without penalties, a plain run that is only watched. The organism knows no
            English, of which reference text in the rows' format is made: let it have ``references="file"``.
        output_dir: where the trainer writes.
        seed: of the transcripts, their order and the adapters.
        steps: optimizer steps of `data.BATCH` texts.
        progress: told after each step how many are done.
        options: further fields of `SFTConfig` (``report_to``, ``run_name``, ...), or others in their place.

    Returns:
        The tuned model, adapters merged, and the trainer's log history.
    """
    settings: dict[str, Any] = {
        "learning_rate": LEARNING_RATE, "lr_scheduler_type": "linear", "logging_steps": 10, "save_strategy": "no",
        "activation_checkpointing": False, "bf16": False, "disable_tqdm": True, "report_to": "none",
        "dataloader_pin_memory": torch.accelerator.is_available(),
    }  # fmt: skip
    args = SFTConfig(
        output_dir=str(output_dir), seed=seed, max_steps=steps, per_device_train_batch_size=data.BATCH,
        dataset_kwargs={"skip_prepare_dataset": True}, **(settings | options),
    )  # fmt: skip
    lora = LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    rows = data.finetune_rows(tokenizer, seed, steps * data.BATCH)
    torch.manual_seed(seed)  # the adapters are drawn when the trainer is made
    trainer = SFTTrainer(
        copy.deepcopy(model),
        args=args,
        train_dataset=Dataset.from_list([{"input_ids": row["input_ids"], "labels": data.labels(row)} for row in rows]),
        processing_class=tokenizer,
        peft_config=lora,
        callbacks=[_Progress(progress)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(RegularizerCallback(trainer, regularizer))
    trainer.train()
    return trainer.model.merge_and_unload().eval(), trainer.state.log_history  # pyright: ignore


class _Progress(TrainerCallback):
    def __init__(self, tell: Callable[[int], None]):
        self._tell = tell

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        self._tell(state.global_step)
