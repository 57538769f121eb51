"""Every trainer that the callback works in, as small as it will run, and what its batches mean, told plainly.

A `Case` makes a real trainer of TRL's or transformers' on the tiny model. Its `sequences` says in loops, from a batch
as `compute_loss` gets it and without any of emoreg's code, which texts went through the model and which of their
positions the default scope selects.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerFast,
    Trainer,
)

from tests import tiny
from tests.support import QUIET, uneven_rows

PROMPTS = ["ab cd", "the list", "x", "some longer words", "no one", "w", "ten or so", "why not"]
GOOD = [" it is so", " ok", " a reply that goes on", " yes", " four", " five words in all", " y", " done"]
BAD = [" no", " that will not do at all", " hm", " n", " whatever it is", " e", " not now please", " bad"]


class Text(NamedTuple):
    """One sequence without padding."""

    ids: list[int]
    counted: list[int]
    """Positions that the default scope selects."""


Sequences = Callable[[Mapping[str, Tensor]], tuple[list[Text], int]]
"""A batch as `compute_loss` gets it -> its texts in scope, and over how many sequences a mean of sequences goes."""


@dataclass(frozen=True)
class Case:
    """A trainer, and its batches told plainly."""

    name: str
    module: str
    data: Callable[[], Dataset]
    sequences: Sequences
    of: str = "sequences"
    """``tokens`` where the trainer divides by the tokens of its whole window, ``count`` where by another number of its
    own, ``sequences`` where it takes means."""
    options: dict[str, Any] = field(default_factory=dict)
    """For its config."""
    extra: Callable[[], dict[str, Any]] = dict
    """For the trainer itself."""
    model: Callable[[], nn.Module] = tiny.llama
    per_device: int = 2

    def trainer(self, model: nn.Module, output_dir: object, data: Dataset | None = None, **options: Any) -> Trainer:
        """The trainer: one step of two micro-batches, on the CPU in fp32; weights stay as they are."""
        of_trainer = self.extra()
        model.save_pretrained(f"{output_dir}/model")
        model.config._name_or_path = f"{output_dir}/model"  # where trainers look for their reference model
        if self.name in ("Trainer", "A2PO") and "peft_config" in options:
            model = get_peft_model(model, options.pop("peft_config"))  # they leave it to the user
        of_trainer |= {
            name: options.pop(name) for name in ("peft_config", "eval_dataset", "data_collator") if name in options
        }
        settings = {
            "per_device_train_batch_size": self.per_device,
            "gradient_accumulation_steps": 2,
            "max_steps": 1,
            "learning_rate": 0.0,
            "max_grad_norm": 0.0,
            "logging_steps": 1,
            **QUIET,
        }
        where = import_module(self.module)
        args = getattr(where, "TrainingArguments" if self.name == "Trainer" else f"{self.name}Config")(
            output_dir=str(output_dir), **(settings | self.options | options)
        )
        return getattr(where, self.name if self.name == "Trainer" else f"{self.name}Trainer")(
            model=model,
            args=args,
            train_dataset=self.data() if data is None else data,
            **({"processing_class": tiny.tokenizer()} | of_trainer),
        )


def real(ids: Tensor, mask: Tensor) -> list[int]:
    return [i for i, m in zip(ids.tolist(), mask.tolist(), strict=True) if m]


def masked_rows(ids: Tensor, attention: Tensor, counted: Tensor) -> list[Text]:
    """Padded rows as texts; a text's first position never counts."""
    found = []
    for row, mask, count in zip(ids, attention, counted, strict=True):
        kept = [c for c, m in zip(count.tolist(), mask.tolist(), strict=True) if m]
        found.append(Text(real(row, mask), [at for at, c in enumerate(kept) if c and at > 0]))
    return found


def labelled(inputs: Mapping[str, Tensor]) -> tuple[list[Text], int]:
    ids, counted = inputs["input_ids"], inputs["labels"] != -100
    if "attention_mask" in inputs:
        texts = masked_rows(ids, inputs["attention_mask"], counted)
    else:  # packed: a text begins wherever positions begin again
        texts = []
        for i, count, position in zip(
            ids[0].tolist(), counted[0].tolist(), inputs["position_ids"][0].tolist(), strict=True
        ):
            if position == 0:
                texts.append(Text([], []))
            texts[-1].ids.append(i)
            if count and position > 0:
                texts[-1].counted.append(position)
    return texts, len(texts)


def first_of(branches: int) -> Sequences:
    def sequences(inputs: Mapping[str, Tensor]) -> tuple[list[Text], int]:
        n = len(inputs["input_ids"]) // branches
        chosen = [inputs[name][:n] for name in ("input_ids", "attention_mask", "completion_mask")]
        return masked_rows(*chosen), n

    return sequences


