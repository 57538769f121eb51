"""A run of several ranks, and what it has to be the same as: one process on the same global batch."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, TaskType
from trl import GRPOTrainer

from emoreg import Band, Regularizer, RegularizerCallback, default_penalties
from emoreg.reading.statistics import BINS, HIGH, LOW
from tests.distributed import engines
from tests.distributed.processes import run
from tests.invariants.test_law_3 import apart, rows
from tests.support import random_vectors
from tests.trainers.cases import CASES

STEPS, LOGGING_STEPS = 6, 2
WHOLE = (8, 1)
_RECOMPUTED = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}}
_REENTRANT = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}}
WAYS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "full": ((2, 2), {}),
    "LoRA": ((2, 2), {"lora": True}),
    "no accumulation": ((4, 1), {"n_rows": 32}),
    "checkpointing": ((2, 2), _RECOMPUTED),
    "evaluation": ((2, 2), {"evaluate": True}),
    # DDP refuses adapters under reentrant checkpointing, unless told that no parameter goes unused; so without us.
    "LoRA, reentrant, no accumulation": (
        (4, 1),
        {"lora": True, "n_rows": 32, "ddp_find_unused_parameters": False, **_REENTRANT},
    ),
}
"""Way of training -> rows per micro-batch and micro-batches to a step at two ranks, and options."""
CELLS = [(name, "full") for name in ("SFT", "DPO", "GRPO")] + [("SFT", way) for way in WAYS if way != "full"]


def fixed_completions(self, prompt_ids, *args, **kwargs):
    """Completions that depend on their prompt and on which of its group they are, on whatever rank they are made."""
    found = []
    for at, prompt in enumerate(prompt_ids):
        seed = sum(prompt) + 13 * (at % 2)
        found.append([4 + (seed * (place + 3)) % 250 for place in range(2 + seed % 5)])
    return found, None


def train(
    rank, folder, name, cut, engine="DDP", *, vectors_seed=0, penalties=None, target=None, resume=None, lora=False,
    n_rows=36, model=None, gradient_every=2, evaluate=False, callbacks=(), **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """One rank's part of a run of ``cut``: rows per micro-batch and micro-batches to a step.

    36 rows end in half a batch. Accelerate fills a last micro-batch up with the first rows again, so that this is half
    a batch in other cuts too only if it is made of whole micro-batches.
    """
    options = engines.options(engine) | options
    GRPOTrainer._generate_single_turn = fixed_completions
    model = CASES[name].model() if model is None else model
    vectors = random_vectors(model, seed=vectors_seed)
    torch.manual_seed(0)
    if lora:
        options["peft_config"] = LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules="all-linear", r=4)
    if evaluate:
        options |= {"eval_dataset": rows(name).select(range(8)), "eval_strategy": "steps", "eval_steps": LOGGING_STEPS}
    trainer = CASES[name].trainer(
        model, folder, data=rows(name).select(range(n_rows)),
        max_steps=STEPS, learning_rate=1e-2, optim="sgd", lr_scheduler_type="constant",
        per_device_train_batch_size=cut[0], gradient_accumulation_steps=cut[1], per_device_eval_batch_size=2,
        **{"logging_steps": LOGGING_STEPS} | options,
    )  # fmt: skip
    if penalties is None:
        penalties = [*default_penalties(hinge=0.5), Band("calm", weight=0.5, low=-0.5, high=0.5)]
    sums, all_reduce = [], torch.distributed.all_reduce

    def counting(tensor, *args, **kwargs):  # by torch's own name, which DeepSpeed says
        sums.append((trainer.state.global_step, tensor.numel()))
        return all_reduce(tensor, *args, **kwargs)

    torch.distributed.all_reduce = counting
    # ZeRO-3 has the file's text where blocks are computed again without reentry, so there every engine has.
    recomputed = options.get("activation_checkpointing_kwargs", {}).get("use_reentrant") is False
    references = "file" if recomputed else "rows"
    regularizer = Regularizer(vectors, penalties, target=target, references=references)
    # No own text: a sharded model writes none.
    callback = RegularizerCallback(trainer, regularizer, gradient_every=gradient_every, own_text_every=0)
    trainer.add_callback(callback)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    logs = [{k: v for k, v in log.items() if k.startswith(("emo", "eval_emo"))} for log in trainer.state.log_history]
    return {"weights": engines.weights(trainer), "logs": [log for log in logs if log], "sums": sums}


class Difference(NamedTuple):
    """Between several ranks and one process, at most."""

    weights: float
    figures: float
    """Of all that is logged but p95: absolute, or relative where the figure is above 1."""
    p95: float
    """In bins of the histogram."""


def difference(several: list[dict[str, Any]], one: dict[str, Any]) -> Difference:
    first = several[0]
    assert first["weights"].keys() == one["weights"].keys()
    assert len(first["logs"]) == len(one["logs"]) > 0
    found = {True: 0.0, False: 0.0}
    for ours, theirs in zip(first["logs"], one["logs"], strict=True):
        assert ours.keys() == theirs.keys()
        for metric, value in theirs.items():
            apart_by = abs(ours[metric] - value) / max(1.0, abs(value))
            found[metric.endswith("/p95")] = max(found[metric.endswith("/p95")], apart_by)
    for other in several[1:]:
        assert other["logs"] == first["logs"]
    return Difference(apart(first["weights"], one["weights"]), found[False], found[True] / ((HIGH - LOW) / BINS))


def assert_same(several: list[dict[str, Any]], one: dict[str, Any]) -> Difference:
    """Law 3, over ranks."""
    found = difference(several, one)
    assert found.weights <= 1e-5
    assert found.figures <= 1e-6
    assert found.p95 <= 1
    return found


def two(engine: str, name: str, way: str, folder: Path) -> list[dict[str, Any]]:
    cut, options = WAYS[way]
    return run(2, _work, folder, name, cut, engine, options)


def one(name: str, way: str, folder: Path) -> dict[str, Any]:
    """One process on the whole batch, which is the same for every engine."""
    (result,) = run(1, _work, folder, name, WHOLE, "none", WAYS[way][1])
    return result


def _work(rank, folder, name, cut, engine, options):
    return train(rank, folder, name, cut, engine, **options)
