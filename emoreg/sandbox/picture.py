"""The demo's picture: z over the steps of the fine-tunes, on the training text and on neutral text."""

from collections.abc import Mapping
from pathlib import Path


def draw(histories: Mapping[str, list[dict[str, float]]], path: Path, emotion: str = "desperate") -> Path:
    """Draw the trainers' logs of some runs; returns the path."""
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
