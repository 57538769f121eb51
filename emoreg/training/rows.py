"""A few rows of a trainer's data, as its model will get them: what reference text takes its format from."""

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from datasets import IterableDataset
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer

from emoreg.reading import IGNORE
from emoreg.training.batches import batch_of

COUNT = 16
KEPT = ("input_ids", "attention_mask", "position_ids", "labels")


def some_rows(trainer: Trainer) -> list[dict[str, Tensor]]:
    """Rows spread evenly over the train data, or the first of a stream, each as a batch of its own; none without data.

    Of trainers that generate (GRPO, RLOO, ...) it is the prompts alone; of judgements the desirable rows, if there are
    any. Neither the run's own reading of the data nor its random state is touched.

    Raises:
        Exception: whatever a data set, a collator or a tokenizer raises, and ValueError for a row that is not text
            alone, or a stream that can be read only once.
    """
    if trainer.train_dataset is None:
        return []
    with _random_state_kept():
        rows = _raw_rows(trainer.train_dataset)
        collate = copy.deepcopy(trainer._get_collator_with_removed_columns(trainer.data_collator))
        batches: list[Any] = [collate([copy.deepcopy(row)]) for row in rows]
        # Trainers that generate leave their rows as they are.
        if batches and isinstance(batches[0], list):
            return [_prompt(ids) for ids in _prompt_ids(trainer, [row["prompt"] for row in rows])]
        found = [batch_of(trainer, batch) for batch in batches]
    wanted = [batch for batch in found if bool(batch.get("desirable", torch.ones(1))[0])] or found
    return [_as_given(batch) for batch in wanted]


def _raw_rows(data: Any) -> list[Any]:
    if isinstance(data, torch.utils.data.IterableDataset) and not isinstance(data, IterableDataset):
        raise ValueError("it is a stream that may be read only once")
    if isinstance(data, IterableDataset):
        return list(islice(iter(data), COUNT))
    n = min(COUNT, len(data))
    return [data[at * len(data) // n] for at in range(n)]


@contextmanager
def _random_state_kept() -> Iterator[None]:
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def tokenizer_of(trainer: Trainer) -> PreTrainedTokenizerBase | None:
    """The trainer's tokenizer; a vision-language model's processor has one inside."""
    processor: Any = trainer.processing_class
    found = getattr(processor, "tokenizer", processor)
    return found if isinstance(found, PreTrainedTokenizerBase) else None


def _as_given(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A batch with the ids as the model will be given them, where the trainer puts these together only later."""
    if strange := [name for name in batch if name.startswith(("pixel", "image", "video", "audio"))]:
        raise ValueError(f"it is not text alone: it has {', '.join(strange)}")
    if "input_ids" in batch:
        return {name: batch[name] for name in KEPT if name in batch}
    if "chosen_input_ids" in batch:
        names = {"input_ids": "chosen_input_ids", "attention_mask": "chosen_attention_mask", "labels": "chosen_labels"}
        return {ours: batch[theirs] for ours, theirs in names.items()}
    raise ValueError(f"it has no input_ids, only {', '.join(batch)}")


def _prompt_ids(trainer: Any, prompts: list[Any]) -> Sequence[Sequence[int]]:
    if hasattr(trainer, "_tokenize_prompts"):
        found = trainer._tokenize_prompts(prompts)
        return found[0] if isinstance(found, tuple) else found
    tokenizer: Any = tokenizer_of(trainer)
    if isinstance(prompts[0], str):
        return tokenizer(prompts)["input_ids"]
    return [tokenizer.apply_chat_template(one, add_generation_prompt=True, return_dict=False) for one in prompts]


def _prompt(ids: Sequence[int]) -> dict[str, Tensor]:
    row = torch.tensor([list(ids)])
    return {"input_ids": row, "labels": torch.full_like(row, IGNORE)}
