"""What several tests need: vectors of a tiny model, batches of uneven length, and a real SFT trainer on them."""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from emoreg import EmotionVectors
from emoreg.model import depth, width
from emoreg.vectors import Provenance, config_hash, sample_weights

QUIET: dict[str, Any] = {
    "activation_checkpointing": False, "bf16": False, "use_cpu": True, "report_to": [], "disable_tqdm": True,
    "save_strategy": "no", "seed": 0,
}  # fmt: skip
"""What every trainer of a test is told: fp32 on the CPU, seeded; it saves and reports nothing."""

EMOTIONS = ("desperate", "calm", "sad")


def random_vectors(
    model: nn.Module, emotions: Sequence[str] = EMOTIONS, layers: Sequence[int] | None = None, seed: int = 0
) -> EmotionVectors:
    """Vectors of random directions that belong to ``model``, with a calibration that makes z of order 1."""
    make = torch.Generator().manual_seed(seed)
    layers = tuple(range(depth(model))) if layers is None else tuple(layers)
    L, K = len(layers), len(emotions)
    return EmotionVectors(
        emotions=tuple(emotions),
        layers=layers,
        directions=nn.functional.normalize(torch.randn(L, K, width(model), generator=make), dim=-1),
        mean=torch.randn(L, K, generator=make) * 0.01,
        std=torch.full((L, K), 0.05),
        separation=torch.ones(L, K),
        residual_norm=torch.ones(L),
        reference_ids=torch.randint(4, 60, (4, 9), generator=make),
        reference_mask=torch.arange(9) < torch.tensor([[9], [7], [5], [8]]),
        reference_z=torch.randn(4, 9, L, K, generator=make),
        provenance=Provenance("tiny", None, config_hash(model), "", "", "random", "none"),
        weights=sample_weights(model),
    )


def uneven_rows(n: int = 24, seed: int = 0, bos: int = 1) -> Dataset:
    """Pre-tokenised prompts and completions of uneven length, each opened by BOS."""
    make = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        prompt, completion = (int(torch.randint(2, 9, (), generator=make)) for _ in range(2))
        ids = torch.randint(4, 60, (prompt + completion,), generator=make).tolist()
        rows.append({"input_ids": [bos, *ids], "completion_mask": [0] * (1 + prompt) + [1] * completion})
    return Dataset.from_list(rows)


def padded(rows: Dataset, side: str = "right", pad: int = 0) -> dict[str, Tensor]:
    """Rows as one padded batch, as `Trainer.compute_loss` gets it."""
    longest = max(len(ids) for ids in rows["input_ids"])

    def pad_to(values: list[int], fill: int) -> list[int]:
        gap = [fill] * (longest - len(values))
        return values + gap if side == "right" else gap + values

    labels = [
        [i if m else -100 for i, m in zip(ids, mask, strict=True)]
        for ids, mask in zip(rows["input_ids"], rows["completion_mask"], strict=True)
    ]
    return {
        "input_ids": torch.tensor([pad_to(ids, pad) for ids in rows["input_ids"]]),
        "labels": torch.tensor([pad_to(row, -100) for row in labels]),
        "attention_mask": torch.tensor([pad_to([1] * len(ids), 0) for ids in rows["input_ids"]]),
    }


def sft_trainer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: object,
    rows: Dataset | None = None,
    trainer_class: type[SFTTrainer] = SFTTrainer,
    **options,
) -> SFTTrainer:
    """A real `SFTTrainer` on the CPU in fp32: two batches of two to a step; logs at every step, saves nothing."""
    trainer = {name: options.pop(name) for name in ("peft_config", "eval_dataset") if name in options}
    settings = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 3,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "completion_only_loss": True,
        **QUIET,
    }
    args = SFTConfig(output_dir=str(output_dir), **(settings | options))
    rows = uneven_rows() if rows is None else rows
    return trainer_class(model=model, args=args, train_dataset=rows, processing_class=tokenizer, **trainer)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


class KeepGradients(TrainerCallback):
    """The parameters' gradients as the optimizer would get them."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = gradients(model)
