"""The term's gradient in every trainer, way of training and kind of memory saving, against the written-out one.

    python -m tests.trainers.matrix > docs/trainers.md        # a few minutes

prints the table that docs/trainers.md keeps, and fails if a cell is over 1e-6. `test_matrix.py` asserts every cell but
some compiled ones.
"""

import contextlib
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType
from transformers import DataCollatorWithFlattening

from tests.trainers.cases import CASES, Case
from tests.trainers.reference import gradient_error

WAYS = ("full", "LoRA")
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "checkpointing": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
    "reentrant": {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": True}},
    "packing": {"packing": True, "max_length": 40},
    "padding-free": {"padding_free": True, "max_length": None},
    "compile": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
}
_PACKED = ("packing", "padding-free")
NO_CELL: dict[tuple[str, ...], str] = {
    **{(name, mode): "its config has no `packing` or `padding_free`" for name in CASES for mode in _PACKED},
    **{("DPO", mode): "TRL: `padding_free` is temporarily unavailable" for mode in _PACKED},
    **{
        (name, mode): "TRL: a custom data collator is not supported when using padding-free, and it brings one"
        for name in ("GKD", "GOLD")
        for mode in _PACKED
    },
    (
        "Distillation",
        "LoRA",
        "compile",
    ): "TRL fails without emoreg too: it takes a compiled PeftModel's head for its body",
}
"""(trainer, mode), or (trainer, way, mode) -> why there is no such cell."""
del NO_CELL["SFT", "packing"], NO_CELL["SFT", "padding-free"], NO_CELL["Trainer", "padding-free"]


def reason(case: Case, way: str, mode: str) -> str | None:
    return NO_CELL.get((case.name, mode)) or NO_CELL.get((case.name, way, mode))


def cell(case: Case, way: str, mode: str, output_dir: object) -> float:
    """Relative error of the term's gradient."""
    options = dict(MODES[mode])
    if case.name == "Trainer" and mode == "padding-free":
        options = {"data_collator": DataCollatorWithFlattening()}
    if way == "LoRA":
        kind = TaskType.SEQ_CLS if case.name == "Reward" else TaskType.CAUSAL_LM
        options["peft_config"] = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type=kind)
    torch.manual_seed(0)
    torch.compiler.reset()
    return gradient_error(case, output_dir, **options)


def main() -> None:
    print((Path(__file__).parent / "matrix.md").read_text().strip())
    print(f"\n| trainer | way | {' | '.join(MODES)} |\n|---|---|{'---|' * len(MODES)}")
    reasons: list[str] = []
    worst = 0.0
    for case in CASES.values():
        for way in WAYS:
            figures = []
            for mode in MODES:
                why = reason(case, way, mode)
                if why is None:
                    # Off the page: what trainers print.
                    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
                        error = cell(case, way, mode, folder)
                    worst = max(worst, error)
                    figures.append(f"{error:.1e}")
                    print(f"{case.name} {way} {mode}: {figures[-1]}", file=sys.stderr)
                    continue
                reasons += [why] * (why not in reasons)
                figures.append(f"({reasons.index(why) + 1})")
            print(f"| {case.name} | {way} | {' | '.join(figures)} |")
    print("\nNo cell, since\n")
    print("\n".join(f"{number}. {why}." for number, why in enumerate(reasons, 1)))
    sys.exit(f"a cell is off by {worst:.1e}, over 1e-6" if worst > 1e-6 else 0)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)  # trainers leave files where they run
        main()
