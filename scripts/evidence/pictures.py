"""The evidence page's two pictures."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Found = dict[str, Any]
COLOURS = {"base": "#555555", "plain": "#c44e52", "0.1": "#dd8452", "default": "#4c72b0"}
TITLES = {"plain": "plain fine-tune", "0.1": "default of 0.1", "default": "default"}


def logs(sft: dict[str, list[Found]], path: Path) -> None:
    """What each run's own log shows over its steps, and beside it what was then found on held-out replies."""
    arms = [arm for arm in TITLES if arm in sft]
    figure, axes = plt.subplots(1, len(arms), figsize=(4 * len(arms), 3.4), sharey=True, squeeze=False)
    for at, arm in zip(axes[0], arms, strict=True):
        for run in sft[arm]:
            steps = [log["step"] for log in run["log"]]
            first = run["log"][0]
            for name, style in (("contrast", "-"), ("neutral", ":"), ("gap", "--")):
                if name in first:
                    label = name if run is sft[arm][0] else None
                    at.plot(steps, [log[name] for log in run["log"]], style, color=COLOURS[arm], label=label)
            kinds = ("calm", "afraid", "angry", "happy", "neutral")
            truth = np.mean([np.subtract(run["read"][k]["z"], run["read"][k]["base z"]).mean() for k in kinds])
            label = "found afterwards: every other emotion's replies less the base's" if run is sft[arm][0] else None
            at.plot([steps[-1] * 1.06], [truth], "k*", ms=10, clip_on=False, label=label)
        at.axhline(0, color="#bbbbbb", lw=0.8, zorder=0)
        at.set_title(TITLES[arm])
        at.set_xlabel("step")
    axes[0, 0].set_ylabel('z of "desperate"')
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=4, frameon=False, fontsize=8)
    _save(figure, path)


def places(sft: dict[str, list[Found]], arms: list[str], path: Path) -> None:
    """Where each kind of held-out reply is read, arm beside arm."""
    kinds = ["desperate", "calm", "afraid", "angry", "happy", "neutral", "own: unlike"]
    figure, at = plt.subplots(figsize=(8, 3.4))
    for shift, arm in enumerate(arms):
        for n, kind in enumerate(kinds):
            values = [np.mean(run["read"][kind]["z"]) for run in sft[arm]]
            x = n + 0.16 * (shift - (len(arms) - 1) / 2)
            label = {"base": "base", **TITLES}[arm] if n == 0 else None
            at.plot([x] * len(values), values, "o", color=COLOURS[arm], ms=5, alpha=0.8, label=label)
    at.axhline(0, color="#bbbbbb", lw=0.8, zorder=0)
    at.set_xticks(range(len(kinds)), [*kinds[:-1], "its own text"])
    at.set_ylabel('z of "desperate"')
    at.legend(frameon=False, fontsize=8, ncols=len(arms))
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout(rect=(0, 0, 1, 0.93 if figure.legends else 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
