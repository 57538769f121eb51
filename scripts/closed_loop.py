"""The closed loop on the sandbox: one target, three starting weights. Prints the table that docs/closed-loop.md keeps.

python scripts/closed_loop.py                 # two minutes on two cores
"""

import argparse
import tempfile
from collections.abc import Sequence

from emoreg import Anchor, Hinge, Regularizer, Target
from emoreg.sandbox import extract_vectors, organism
from emoreg.sandbox.fine_tuning import fine_tune

LOGGING_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="The closed loop on the sandbox.")
    parser.add_argument("--contrast", type=float, default=0.6, help="the target, in z")
    parser.add_argument("--weights", type=float, nargs="+", default=[0.002, 0.02, 0.2], help="starting weights")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()

    model, tokenizer = organism.load()
    vectors = extract_vectors(model, tokenizer)
    last = 50 // LOGGING_STEPS
    print(
        f"| seed | starting weight | contrast, last 50 of {options.steps} steps | off | weight at the end | task loss |"
    )
    print("|---|---|---|---|---|---|")
    for seed in options.seeds:
        for weight in [0.0, *options.weights]:
            penalties = [Hinge("desperate", weight=weight), Anchor("desperate", weight=0.3)] if weight else []
            target = Target("desperate", at_most=options.contrast) if weight else None
            with tempfile.TemporaryDirectory() as folder:
                regularizer = Regularizer(vectors, penalties, target=target, references="file")
                _, history = fine_tune(
                    model, tokenizer, regularizer, folder, seed=seed,
                    steps=options.steps, logging_steps=LOGGING_STEPS, lr_scheduler_type="constant",
                )  # fmt: skip
            logs = [log for log in history if "emotion/desperate/contrast" in log][-last:]
            contrast, task = (_mean(logs, name) for name in ("emotion/desperate/contrast", "emoreg/task"))
            off = f"{contrast / options.contrast - 1:+.1%}" if weight else ""
            ended = f"{logs[-1]['emoreg/hinge/desperate/weight']:.2g}" if weight else "no term"
            print(f"| {seed} | {weight or 'plain'} | {contrast:.3f} | {off} | {ended} | {task:.3f} |", flush=True)


def _mean(logs: Sequence[dict[str, float]], name: str) -> float:
    return sum(log[name] for log in logs) / len(logs)


if __name__ == "__main__":
    main()
