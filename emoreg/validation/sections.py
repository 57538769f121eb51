"""The parts of the page of evidence: each a heading, a sentence and a table; empty where there is nothing to say."""

from collections.abc import Mapping, Sequence
from typing import Any


def by_layer(found: Mapping[str, Any], emotion: str) -> str:
    """One emotion at every layer."""
    k = found["emotions"].index(emotion)
    rows = [
        [
            layer,
            _interval(found["auc"][n][k], found["auc_low"][n][k], found["auc_high"][n][k]),
            f"{found['p'][n][k]:.3f}",
            _short(found["random"][n][k]),
            f"{found['gain'][n][k]:+.2f} (from {found['gain_low'][n][k]:+.2f})",
            _share(found, n, k),
            _short(found["hard"][n][k]),
            _short(found["reliability"][n][k]),
            _short(found["residualised"][n][k]),
            _short(found["stored"][n][k]),
        ]
        for n, layer in enumerate(found["layers"])
    ]
    head = ["layer", "held-out AUC", "p", "random", "gain over lexical", "lexical share", "neighbours", "reliability",
            "residualised", "as stored"]  # fmt: skip
    words, embedded = (
        _interval(*(found[name][part][k] for part in ("auc", "low", "high"))) for name in ("words", "embeddings")
    )
    return (
        f"## {emotion}\n\nA bag of words alone: AUC {words}; embeddings alone: {embedded}. Its neighbours: "
        f"{', '.join(found['neighbours'][k])}.\n\n{_table(head, rows)}"
    )


def all_emotions(found: Mapping[str, Any]) -> str:
    """Every emotion at the best layer."""
    n = found["layers"].index(found["best_layer"])
    rows = [
        [
            emotion,
            _interval(found["auc"][n][k], found["auc_low"][n][k], found["auc_high"][n][k]),
            f"{found['p'][n][k]:.3f}",
            _short(found["words"]["auc"][k]),
            _short(found["embeddings"]["auc"][k]),
            _short(found["hard"][n][k]),
            _short(found["reliability"][n][k]),
            f"{found['enough'][k]:.0f}",
            band(found["verdict"][emotion]["layers"]) or "none",
            " ".join(f"`{token}`" for token in found["lens"].get(emotion, [])[:5] if token.strip("`")),
        ]
        for k, emotion in enumerate(found["emotions"])
    ]
    head = ["emotion", "held-out AUC", "p", "words", "embeddings", "neighbours", "reliability", "enough texts",
            "layers", "logit lens"]  # fmt: skip
    return (
        f"## All emotions at layer {found['best_layer']}\n\nThe layer with the best mean AUC. Enough texts: of each "
        f"emotion, for a cosine of .95 with the direction of infinitely many.\n\n{_table(head, rows)}"
    )


def opposites(found: Mapping[str, Any]) -> str:
    """Two emotions told apart from each other."""
    pair = found.get("opposites")
    if not pair:
        return ""
    head = ["words", "embeddings", *(f"layer {layer}" for layer in found["layers"])]
    row = [_short(one) for one in (pair["words"], pair["embeddings"], *pair["layers"])]
    lexical, best = max(pair["words"], pair["embeddings"]), max(pair["layers"])
    share = (lexical - 0.5) / max(best - 0.5, 1e-9)
    return (
        f"## {pair['pair'][0]} against {pair['pair'][1]}\n\nHeld-out AUC along the difference of the two directions. "
        f"What is lexical has {share:.0%} of what the best layer has above chance.\n\n{_table(head, [row])}"
    )


def severity(found: Mapping[str, Any], emotions: Sequence[str]) -> str:
    """Rising stakes beside rising numbers."""
    if "severity" not in found:
        return ""
    rows = []
    for emotion in emotions:
        k = found["emotions"].index(emotion)
        for n, layer in enumerate(found["layers"]):
            rises = [found["severity"][side][n][k] for side in ("stakes", "twin")]
            rows.append([emotion, layer, *(f"{one:+.2f}" for one in rises), f"{rises[0] - rises[1]:+.2f}"])
    return (
        f"## Stakes or numbers\n\nSpearman's rho of the reading with a number in {found['severity']['templates']} "
        "sentences, where stakes rise with it and where nothing does.\n\n"
        + _table(["emotion", "layer", "stakes", "number only", "difference"], rows)
    )


def dose(found: Mapping[str, Any]) -> str:
    """What steering does to what the model writes."""
    if not found["dose"]:
        return ""
    doses = next(iter(found["dose"].values()))["doses"]
    rows = [
        [emotion, *(f"{effect:+.2f}" for effect in one["effects"]), f"{one['rho']:+.2f}", str(one["monotone"]).lower()]
        for emotion, one in found["dose"].items()
    ]
    head = ["emotion", *(f"{dose:+g}" for dose in doses), "rho", "monotone"]
    return (
        "## Dose and response\n\nThe model writes on under steering, in shares of the residual norm; then it reads, "
        f"without steering, what it wrote: mean z at layer {found['best_layer']}.\n\n{_table(head, rows)}"
    )


def plane(found: Mapping[str, Any]) -> str:
    """The directions' first two components."""
    axes = found["plane"]
    if not axes:
        return ""
    return (
        "## Valence and arousal\n\nThe directions' first two principal components hold "
        f"{axes['share'][0]:.0%} and {axes['share'][1]:.0%} of their variance; over {axes['rated']} rated emotions "
        f"the first has |r| {axes['valence_r']:.2f} with valence, the second {axes['arousal_r']:.2f} with arousal."
    )


def confounds(found: Mapping[str, Any]) -> str:
    """What is left of directions without length and traits."""
    n = found["layers"].index(found["best_layer"])
    worst = min(range(len(found["emotions"])), key=lambda k: found["residualised"][n][k])
    mean = sum(found["residualised"][n]) / len(found["emotions"])
    return (
        f"## Confounds\n\nAfter {regressed_out(found)} of the texts, directions at layer "
        f"{found['best_layer']} have a mean cosine of {mean:.2f} with what they were; the lowest is "
        f"{found['emotions'][worst]}'s, {found['residualised'][n][worst]:.2f}."
    )


def regressed_out(found: Mapping[str, Any]) -> str:
    """The confounds, as a clause."""
    *others, last = found["confounds"]
    return f"{', '.join(others)} and {last} are regressed out" if others else f"{last} is regressed out"


def crosstalk(found: Mapping[str, Any]) -> str:
    """How texts of each emotion read along every direction."""
    text = matrix(found, "crosstalk", "Cross-talk")
    return (
        text and text + "\n\nMean held-out reading of a row's texts along a column's direction, in standard deviations."
    )


def matrix(found: Mapping[str, Any], name: str, title: str) -> str:
    """A figure for every two emotions."""
    emotions = found["emotions"]
    if len(emotions) > 30:  # a table that nobody reads; the figures are in the file
        return ""
    rows = [[emotion, *(f"{one:.1f}" for one in found[name][k])] for k, emotion in enumerate(emotions)]
    return f"## {title} at layer {found['best_layer']}\n\n{_table(['', *emotions], rows)}"


def _table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines)


def _share(found: Mapping[str, Any], n: int, k: int) -> str:
    lexical = max(found[name]["auc"][k] for name in ("words", "embeddings")) - 0.5
    here = found["auc"][n][k] - 0.5
    return f"{max(lexical, 0) / here:.0%}" if here > 0 else "-"


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f}-{high:.2f})"


def _short(value: float) -> str:
    return f"{value:.2f}"


def band(layers: Sequence[int]) -> str:
    """The first and the last of an unbroken run of layers; empty for none."""
    if not layers:
        return ""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
