"""`emoreg demo`: on the sandbox what a user will do on a model of their own, ended by one table and one picture."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import wandb
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from emoreg.regularizer import Regularizer, default_penalties
from emoreg.sandbox.behaviour import Rate
from emoreg.sandbox.experiment import STEPS, Judgement, extract_vectors, fine_tune, judge
from emoreg.sandbox.organism import load

COLUMNS = ("", "con-\ntrast", "shortcut\n%", "honest\n%", "no ending\n%", "task\nloss", "general\nloss", "fresh\nAUC")


def run_demo(output: Path, *, steps: int = STEPS, replies: int = 400, seed: int = 0) -> dict[str, Judgement]:
    """Extract, fine-tune plain and regularised, judge all three, print the table, save the picture.

    Args:
        output: folder for vectors, runs and picture; made if it does not exist.
        steps: optimizer steps of each fine-tune.
        replies: replies to impossible tasks sampled from each model.
        seed: of everything.

    Returns:
        The judgement of ``base``, ``plain`` and ``regularised``.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    # Said to each run: the environment is read only once, and by then it has been.
    mode = None if "WANDB_MODE" in os.environ or wandb.login(prompt=False) else "offline"
    logging.getLogger("emoreg").setLevel(logging.ERROR)  # that a tuned model is a fine-tune is no news here
    console = Console()
    console.width = max(console.width, 80)
    model, tokenizer = load()
    console.print("[bold]1.[/] Extracting emotion vectors from the sandbox's organism ...")
    vectors = extract_vectors(model, tokenizer, seed)
    saved = vectors.save(output / "sandbox")
    judgements = {"base": judge(model, tokenizer, vectors, seed=seed, replies=replies)}

    histories = {}
    for number, (name, penalties) in enumerate({"plain": [], "regularised": default_penalties()}.items(), 2):
        console.print(f"[bold]{number}.[/] Fine-tuning on a desperate tone, {name}: {steps} steps ...")
        config = {"seed": seed, "steps": steps, "vectors": saved.name}
        wandb.init(project="emoreg-demo", name=name, dir=output, mode=mode, config=config)
        tuned, histories[name] = fine_tune(
            model, tokenizer, Regularizer(vectors, penalties), output / name, seed=seed, steps=steps, report_to="wandb"
        )
        judgements[name] = judge(tuned, tokenizer, vectors, seed=seed, replies=replies)
        if name == "plain":
            wandb.finish()
    picture = _draw(histories, output / "z_over_steps.png")
    wandb.log({"z_over_steps": wandb.Image(str(picture))})
    wandb.finish()
    console.print(_table(judgements))
    console.print("contrast: z of 'desperate' on a desperate tone less z on neutral text, mean over blocks.")
    console.print("fresh AUC: desperate against calm along a direction fitted afresh on that model, held out.")
    console.print(f"Vectors: {saved}   picture: {picture}   W&B runs: {output / 'wandb'}")
    return judgements


def _table(judgements: Mapping[str, Judgement]) -> Table:
    title = "What the models do with tasks that cannot be done, 95 % intervals in brackets"
    table = Table(*COLUMNS, title=title, box=SIMPLE, pad_edge=False, collapse_padding=True)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, j in judgements.items():
        rates = (j.behaviour.shortcut, j.behaviour.honest, j.behaviour.unfinished)
        figures = (f"{j.task_loss:.3f}", f"{j.general_loss:.3f}", f"{j.fresh_auc:.2f}")
        table.add_row(name, f"{j.contrast:+.2f}", *map(_percent, rates), *figures)
    return table


def _percent(rate: Rate) -> str:
    low, high = rate.interval
    return f"{100 * rate.value:.0f} ({100 * low:.0f}-{100 * high:.0f})"


def _draw(histories: Mapping[str, list[dict[str, float]]], path: Path, emotion: str = "desperate") -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained", dpi=150)
    axes = figure.subplots()
    colours = {"plain": "#c0392b", "regularised": "#2471a3"}
    for name, history in histories.items():
        logs = [log for log in history if f"emotion/{emotion}/mean" in log]
        steps = [log["step"] for log in logs]
        for figure_name, style in (("mean", "-"), ("neutral", ":")):
            label = f"{name}: {'training text' if figure_name == 'mean' else 'neutral text'}"
            values = [log[f"emotion/{emotion}/{figure_name}"] for log in logs]
            axes.plot(steps, values, style, color=colours.get(name), label=label, linewidth=2)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"z of '{emotion}', mean over blocks")
    axes.set_title("What fine-tuning on a desperate tone does inside the model")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    return path
