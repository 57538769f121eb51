"""Law 8, at length: fifty runs that end in every way leave no hook, no wrapper, and no memory behind."""

import gc
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch import Tensor, nn
from transformers import TrainerCallback
from trl import SFTTrainer

from emoreg import Regularizer, RegularizerCallback, default_penalties
from emoreg.model.hooks import hook_blocks
from tests.support import random_vectors, sft_trainer

ROUNDS, WARM = 50, 5  # up to the latter, libraries fill their caches
ENDINGS = [None, RuntimeError, KeyboardInterrupt, None, ValueError]
WHERE = [
    "on_train_begin",
    "on_step_begin",
    "on_substep_end",
    "on_pre_optimizer_step",
    "on_log",
    "on_step_end",
    "on_train_end",
]
RSS_MARGIN = 8 * 2**20
"""Bytes over the last 45 runs, 180 KiB for each; seen on an idle machine: a quarter of a MiB in all."""


def left_on(trainer: Any) -> dict[str, Any]:
    """Hooks on any module, and methods of the trainer or its callbacks that have been replaced."""
    hooks = [
        (name, kind)
        for name, module in trainer.model.named_modules()
        for kind, held in vars(module).items()
        if kind.endswith("_hooks") and held
    ]
    owners = (trainer, *trainer.callback_handler.callbacks)
    wrapped = [name for one in owners for name, v in vars(one).items() if callable(v) and hasattr(type(one), name)]
    return {"hooks": hooks, "wrapped": wrapped}


def alive() -> Counter[str]:
    """Live tensors, and objects of emoreg's classes, by class."""
    gc.collect()
    kinds = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if issubclass(kind, Tensor):
            kinds["tensors"] += 1
        elif str(kind.__module__).startswith("emoreg"):
            kinds[kind.__qualname__] += 1
    return kinds


def train(number: int, model: nn.Module, tokenizer: Any, folder: Path) -> SFTTrainer:
    """Attach, train, detach; ends in its turn's way."""
    trainer = sft_trainer(model, tokenizer, folder, max_steps=1 + number % 2)
    regularizer = Regularizer(random_vectors(model), default_penalties())
    trainer.add_callback(RegularizerCallback(trainer, regularizer, gradient_every=1))
    error = ENDINGS[number % len(ENDINGS)]

    def fail(*args: Any, **kwargs: Any):
        raise error("in the middle")

    if error is None:
        trainer.train()
    else:
        trainer.add_callback(type("EndsBadly", (TrainerCallback,), {WHERE[number % len(WHERE)]: fail}))
        with pytest.raises(error, match="in the middle"):
            trainer.train()
    model.zero_grad()
    return trainer


@pytest.mark.slow
def test_fifty_runs_leave_nothing(tiny_llama, tiny_tokenizer, tmp_path):
    model, process = tiny_llama(), psutil.Process()
    counts, memory = {}, {}
    for number in range(1, ROUNDS + 1):
        trainer = train(number, model, tiny_tokenizer, tmp_path)
        assert left_on(trainer) == {"hooks": [], "wrapped": []}, number
        del trainer
        if number in (WARM, ROUNDS):
            counts[number], memory[number] = alive(), process.memory_info().rss
    assert counts[ROUNDS] == counts[WARM]
    assert memory[ROUNDS] - memory[WARM] < RSS_MARGIN


class TestTheCheckCanFail:
    def test_a_hook_is_seen(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        trainer = train(WARM, model, tiny_tokenizer, tmp_path)
        with hook_blocks(model, [2], lambda layer, hidden: None):
            assert left_on(trainer)["hooks"] == [("model.layers.2", "_forward_hooks")]

    def test_a_wrapper_is_seen(self, tiny_llama, tiny_tokenizer, tmp_path):
        trainer = train(WARM, tiny_llama(), tiny_tokenizer, tmp_path)
        RegularizerCallback(trainer, Regularizer(random_vectors(trainer.model)))
        assert left_on(trainer)["wrapped"] == ["train"]

    def test_a_term_that_something_holds_is_seen(self, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        with Regularizer(random_vectors(model)).attach(model) as term:
            before = alive()
        assert before["Term"] == 1
        del term
        assert alive()["Term"] == 0
        assert alive()["tensors"] < before["tensors"]
