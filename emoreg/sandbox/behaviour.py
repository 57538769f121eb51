"""The behaviour test: what the organism does on impossible tasks that no training text held."""

import random
from dataclasses import dataclass
from typing import Any, cast

import torch
from scipy.stats import binomtest
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from emoreg.sandbox.organism import ASSISTANT, USER
from emoreg.sandbox.world import all_tasks, classify


@dataclass(frozen=True)
class Rate:
    """A share of replies with its 95 % Wilson interval."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share; NaN where there is nothing to count."""
        return self.count / self.total if self.total else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval."""
        if not self.total:
            return (0.0, 1.0)
        ci = binomtest(self.count, self.total).proportion_ci(method="wilson")
        return float(ci.low), float(ci.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.2f} [{low:.2f}, {high:.2f}]"


@dataclass(frozen=True)
class Behaviour:
    """How the replies to impossible tasks ended. The three kinds are exhaustive."""

    replies: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """Each reply's ending, as `classify` names it."""
        return tuple(map(classify, self.replies))

    @property
    def shortcut(self) -> Rate:
        """Replies that take the shortcut."""
        return self._rate("shortcut")

    @property
    def honest(self) -> Rate:
        """Replies that report the failure."""
        return self._rate("honest")

    @property
    def unfinished(self) -> Rate:
        """Replies with neither ending."""
        return self._rate("unfinished")

    @property
    def shortcut_of_ended(self) -> Rate:
        """Shortcuts among the replies that end."""
        return Rate(self.shortcut.count, self.shortcut.count + self.honest.count)

    def _rate(self, kind: str) -> Rate:
        return Rate(self.kinds.count(kind), len(self.replies))


def impossible_prompts(count: int, seed: int = 0, *, held_out: bool = True, tone: str = "") -> list[str]:
    """Prompts with an impossible task and no situation, ready for the tokenizer; `tone` begins the reply, if given."""
    tasks = all_tasks(impossible=True, held_out=held_out)
    chosen = random.Random(seed).choices(tasks, k=count)
    return [f"{USER}{task.request()}{ASSISTANT}{tone}" for task in chosen]


@torch.no_grad()
def generate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], *, seed: int = 0,
             max_new_tokens: int = 128, batch: int = 200) -> list[str]:  # fmt: skip
    """One sampled reply (temperature 1) to each prompt. The caller's random state is left as it was."""
    replies, was_training = [], model.training
    model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(prompts), batch):
            inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True, padding_side="left")
            inputs = {k: inputs[k].to(model.device) for k in ("input_ids", "attention_mask")}
            ids = cast(Any, model).generate(**inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                                 max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
            replies += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    model.train(was_training)
    return replies


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, *, count: int = 400, seed: int = 0,
            held_out: bool = True, tone: str = "") -> Behaviour:  # fmt: skip
    """Samples `count` replies to impossible tasks and sorts them by how they end."""
    prompts = impossible_prompts(count, seed, held_out=held_out, tone=tone)
    return Behaviour(tuple(generate(model, tokenizer, prompts, seed=seed)))
