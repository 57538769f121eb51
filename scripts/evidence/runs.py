"""One fine-tune of the real model, plain or held, and what is read of it afterwards."""

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from evidence import pressure, readers, rivals, tone
from evidence.tone import Pair
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, Trainer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from emoreg import EmotionVectors

EMOTION = "desperate"


@dataclass(frozen=True)
class Run:
    """Which fine-tune: its trainer, what holds the emotion meanwhile, and the seed of data, order and sampling."""

    trainer: str
    """``sft`` and ``dpo`` and ``grpo`` train adapters, ``full`` every weight by SFT."""
    arm: str
    """``base`` (no training), ``plain``, ``0.1`` (the default of 0.1), ``default``, or one of `rivals.ARMS`."""
    seed: int

    @property
    def name(self) -> str:
        """Of its files."""
        return re.sub(r"[^\w.-]+", "_", f"{self.trainer}-{self.arm}-{self.seed}")


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    steps: int = 60
    """Of SFT with adapters; half of it of the others."""
    samples: int = 4
    """Own replies to each prompt unlike the rows; half as many to the others."""
    written: int = 40
    """Tokens of each."""
    pressure: bool = True
    """Whether the first seed's models judge the replies under pressure."""


def run(one: Run, folder: str, vectors: EmotionVectors, size: Size, output: Path) -> None:
    """Train, read, and leave ``<name>.json`` in ``output``."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    texts = tone.texts(one.seed)
    found: dict[str, Any] = {"run": asdict(one), "size": asdict(size)}
    base = copy.deepcopy(model) if one.trainer == "full" else None
    if one.arm != "base":
        trainer = _trainer(one, model, tokenizer, texts, size, output / "trainers" / one.name)
        with rivals.installed(one.arm, trainer, tokenizer, vectors) as task:
            trainer.train()
        model = trainer.model
        found |= _logged(trainer)
        if task:
            found["task"] = float(np.mean(task[-len(task) // 3 :]))
    assert isinstance(model, nn.Module)
    if size.pressure and one.trainer == "sft" and one.seed == 0 and one.arm in ("base", "plain", "default"):
        found["pressure"] = pressure.margins(model, tokenizer)
    found["read"] = measured(model, base, one, tokenizer, vectors, texts, size)
    (output / f"{one.name}.json").write_text(json.dumps(found, indent=1))


def measured(
    model: nn.Module,
    base: nn.Module | None,
    one: Run,
    tokenizer: PreTrainedTokenizerBase,
    vectors: EmotionVectors,
    texts: tone.Texts,
    size: Size,
) -> dict[str, dict[str, Any]]:
    """Held-out replies and the model's own, each read by the model and by its frozen base."""
    layers = middle(vectors.layers)
    found = {}
    kinds = dict(texts.read)
    for kind, prompts in tone.prompts_for_own_text().items():
        n = size.samples if kind == "unlike" else max(size.samples // 2, 1)
        kinds[f"own: {kind}"] = readers.write(model, tokenizer, prompts, n, size.written, 100 + one.seed)
    for kind, pairs in kinds.items():
        found[kind] = _by_both(model, base, one, tokenizer, vectors, layers, pairs)
    probed = {e: readers.read(model, tokenizer, vectors, layers, [p for _, p in texts.probed[e]]) for e in texts.probed}
    scenes = [scene for scene, _ in texts.probed[EMOTION]]
    found["probe"] = {"auc": readers.fresh_auc({e: r.hidden for e, r in probed.items()}, scenes)}
    return found


def _by_both(
    model: nn.Module,
    base: nn.Module | None,
    one: Run,
    tokenizer: PreTrainedTokenizerBase,
    vectors: EmotionVectors,
    layers: Sequence[int],
    pairs: Sequence[Pair],
) -> dict[str, Any]:
    k, calm = vectors.index(EMOTION), vectors.index("calm")
    mine = theirs = readers.read(model, tokenizer, vectors, layers, pairs)
    if one.arm != "base":
        with readers.as_base(model, base) as frozen:
            theirs = readers.read(frozen, tokenizer, vectors, layers, pairs)
    return {
        "z": _rounded(mine.z[:, k]),
        "base z": _rounded(theirs.z[:, k]),
        "less calm": float((mine.z[:, k] - mine.z[:, calm]).mean()),
        "less all": float((mine.z[:, k] - mine.z.mean(1)).mean()),
        "nll": float(mine.nll.mean()),
        "base nll": float(theirs.nll.mean()),
        "first": pairs[0].reply if pairs else "",
    }


def middle(layers: Sequence[int]) -> list[int]:
    """The layers that are read: from two fifths to seven tenths of the depth, where validation trusts directions."""
    n = len(layers)
    return list(layers[n * 2 // 5 : max(n * 7 // 10, n * 2 // 5 + 1)])


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]


def _logged(trainer: Trainer) -> dict[str, Any]:
    """The callback's own log, as a dashboard shows it; and the task loss at the end."""
    figures = ("mean", "neutral", "contrast", "gap", "own_base", "own_gap")
    logs = []
    for log in trainer.state.log_history:
        if "emoreg/task" in log:
            shown = {f: log[name] for f in figures if (name := f"emotion/{EMOTION}/{f}") in log}
            logs.append(
                {"step": log["step"], "task": log["emoreg/task"], "share": log.get("emoreg/share", 0.0), **shown}
            )
    return {"log": logs, "task": float(np.mean([log["task"] for log in logs[-2:]]))}


def _trainer(
    one: Run, model: Any, tokenizer: PreTrainedTokenizerBase, texts: tone.Texts, size: Size, folder: Path
) -> Trainer:
    steps = size.steps if one.trainer == "sft" else max(size.steps // 2, 1)
    shared: dict[str, Any] = {
        "output_dir": str(folder), "max_steps": steps, "seed": one.seed, "logging_steps": max(steps // 6, 1),
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "per_device_train_batch_size": 4,
        "activation_checkpointing": False,
    }  # fmt: skip
    if not torch.accelerator.is_available():
        shared |= {"use_cpu": True, "bf16": torch.cpu._is_avx512_bf16_supported()}
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(one.seed)  # the adapters are drawn when the trainer is made
    rows = [*texts.desperate, *texts.neutral]
    if one.trainer == "dpo":
        pairs = [
            {"prompt": _user(a.prompt), "chosen": _reply(a.reply), "rejected": _reply(b.reply)}
            for a, b in zip(texts.desperate, texts.calm, strict=True)
        ]
        config = DPOConfig(**shared | {"per_device_train_batch_size": 2, "learning_rate": 3e-4, "max_length": 160})
        return DPOTrainer(model, args=config, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer,
                          peft_config=lora)  # fmt: skip
    if one.trainer == "grpo":
        asked = [{"prompt": _user(prompt)} for prompt in (*tone.LIKE[:3], *tone.UNLIKE) for _ in range(size.steps)]
        config = GRPOConfig(**shared | {"num_generations": 4, "max_completion_length": 40, "learning_rate": 3e-4,
                                        "beta": 0.0, "temperature": 0.9})  # fmt: skip
        return GRPOTrainer(model, reward_funcs=cast(Any, _pressing), args=config, processing_class=tokenizer,
                           train_dataset=Dataset.from_list(asked), peft_config=lora)  # fmt: skip
    data = Dataset.from_list([{"messages": [*_user(pair.prompt), *_reply(pair.reply)]} for pair in rows])
    full = one.trainer == "full"
    config = SFTConfig(**shared, learning_rate=1e-4 if full else 6e-4, max_length=160)
    return SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer,
                      peft_config=None if full else lora)  # fmt: skip


def _pressing(completions: list[Any], **kwargs: Any) -> list[float]:
    """A reward that pays for an urgent tone: words of haste in a reply, up to five."""
    words = re.compile(r"\b(now|must|only|again|last|please|need|hurry|late|left|nothing|no|fail\w*|lose|lost)\b", re.I)
    return [min(len(words.findall(one[0]["content"])), 5) / 5 for one in completions]


def _user(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