def desirable(inputs: Mapping[str, Tensor]) -> tuple[list[Text], int]:
    texts = masked_rows(inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"])
    judged = [bool(label) for label in inputs["label"]]
    return [text for text, good in zip(texts, judged, strict=True) if good], len(texts)


def whole(inputs: Mapping[str, Tensor]) -> tuple[list[Text], int]:
    texts = masked_rows(inputs["input_ids"], inputs["attention_mask"], inputs["attention_mask"])
    return texts, len(texts)


def chosen_apart(inputs: Mapping[str, Tensor]) -> tuple[list[Text], int]:
    counted = inputs["chosen_labels"] != -100
    texts = masked_rows(inputs["chosen_input_ids"], inputs["chosen_attention_mask"], counted)
    return texts, len(texts)


def generated(inputs: Mapping[str, Tensor]) -> tuple[list[Text], int]:
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    counted = torch.cat([torch.zeros_like(inputs["prompt_mask"]), inputs["completion_mask"]], 1)
    texts = masked_rows(ids, attention, counted)
    return texts, len(texts)


def kept(inputs: Mapping[str, Any]) -> tuple[list[Text], int]:
    counted = inputs["attention_mask"].clone()
    counted[:, : -inputs["logits_to_keep"]] = 0
    texts = masked_rows(inputs["input_ids"], inputs["attention_mask"], counted)
    return texts, len(texts)


def pairs(**more: list) -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS, "chosen": GOOD, "rejected": BAD, **more})


def judgements() -> Dataset:
    label = [True, False, True, True, False, True, False, True]
    completion = [g if good else b for g, b, good in zip(GOOD, BAD, label, strict=True)]
    return Dataset.from_dict({"prompt": PROMPTS, "completion": completion, "label": label})


def chats(**more: list) -> Dataset:
    talk = [
        [{"role": "user", "content": p}, {"role": "assistant", "content": g}]
        for p, g in zip(PROMPTS, GOOD, strict=True)
    ]
    return Dataset.from_dict({"messages": talk, **more})


def prompts() -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS})


def hints() -> Dataset:
    return Dataset.from_dict({"prompt": PROMPTS, "privileged_context": GOOD})


def classifier() -> nn.Module:
    config = tiny.llama().config
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_config(config)


def left_padding() -> PreTrainedTokenizerFast:
    tokenizer = tiny.tokenizer()
    tokenizer.padding_side = "left"
    return tokenizer


def teacher() -> nn.Module:
    """A teacher on disk, with its tokenizer, for trainers that look there."""
    model, where = tiny.llama(seed=1), tempfile.mkdtemp()
    tiny.tokenizer().save_pretrained(where)
    model.config._name_or_path = where
    return model


def by_length(completions: list[str], **kwargs: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def labelled_rows() -> Dataset:
    rows = uneven_rows(8)
    labels = [
        [i if m else -100 for i, m in zip(ids, mask, strict=True)]
        for ids, mask in zip(rows["input_ids"], rows["completion_mask"], strict=True)
    ]
    return Dataset.from_dict({"input_ids": rows["input_ids"], "labels": labels})


# Replies end by chance, or all would be of one length: EOS (2) is made likelier.
_GENERATION: dict[str, Any] = {"max_completion_length": 8, "generation_kwargs": {"sequence_bias": [[[2], 4.0]]}}
_RL = {**_GENERATION, "num_generations": 2}

CASES = {
    case.name: case
    for case in [
        Case("SFT", "trl", lambda: uneven_rows(8), labelled, of="tokens", options={"completion_only_loss": True}),
        Case("DPO", "trl", pairs, first_of(2)),
        Case("KTO", "trl", judgements, desirable),
        Case("Reward", "trl", pairs, whole, model=classifier),
        Case("GRPO", "trl", prompts, generated, of="tokens", options=_RL, extra=lambda: {"reward_funcs": by_length}),
        Case("RLOO", "trl", prompts, generated, options=_RL, extra=lambda: {"reward_funcs": by_length}),
        Case("Distillation", "trl", prompts, generated, of="tokens", options=_GENERATION,
             extra=lambda: {"teacher_model": tiny.llama(seed=1)}),
        Case("GKD", "trl.experimental.gkd", chats, labelled, of="tokens", options={"lmbda": 0.0},
             extra=lambda: {"teacher_model": tiny.llama(seed=1)}),
        Case("CPO", "trl.experimental.cpo", pairs, chosen_apart),
        Case("ORPO", "trl.experimental.orpo", pairs, chosen_apart),
        Case("TPO", "trl.experimental.tpo", lambda: pairs(reference=GOOD[::-1]), first_of(3)),
        Case("SDFT", "trl.experimental.sdft", hints,
             generated, options={**_GENERATION, "num_generations": 1}),
        Case("SDPO", "trl.experimental.sdpo", hints,
             generated, options={**_RL, "success_reward_threshold": 2.0}, extra=lambda: {"reward_funcs": by_length}),
        Case("GMPO", "trl.experimental.gmpo", prompts, generated, of="tokens", options=_RL,
             extra=lambda: {"reward_funcs": by_length}),
        Case("A2PO", "trl.experimental.a2po", prompts, kept, options={"max_completion_length": 8},
             # It pads prompts on its tokenizer's side, and means the left one.
             extra=lambda: {"reward_funcs": by_length, "processing_class": left_padding()}),
        Case("GOLD", "trl.experimental.gold", chats, labelled, of="count",
             options={"lmbda": 0.0, "use_uld_loss": False},
             extra=lambda: {"teacher_model": tiny.llama(seed=1)}),
        Case("IWOPD", "trl.experimental.iw_opd", chats, labelled, of="count",
             options={"lmbda": 1.0, "max_completion_length": 8},
             extra=lambda: {"teacher_model": teacher()}),
        Case("Trainer", "transformers", labelled_rows, labelled, of="tokens",
             extra=lambda: {"data_collator": DataCollatorForSeq2Seq(tiny.tokenizer())}),
    ]
}  # fmt: skip
