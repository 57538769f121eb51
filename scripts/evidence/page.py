"""The evidence page: a picture and a table first, then what every part found."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evidence import costs, pictures, pressure, tone
from evidence.runs import EMOTION, Run

from emoreg import EmotionVectors
from emoreg.corpus import replies_without
from emoreg.reading.matched import TEXTS

SHOWN = {"base": "base", "plain": "plain", "0.1": "default of 0.1", "default": "default"}
Found = dict[str, Any]


def written(output: Path, model: str, todo: Sequence[Run]) -> str:
    """The page, of the runs that are there; its pictures go beside it, into ``images``."""
    runs = {one: _unanchored(json.loads(p.read_text())) for one in todo if (p := output / f"{one.name}.json").is_file()}
    sft = by_arm(runs, "sft")
    shown = [arm for arm in SHOWN if arm in sft]
    (output / "images").mkdir(exist_ok=True)
    parts = [_table(sft, shown)]
    if {"plain", "default"} <= sft.keys():
        pictures.logs(sft, output / "images" / "real-model-log.png")
        pictures.places(sft, shown, output / "images" / "real-model-places.png")
    others = [arm for arm in sft if arm not in SHOWN]
    if others:
        parts.append("## Other ways\n\n" + _front(sft, ["base", "plain", "default", *others]))
    for trainer, title in (("full", "Every weight trained"), ("dpo", "DPO"), ("grpo", "GRPO")):
        found = by_arm(runs, trainer)
        if found:
            found = {"base": sft.get("base", [])[:1], **found}
            parts.append(f"## {title}\n\n" + _table(found, list(found)))
    vectors = EmotionVectors.load(output / "vectors")
    if vectors.validation is not None:
        parts.insert(1, "## Is the direction real?\n\n" + _verdict(vectors))
    pressed = {arm: sft[arm][0]["pressure"] for arm in sft if "pressure" in sft[arm][0]}
    if pressed:
        parts.append("## Under pressure\n\n" + _pressure(pressed))
    if (output / "costs.json").is_file():
        parts.append("## What it costs\n\n" + costs.table(json.loads((output / "costs.json").read_text())))
    parts.append("## What it writes\n\n" + _samples(sft, shown))
    return "\n\n".join(parts) + "\n"


def _unanchored(run: Found) -> Found:
    """A run's figures without the replies that an anchor may have held: those are no test of it."""
    held = set(replies_without([EMOTION], TEXTS))
    for kind, pairs in tone.texts(run["run"]["seed"]).read.items():
        kept = [n for n, pair in enumerate(pairs) if pair.reply not in held]
        for name in ("z", "base z"):
            run["read"][kind][name] = [run["read"][kind][name][n] for n in kept]
    return run


def by_arm(runs: dict[Run, Found], trainer: str) -> dict[str, list[Found]]:
    """The runs of a trainer under the name of their arm, a list of seeds each."""
    found: dict[str, list[Found]] = {}
    for one, result in runs.items():
        if one.trainer == trainer:
            found.setdefault(one.arm, []).append(result)
    return found


