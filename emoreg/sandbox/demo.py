"""`emoreg demo`: on the sandbox what a user will do on a model of their own, ended by one table and one picture."""

import os
from collections.abc import Mapping
from pathlib import Path

import wandb
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from emoreg.regularizer import Regularizer
from emoreg.sandbox.behaviour import Rate
from emoreg.sandbox.data import STEPS
from emoreg.sandbox.judgement import Judgement, extract_vectors, judge
from emoreg.sandbox.organism import load
from emoreg.sandbox.picture import draw
from emoreg.sandbox.quiet import quiet
from emoreg.sandbox.stages import Stages

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
    console = Console()
    console.width = max(console.width, 80)
    stages, judgements, histories = Stages(console), {}, {}
    with quiet():
        from emoreg.sandbox.fine_tuning import PENALTIES, fine_tune  # trl and peft, which import what `quiet` is for

        model, tokenizer = load()
        with stages.stage("Emotion vectors of a tiny model"):
            vectors = extract_vectors(model, tokenizer, seed)
            saved = vectors.save(output / "sandbox")
        with stages.stage(f"What that model does: {replies} replies"):
            judgements["base"] = judge(model, tokenizer, vectors, seed=seed, replies=replies)
        for name, penalties in {"plain": [], "regularised": PENALTIES}.items():
            config = {"seed": seed, "steps": steps, "vectors": saved.name}
            wandb.init(project="emoreg-demo", name=name, dir=output, mode=mode, config=config)
            with stages.stage(f"Fine-tune on a desperate tone, {name}", steps) as progress:
                tuned, histories[name] = fine_tune(
                    model, tokenizer, Regularizer(vectors, penalties, references="file"), output / name, seed=seed,
                    steps=steps, progress=progress, report_to="wandb",
                )  # fmt: skip
            with stages.stage(f"What it does then: {replies} replies"):
                judgements[name] = judge(tuned, tokenizer, vectors, seed=seed, replies=replies)
            if name == "plain":
                wandb.finish()
        picture = draw(histories, output / "z_over_steps.png")
        wandb.log({"z_over_steps": wandb.Image(str(picture))})
        wandb.finish()
    console.print(_table(judgements))
    console.print("contrast: z of 'desperate' on a desperate tone less z on neutral text, mean over blocks.")
    console.print("fresh AUC: desperate against calm along a direction fitted afresh on that model, held out.")
    for what, where in {"vectors": saved, "picture": picture, "W&B runs": output / "wandb"}.items():
        console.print(f"{what:9} {where}", soft_wrap=True, highlight=False)
    console.print(
        "next      emoreg extract MODEL --output vectors/MODEL, for a model of your own",
        soft_wrap=True,
        highlight=False,
    )
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
