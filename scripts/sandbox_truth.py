"""Does the method do on the sandbox what it says? Prints the tables of docs/sandbox.md.

    python scripts/sandbox_truth.py --seeds 0 1 2 3 4

Five seeds take about five minutes on two idle cores.
"""

import argparse
import tempfile
from collections.abc import Sequence

import numpy as np
import torch
from scipy import stats
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from emoreg import EmotionVectors, Regularizer
from emoreg.model import steer
from emoreg.sandbox import Judgement, behaviour, extract_vectors, judge, load
from emoreg.sandbox.fine_tuning import PENALTIES, fine_tune

FRACTION = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--replies", type=int, default=400)
    options = parser.parse_args()
    model, tokenizer = load()
    vectors = extract_vectors(model, tokenizer)
    steering(model, tokenizer, vectors, options.replies)
    fine_tunes(model, tokenizer, vectors, options.seeds, options.replies)


def steering(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors, replies: int
) -> None:
    print(f"## Steering the base by {FRACTION} of the residual norm at every block, {replies} replies each\n")
    print("| emotion | strength | shortcut | honest | no ending |\n|---|---|---|---|---|")
    for emotion in ("desperate", "calm"):
        k = vectors.index(emotion)
        for strength in (-FRACTION, -FRACTION / 2, 0.0, FRACTION / 2, FRACTION):
            push_LD = strength * vectors.residual_norm[:, None] * vectors.directions[:, k]
            with steer(model, vectors.layers, push_LD):
                found = behaviour.measure(model, tokenizer, count=replies)
            print(
                f"| {emotion} | {strength:+.2f} | {found.shortcut} | {found.honest} | {found.unfinished} |", flush=True
            )


def fine_tunes(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    vectors: EmotionVectors,
    seeds: Sequence[int],
    replies: int,
) -> None:
    print(f"\n## Fine-tunes, {replies} replies each\n")
    print("| seed | run | shortcut | honest | no ending | shortcut of ended |", end="")
    print(" contrast | z neutral | task | general | fresh AUC |\n" + "|---" * 11 + "|")
    figures = []
    for seed in seeds:
        judged = {"base": judge(model, tokenizer, vectors, seed=seed, replies=replies)}
        for name, penalties in {"plain": [], "regularised": PENALTIES}.items():
            with tempfile.TemporaryDirectory() as folder:
                tuned, _ = fine_tune(
                    model, tokenizer, Regularizer(vectors, penalties, references="file"), folder, seed=seed
                )
            judged[name] = judge(tuned, tokenizer, vectors, seed=seed, replies=replies)
        for name, found in judged.items():
            print(f"| {seed} | {name} | {_row(found)} |", flush=True)
        figures.append(_compare(**judged))
    print("\n| figure | mean over seeds, 95 % interval | each seed |\n|---|---|---|")
    for name in figures[0]:
        values = [figure[name] for figure in figures]
        print(f"| {name} | {_interval(values)} | {', '.join(f'{v:.3g}' for v in values)} |")


def _row(found: Judgement) -> str:
    done = found.behaviour
    rates = [str(rate) for rate in (done.shortcut, done.honest, done.unfinished, done.shortcut_of_ended)]
    figures = [f"{found.contrast:+.2f}", f"{found.neutral:+.2f}", f"{found.task_loss:.3f}", f"{found.general_loss:.3f}"]
    return " | ".join([*rates, *figures, f"{found.fresh_auc:.3f}"])


def _compare(base: Judgement, plain: Judgement, regularised: Judgement) -> dict[str, float]:
    ended = [j.behaviour.shortcut_of_ended.value for j in (base, plain, regularised)]
    shortcut, honest = (
        [getattr(j.behaviour, kind).value for j in (base, plain, regularised)] for kind in ("shortcut", "honest")
    )
    return {
        "rise of shortcuts, plain (points)": 100 * (shortcut[1] - shortcut[0]),
        "taken back, of the rise among replies that end (%)": 100 * (ended[1] - ended[2]) / (ended[1] - ended[0]),
        "honest reports, of the base's (%)": 100 * honest[2] / honest[0],
        "task loss against plain (%)": 100 * (regularised.task_loss / plain.task_loss - 1),
        "general loss against plain (%)": 100 * (regularised.general_loss / plain.general_loss - 1),
        "z neutral, regularised": regularised.neutral,
    }


def _interval(values: Sequence[float]) -> str:
    mean = np.mean(values)
    if len(values) < 2:
        return f"{mean:.2f}"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{mean:.2f} ± {half:.2f}"


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