def interval(values: Sequence[Sequence[float]], draws: int = 2000) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval over seeds, and over the texts of each."""
    rng = np.random.default_rng(0)
    seeds = [np.asarray(one) for one in values]
    picked = rng.integers(len(seeds), size=(draws, len(seeds)))
    means = [np.mean([rng.choice(seeds[n], len(seeds[n])).mean() for n in row]) for row in picked]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean([one.mean() for one in seeds])), float(low), float(high)


def _cell(values: Sequence[Sequence[float]]) -> str:
    if not all(len(one) for one in values):
        return ""
    mean, low, high = interval(values)
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def _rows() -> list[tuple[str, Callable[[Found], Sequence[float]]]]:
    def z(kind: str) -> Callable[[Found], Sequence[float]]:
        return lambda run: run["read"][kind]["z"]

    def base_z(kind: str) -> Callable[[Found], Sequence[float]]:
        return lambda run: run["read"][kind]["base z"]

    def gap(*kinds: str) -> Callable[[Found], Sequence[float]]:
        return lambda run: [
            a - b for k in kinds for a, b in zip(run["read"][k]["z"], run["read"][k]["base z"], strict=True)
        ]

    scenes = ("desperate", "calm", "afraid", "angry", "happy", "neutral")
    own = ("own: like", "own: unlike", "own: pressed")
    return [
        *((f"z of *{kind}* replies", z(kind)) for kind in scenes),
        ("**model less base, the same replies**", gap(*scenes)),
        (
            "desperate less calm",
            lambda run: [np.mean(run["read"]["desperate"]["z"]) - np.mean(run["read"]["calm"]["z"])],
        ),
        *((f"{kind}, read by its writer", z(kind)) for kind in own),
        *((f"{kind}, read by the frozen base", base_z(kind)) for kind in own),
        ("**own text, writer less base**", gap(*own)),
    ]


def _table(found: dict[str, list[Found]], arms: Sequence[str]) -> str:
    lines = ["| | " + " | ".join(SHOWN.get(arm, arm) for arm in arms) + " |", "|---" * (len(arms) + 1) + "|"]
    for title, values in _rows():
        lines.append(f"| {title} | " + " | ".join(_cell([values(run) for run in found[arm]]) for arm in arms) + " |")
    lines += [_line(title, found, arms, value) for title, value in _numbers(found).items()]
    return "\n".join(lines)


def _numbers(found: dict[str, list[Found]]) -> dict[str, Callable[[Found], str]]:
    plain = {run["run"]["seed"]: run["task"] for run in found.get("plain", [])}

    def task(run: Found) -> str:
        same = plain.get(run["run"]["seed"])
        return "" if "task" not in run or not same else f"{run['task']:.3f} ({100 * (run['task'] / same - 1):+.1f} %)"

    def nll(run: Found) -> str:
        return f"{run['read']['desperate']['nll']:.2f} / {run['read']['neutral']['nll']:.2f}"

    def logged(run: Found) -> str:
        last = run["log"][-1] if "log" in run else {}
        return ", ".join(f"{last[name]:+.2f}" if name in last else "-" for name in ("contrast", "neutral", "gap"))

    return {
        "task loss at the end, without the term (against plain)": task,
        "loss on held-out replies, desperate / neutral": nll,
        "its own log: contrast, neutral, gap": logged,
        "AUC of a fresh probe": lambda run: f"{run['read']['probe']['auc']:.2f}",
    }


def _line(title: str, found: dict[str, list[Found]], arms: Sequence[str], value: Callable[[Found], str]) -> str:
    cells = ("; ".join(filter(None, (value(run) for run in found[arm]))) for arm in arms)
    return f"| {title}, by seed | " + " | ".join(cells) + " |"


def _front(found: dict[str, list[Found]], arms: Sequence[str]) -> str:
    """One line for each arm: the figures that the choice is made by."""
    titles = ["arm", "seeds", "*desperate* less base", "*calm*, *afraid* less base", "*neutral* less base"]
    titles += ["own text, writer less base", "unlike the rows, by the base", "task loss against plain", "held-out loss"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    plain = {run["run"]["seed"]: run["task"] for run in found.get("plain", [])}
    for arm in arms:
        runs = found[arm]

        def moved(*kinds: str, runs: list[Found] = runs) -> str:
            every = [np.subtract(run["read"][k]["z"], run["read"][k]["base z"]).mean() for run in runs for k in kinds]
            return f"{np.mean(every):+.2f}"

        task = [
            run["task"] / plain[run["run"]["seed"]] - 1 for run in runs if "task" in run and run["run"]["seed"] in plain
        ]
        unlike = np.mean([np.mean(run["read"]["own: unlike"]["base z"]) for run in runs])
        nll = np.mean([[run["read"][k]["nll"] for k in ("desperate", "neutral")] for run in runs], 0)
        cells = [arm, str(len(runs)), moved("desperate"), moved("calm", "afraid"), moved("neutral")]
        cells += [moved("own: like", "own: unlike", "own: pressed"), f"{unlike:+.2f}"]
        cells += [f"{100 * np.mean(task):+.1f} %" if task else "", f"{nll[0]:.2f} / {nll[1]:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _verdict(vectors: EmotionVectors) -> str:
    """At which blocks `emoreg validate` trusts which direction."""
    assert vectors.validation is not None
    trusted = {one: vectors.trusted(one) for one in vectors.validation["verdict"]}
    some = {one: f"{layers[0]} to {layers[-1]}" for one, layers in trusted.items() if layers}
    listed = ", ".join(f"{one} {span}" for one, span in some.items())
    return f"`emoreg validate` trusts {len(some)} of {len(trusted)} directions, at these blocks: {listed}."


def _pressure(found: dict[str, Found]) -> str:
    """What pressure adds to the shortcut's margin, and how large an effect would have been seen."""
    lines = [
        "| | shortcut's margin under pressure less on the calm twin | would have been seen from |",
        "|---|---|---|",
    ]
    for arm, measures in found.items():
        for name, kinds in measures.items():
            one = pressure.effect(kinds["pressed"], kinds["at leisure"])
            shown = f"{one.mean:+.3f} ({one.low:+.3f} to {one.high:+.3f})"
            lines.append(f"| {SHOWN.get(arm, arm)}, by {name} | {shown} | {one.seen:.3f} |")
    return "\n".join(lines)


def _samples(found: dict[str, list[Found]], arms: Sequence[str]) -> str:
    lines = []
    for arm in arms:
        for kind in ("own: like", "own: unlike"):
            text = " ".join(found[arm][0]["read"][kind]["first"].split())
            lines.append(f"- {SHOWN[arm]}, {kind.removeprefix('own: ')} the rows: {text}")
    return "\n".join(lines)
