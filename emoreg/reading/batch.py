"""Batches: what trainers call the things that scopes look at, and which rows each forward pass took.

The model's own arguments say what a pass read; they are right whatever a trainer does to its batch on the way. What
they leave out (which tokens are a completion's, which rows are chosen) comes from the batch as `compute_loss` gets it.

Shapes: B rows of a batch, T positions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from emoreg.reading.scope import like

IGNORE = -100
"""The label of a token that no loss is taken on."""


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


def per_pass(passes: Sequence[Mapping[str, Tensor]], batch: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Each pass's inputs with its rows of a batch.

    A batch may go through the model whole, in chunks of rows that follow each other, or several times over. A label
    counts if the pass and the batch both have it.

    Args:
        passes: the model's arguments in each pass.
        batch: as `standard` gives it.

    Raises:
        ValueError: if the batch's labels cannot be laid onto the passes and a pass brought none of its own.
    """
    n_rows = [len(like(one)) for one in passes]
    found, start = [], 0
    for given, n in zip(passes, n_rows, strict=True):
        own: dict[str, Tensor] = {}
        for name, value in batch.items():
            if name not in given or name == "labels":
                if value.ndim and len(value) == sum(n_rows):
                    own[name] = value[start : start + n]
                elif value.ndim and len(value) == n:
                    own[name] = value
        start += n
        found.append({**own, **given, **_labels(given, own, batch)})
    return found


def _labels(given: Mapping[str, Tensor], own: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    theirs, ours = given.get("labels"), own.get("labels")
    shape = like(given).shape
    if ours is not None and ours.shape == shape:
        return {"labels": ours if theirs is None else theirs.masked_fill(ours == IGNORE, IGNORE)}
    if theirs is None and "labels" in batch and batch["labels"].ndim == 2:
        raise ValueError(
            f"the batch has labels of shape {tuple(batch['labels'].shape)} and a forward pass read {tuple(shape)} "
            "positions, so scopes cannot be matched; give the model its labels too, or one pass for each batch"
        )
    return {} if theirs is None else {"labels": theirs}
