"""``emoreg train`` and ``emoreg demo``."""

from pathlib import Path
from typing import Annotated

import typer

from emoreg.cli.shell import check_writable, one_line_errors


@one_line_errors
def train(
    options: Annotated[list[str] | None, typer.Argument(help="--config FILE, and any option named above.")] = None,
) -> None:
    """Fine-tune with TRL's SFTTrainer while an emotion is kept down.

    Takes every option of TRL's `SFTConfig`, `ModelConfig` and `ScriptArguments` and of emoreg's `RegularizerConfig`
    (`--vectors`, `--emotion`, `--hinge_weight`, `--anchor_weight`, `--scope`, ...), from a YAML file and from the
    command line, which wins. The code is `recipes/sft.py`: copy it for a trainer of your own, and start that with
    `accelerate launch` on several GPUs. `python -m emoreg_recipes.sft --help` lists every option.

    Example: `emoreg train --config configs/sft.yaml --vectors vectors/qwen3-0.6b --learning_rate 1e-4`
    """
    from emoreg_recipes.sft import main as sft  # pyright: ignore[reportMissingImports] - recipes/, as installed

    sft(options or [])


@one_line_errors
def demo(
    output: Annotated[Path, typer.Option(help="Folder for vectors, runs and the picture.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the texts, the training and the sampling.")] = 0,
) -> None:
    """Show the whole path on the embedded sandbox: no download, a few minutes on two cores.

    Extracts vectors from a tiny model, fine-tunes it on a desperate tone once plain and once regularised, and prints
    what both do with tasks that cannot be done. Logs a W&B run each, offline unless you are logged in.
    """
    from emoreg.sandbox import run_demo

    check_writable(output / "sandbox")
    run_demo(output, seed=seed)
