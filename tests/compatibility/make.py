"""What 0.1 wrote: its vectors file, a checkpoint of a run under its regularizer, and where that run ended.

`0.1/` was made by the last commit before 0.2's folders, from a copy of this file:

    git worktree add ../before 37be704
    cp -r tests/compatibility ../before/tests/ && cd ../before
    PYTHONPATH=. python -m tests.compatibility.make tests/compatibility/0.1

It speaks to emoreg by its public names and its command line alone, so that any version can make such a folder.
"""

import hashlib
import json
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from emoreg import Anchor, EmotionVectors, Hinge, Regularizer, RegularizerCallback, Target
from emoreg.sandbox import data, organism
from tests import tiny
from tests.support import random_vectors, sft_trainer, uneven_rows

STEPS, LOGS, SAVED = 10, 2, 5  # saved in the middle of what is logged together
KEPT = ("config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json")
EMOTIONS = ("desperate", "calm", "sad", "happy")


def model() -> LlamaForCausalLM:
    """The smallest that has heads, blocks and a last one."""
    return tiny.llama(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                      num_key_value_heads=1, tie_word_embeddings=True)  # fmt: skip


def train(folder: Path, vectors: EmotionVectors, checkpoint: Path | None = None) -> tuple[dict[str, Any], list[dict]]:
    """0.1's code for a hinge whose weight is sought and an anchor; returns the weights and our figures."""
    trainer = sft_trainer(
        model(), tiny.tokenizer(), folder, uneven_rows(2 * 2 * STEPS), max_steps=STEPS, logging_steps=LOGS,
        save_strategy="steps", save_steps=SAVED, learning_rate=1e-3,
    )  # fmt: skip
    penalties = [Hinge("desperate", weight=0.05), Anchor("desperate", weight=0.3)]
    # What this file's own release had: 0.1 knows no other, and takes no such option.
    plain = {"references": "file"} if "references" in signature(Regularizer.__init__).parameters else {}
    regularizer = Regularizer(vectors, penalties, schedule=Target("desperate", above_base=-0.2), **plain)
    trainer.add_callback(RegularizerCallback(trainer, regularizer, gradient_every=1))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    # Not the loss: the trainer itself forgets that of a window that a checkpoint cuts in two.
    figures = [{k: v for k, v in log.items() if k.startswith("emo")} for log in trainer.state.log_history]
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return weights, [log for log in figures if log]


def losses(vectors: EmotionVectors) -> dict[str, float]:
    """What a hinge on each emotion adds in a loop of one's own, on two texts that the organism reads."""
    reader, tokenizer = organism.load()
    batch = tokenizer([" I counted the minutes.", " My breath was slow."], return_tensors="pt", padding=True)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    found = {}
    for emotion in EMOTIONS:
        with Regularizer(vectors, [Hinge(emotion, weight=0.05, threshold=-2.0)]).attach(reader) as term:
            reader(**batch)
            found[emotion] = term.loss(batch).item()
    return found


def digests(file: Path) -> dict[str, str]:
    return {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in sorted(load_file(file).items())}


def extract(output: Path) -> None:
    """The organism's vectors, by the command line, with the evidence of `validate`."""
    texts, neutral = output.with_name("texts.jsonl"), output.with_name("neutral.jsonl")
    stories = [s for s in data.stories(0, per_emotion=24) if s.emotion in EMOTIONS]
    rows = [{"text": one.text, "emotion": one.emotion, "scene": one.group} for one in stories]
    for file, lines in ((texts, rows), (neutral, [{"text": text} for text in data.neutral_texts(0, 60)])):
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    emoreg = [sys.executable, "-m", "emoreg"]
    common = ["--neutral", str(neutral), "--device", "cpu"]
    reader = str(organism.CHECKPOINT.relative_to(Path.cwd()))  # the file keeps it, and no folder of this machine
    made = [*emoreg, "extract", reader, str(texts), "--output", str(output), "--layers", "1,2"]
    subprocess.run([*made, "--from-token", "8", *common], check=True)
    asked = [*emoreg, "validate", str(output), reader, "--corpus", str(texts)]
    page = output.with_suffix(".md")
    subprocess.run([*asked, "--group-field", "scene", "--permutations", "20", "--page", str(page), *common], check=True)
    for left in (texts, neutral, page):
        left.unlink()


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    extract(folder / "organism.safetensors")
    random_vectors(model()).save(folder / "tiny.safetensors")
    weights, figures = train(folder / "run", EmotionVectors.load(folder / "tiny.safetensors"))
    save_file(weights, folder / "ended.safetensors")
    vectors = EmotionVectors.load(folder / "organism.safetensors")
    ended = {"figures": figures, "digests": digests(folder / "organism.safetensors"), "losses": losses(vectors)}
    (folder / "ended.json").write_text(json.dumps(ended, indent=1) + "\n")
    for name in KEPT:
        (folder / "checkpoint-5").mkdir(exist_ok=True)
        shutil.copy(folder / f"run/checkpoint-{SAVED}" / name, folder / "checkpoint-5" / name)
    shutil.rmtree(folder / "run")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]).absolute())
