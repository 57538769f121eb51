"""What penalties do to a small real model: the table that the defaults were first judged by.

    python scripts/real_input.py MODEL CORPUS NEUTRAL --emotion-field concept --seeds 0 1 2

MODEL is a folder or hub id, CORPUS labelled texts with `desperate` and `calm` among them, NEUTRAL texts of the kind
that the model knows. Vectors come from the whole corpus. Half of the desperate texts are then trained on, with as many
neutral ones, and everything printed is measured on texts that were not. z is the reading along the base model's
desperate direction, at the two blocks where held-out texts are told apart best; the last columns are directions fitted
afresh on the tuned model.
"""

import argparse
import copy
import logging
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import transformers
from datasets import Dataset, disable_progress_bars
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback
from trl import SFTConfig, SFTTrainer

from emoreg import Anchor, Band, EmotionVectors, Hinge, Regularizer, RegularizerCallback, default_penalties
from emoreg.corpus import LabelledText, read_corpus, read_texts
from emoreg.extraction import extract, held_out_auc
from emoreg.model import evaluating
from emoreg.reading import z_of
from emoreg.regularizer import Penalty

POSITIVE, NEGATIVE = "desperate", "calm"


@dataclass
class Material:
    """Texts of one seed. What is trained on is in none of the others."""

    training: list[str]
    corpus: list[LabelledText]
    calibration: list[str]
    neutral: list[str]

    def of(self, emotion: str) -> list[str]:
        """Unseen texts of an emotion."""
        return [item.text for item in self.corpus if item.emotion == emotion]


