"""What the default set and a monitor cost a training step of the real model: paired with the plain step."""

import copy
import json
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from evidence import tone
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from emoreg import Anchor, EmotionVectors, Regularizer, default_penalties

CYCLE = Anchor("desperate").every
CASES = {"monitor": [], "default": default_penalties()}


def measure(folder: str, vectors: EmotionVectors, output: Path, cycles: int = 5) -> None:
    """Leave ``costs.json``: for each case the ratios of its cycles to the plain ones', step by step in turn.

    A cycle is as many steps as lie between two turns of the anchor. Twins share the frozen weights.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model: Any = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    texts = tone.texts(0)
    rows = [_row(tokenizer, pair) for pair in (*texts.desperate[::6], *texts.neutral[:4])]
    batch = {name: torch.cat([row[name][:, :120] for row in rows[:4]]) for name in rows[0]}
    found: dict[str, Any] = {"batch": list(batch["input_ids"].shape), "threads": torch.get_num_threads()}
    for name, penalties in CASES.items():
        twin = copy.deepcopy(model, {id(p): p for p in model.parameters() if not p.requires_grad})
        with ExitStack() as stack:
            start = time.perf_counter()
            attached = Regularizer(vectors, penalties).attach(twin, rows=rows, tokenizer=tokenizer)
            term = stack.enter_context(attached)
            attach = time.perf_counter() - start
            plain, held = _step(model, batch, None), _step(twin, batch, term)
            pairs = []
            for _ in range(cycles + 1):
                seconds = [0.0, 0.0]
                for i in range(CYCLE):
                    for which in (0, 1) if i % 2 else (1, 0):
                        seconds[which] += (plain, held)[which]()
                pairs.append(seconds)
            start = time.perf_counter()
            term.report()
            log = time.perf_counter() - start
        ratios = sorted(b / a for a, b in pairs[1:])  # the first is to warm up
        step = statistics.median(a for a, _ in pairs[1:]) / CYCLE
        found[name] = {"ratios": ratios, "step_s": step, "attach_s": attach, "log_s": log}
    (output / "costs.json").write_text(json.dumps(found, indent=1))


def _row(tokenizer: Any, pair: tone.Pair) -> dict[str, Tensor]:
    messages = [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.reply}]
    ids = torch.tensor([tokenizer.apply_chat_template(messages, return_dict=False)])
    return {"input_ids": ids, "labels": ids.clone()}


def _step(model: Any, batch: dict[str, Tensor], term: Any) -> Callable[[], float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    model.train()

    def step() -> float:
        start = time.perf_counter()
        loss = model(**batch).loss
        (loss if term is None else loss + term.loss(batch)).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def table(found: dict[str, Any]) -> str:
    """As Markdown."""
    rows, tokens = found["batch"]
    lines = [
        f"LoRA, fp32, {rows} rows of {tokens} tokens, {found['threads']} thread(s); every emotion at every block. "
        "Ratios of four steps to four plain ones, in turn, in one process.\n",
        "| | step, against plain: median (all) | when training begins | each log |",
        "|---|---|---|---|",
    ]
    for name in CASES:
        one = found[name]
        ratios = ", ".join(f"{ratio:.3f}" for ratio in one["ratios"])
        in_steps = one["log_s"] / one["step_s"]
        lines.append(
            f"| {name} | {statistics.median(one['ratios']):.3f} ({ratios}) | {one['attach_s']:.1f} s | "
            f"{one['log_s']:.1f} s, {in_steps:.1f} steps |"
        )
    return "\n".join(lines)
