"""The layouts of trainers' batches, under the names that scopes read.

Shapes: B rows of a batch, T positions.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from emoreg.reading import IGNORE
from emoreg.training.trainers import is_kind


def batch_of(trainer: Trainer, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """A batch as `compute_loss` gets it, under the names that scopes read (`standard`)."""
    batch = standard(inputs)
    branches = 0
    if is_kind(trainer, "DPOTrainer", "CPOTrainer", "ORPOTrainer"):
        branches = 2  # chosen, rejected
    elif is_kind(trainer, "TPOTrainer"):
        branches = 3 if getattr(trainer, "tpo_alpha", 0.0) else 2  # chosen, rejected, and the reference answer
    if branches and "labels" in batch:
        return branched(batch, branches)
    if is_kind(trainer, "RewardTrainer") and "input_ids" in batch:
        # A reward is of the whole text, and its batch does not say where the answer begins.
        batch.setdefault("labels", batch["input_ids"])
    return batch


def standard(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """A batch of transformers' or TRL's trainers under the names that `emoreg.reading.scope` reads.

    * ``labels`` (B, T): of SFT, or of a ``completion_mask``; of ``prompt_ids`` and ``completion_ids`` side by side
      (GRPO, RLOO, distillation), less the tokens that ``tool_mask`` takes out; of ``chosen_labels`` above
      ``rejected_labels`` (CPO, ORPO); of the last ``logits_to_keep`` tokens (A2PO).
    * ``desirable`` (B,): in KTO.

    Everything else that is a tensor stays as it is, for scopes that are functions.
    """
    batch = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    if {"prompt_ids", "completion_ids", "completion_mask"} <= batch.keys():
        inside = batch["completion_mask"].bool() & batch.get("tool_mask", batch["completion_mask"]).bool()
        completion = batch["completion_ids"].masked_fill(~inside, IGNORE)
        batch["labels"] = torch.cat([torch.full_like(batch["prompt_ids"], IGNORE), completion], 1)
    elif "chosen_labels" in batch:
        halves = [batch["chosen_labels"], batch["rejected_labels"]]
        width = max(half.shape[1] for half in halves)
        pad = [torch.nn.functional.pad(half, (0, width - half.shape[1]), value=IGNORE) for half in halves]
        batch["labels"] = torch.cat(pad)
    elif "labels" not in batch and "completion_mask" in batch and "input_ids" in batch:
        batch["labels"] = batch["input_ids"].masked_fill(~batch["completion_mask"].bool(), IGNORE)
    elif "labels" not in batch and {"input_ids", "attention_mask"} <= batch.keys() and "logits_to_keep" in inputs:
        completion = batch["attention_mask"].bool().clone()
        completion[:, : -inputs["logits_to_keep"]] = False
        batch["labels"] = batch["input_ids"].masked_fill(~completion, IGNORE)
    if "label" in batch and "completion_mask" in batch:
        batch["desirable"] = batch["label"].bool()
    return batch


def branched(batch: Mapping[str, Tensor], branches: int) -> dict[str, Tensor]:
    """A batch that is all chosen rows, then all rejected ones, and so on, with ``branch`` (B,) to number them."""
    labels = batch["labels"]
    at = torch.arange(len(labels), device=labels.device)
    return {**batch, "branch": at // (len(labels) // branches)}