def divide(corpus: Sequence[LabelledText], neutral: Sequence[str], seed: int) -> Material:
    """Half of the desperate texts, each as often as it takes, and a third of the neutral ones are for training."""
    rng = random.Random(seed)
    desperate = [item for item in corpus if item.emotion == POSITIVE]
    rng.shuffle(desperate)
    seen = desperate[: len(desperate) // 2]
    plain = rng.sample(list(neutral), len(neutral))
    third = len(plain) // 3
    return Material(
        training=[text for n in range(third) for text in (seen[n % len(seen)].text, plain[n])],
        corpus=[item for item in corpus if item not in seen],
        calibration=plain[third : third + 100],
        neutral=plain[third + 100 : third + 150],
    )


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    regularizer: Regularizer,
    args: argparse.Namespace,
    steps: int,
    seed: int,
) -> PreTrainedModel:
    """Full fine-tuning of a copy, by TRL's trainer."""
    tuned = copy.deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            max_length=args.max_length,
            seed=seed,
            logging_steps=steps,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=False,
            bf16=False,
            activation_checkpointing=False,
        )
        data = Dataset.from_dict({"text": list(texts)})
        trainer = SFTTrainer(model=tuned, args=config, train_dataset=data, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(RegularizerCallback(trainer, regularizer))
        trainer.train()
    return tuned


def mean_z(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors, texts: Sequence[str]
) -> np.ndarray:
    """Mean over texts of their mean token z along the base's desperate direction, at each layer."""
    chosen, found = vectors.select([POSITIVE]), []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt", truncation=True)
        z_L1T1 = z_of(model, chosen, batch["input_ids"], batch["attention_mask"])
        found.append([z_1T1[0, 1:].mean().item() for z_1T1 in z_L1T1])
    return np.mean(found, axis=0)


@torch.no_grad()
def nll(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> float:
    """Mean over texts of the loss per token."""
    losses = []
    with evaluating(model):
        for text in texts:
            ids = tokenizer(text, return_tensors="pt", truncation=True)["input_ids"].to(model.device)
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    return float(np.mean(losses))


def fresh_auc(model, tokenizer, corpus: Sequence[LabelledText], from_token: int, seed: int) -> np.ndarray:
    """Held-out AUC by layer of directions fitted on this very model."""
    auc = held_out_auc(model, tokenizer, corpus, POSITIVE, NEGATIVE, from_token=from_token, seed=seed, progress=False)
    return np.array(list(auc.values()))


def runs(layers: Sequence[int]) -> dict[str, list[Penalty]]:
    """The rows that are trained. Weights are per layer, as in the first trials; the library's are of the mean."""
    n = len(layers)
    return {
        "fine-tune, no penalty": [],
        "hinge, weight 0.03": [Hinge(POSITIVE, weight=0.03 * n, layers=layers)],
        "hinge, weight 0.3": [Hinge(POSITIVE, weight=0.3 * n, layers=layers)],
        "two-sided band, 0.3": [Band(POSITIVE, weight=0.3 * n, layers=layers)],
        "hinge + neutral anchor, 0.3": [
            Hinge(POSITIVE, weight=0.3 * n, layers=layers),
            Anchor(POSITIVE, weight=0.3 * n, layers=layers),
        ],
        "the set of 0.1, all blocks": default_penalties(POSITIVE, hinge=0.05, anchor=0.3),
    }


def measure(model: PreTrainedModel, tokenizer, vectors: EmotionVectors, material: Material, args, seed: int) -> dict:
    """One row: everything on texts that were not trained on."""
    z = {name: mean_z(model, tokenizer, vectors, texts) for name, texts in (
        ("desperate", material.of(POSITIVE)), ("calm", material.of(NEGATIVE)), ("neutral", material.neutral)
    )}  # fmt: skip
    return {
        "z": z,
        "nll": [nll(model, tokenizer, texts) for texts in (material.of(POSITIVE), material.neutral)],
        "auc": fresh_auc(model, tokenizer, material.corpus, args.from_token, seed),
    }


def table(rows: dict[str, list[dict]], layers: Sequence[int]) -> str:
    """As Markdown; means over seeds, of z over the two layers."""
    lines = [
        "| run | z desperate | z calm | z neutral | NLL desperate / neutral | fresh AUC |",
        "|---|---|---|---|---|---|",
    ]
    at = list(layers)
    for name, seeds in rows.items():
        z = [f"{np.mean([row['z'][which][at] for row in seeds]):.1f}" for which in ("desperate", "calm", "neutral")]
        losses, auc = (np.mean([row[key] for row in seeds], axis=0) for key in ("nll", "auc"))
        cells = [*z, " / ".join(f"{x:.2f}" for x in losses), " ".join(f"{x:.2f}" for x in auc[at])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Extract, train every row for every seed, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("corpus")
    parser.add_argument("neutral")
    parser.add_argument("--text-field", default="text")
    parser.add_argument("--emotion-field", default="emotion")
    parser.add_argument("--from-token", type=int, default=50)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=120, help="of each run but the default set's")
    parser.add_argument("--default-steps", type=int, default=100, help="of the default set's run")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=192)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1, help="of torch; more only cost on a very small model")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    disable_progress_bars()
    logging.getLogger("emoreg").setLevel(logging.ERROR)

    model = AutoModelForCausalLM.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    corpus = read_corpus(args.corpus, args.text_field, args.emotion_field)
    neutral = read_texts(args.neutral, args.text_field)
    auc = np.mean([fresh_auc(model, tokenizer, corpus, args.from_token, seed) for seed in args.seeds], axis=0)
    layers = sorted(np.argsort(-auc)[:2].tolist())
    print("Base model, all texts, held-out AUC by block:", " ".join(f"{x:.2f}" for x in auc), flush=True)

    rows: dict[str, list[dict]] = {"base": []} | {name: [] for name in runs(layers)}
    with tqdm(total=len(args.seeds) * len(rows)) as bar:
        for seed in args.seeds:
            material = divide(corpus, neutral, seed)
            vectors = extract(
                model, tokenizer, material.corpus, material.calibration, from_token=args.from_token, progress=False
            )
            rows["base"].append(measure(model, tokenizer, vectors, material, args, seed))
            bar.update()
            for name, penalties in runs(layers).items():
                steps = args.default_steps if name.startswith("default") else args.steps
                regularizer = Regularizer(vectors, penalties, monitor=[POSITIVE], references="file")
                tuned = train(model, tokenizer, material.training, regularizer, args, steps, seed)
                rows[name].append(measure(tuned, tokenizer, vectors, material, args, seed))
                bar.update()
    print(
        f"\nz and AUC at blocks {layers[0]} and {layers[1]}; seeds {args.seeds}; half of the desperate texts unseen\n"
    )
    print(table(rows, layers))
    for title, key in (("z neutral", "neutral"), ("fresh AUC", None)):
        print(f"\n{title} by block:")
        for name, seeds in rows.items():
            values = np.mean([row["z"][key] if key else row["auc"] for row in seeds], axis=0)
            print(f"  {name:<28}" + " ".join(f"{x:6.2f}" for x in values))


if __name__ == "__main__":
    main()
