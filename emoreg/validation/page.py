"""The evidence as a page of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from emoreg.vectors import EmotionVectors


def page(vectors: EmotionVectors, emotions: Sequence[str] = ("desperate", "calm")) -> str:
    """What `validate` found: all emotions at the best layer, and these few at every layer.

    Raises:
        ValueError: for vectors that have not been validated, or an emotion that they do not have.
    """
    found = vectors.validation
    if found is None:
        raise ValueError("these vectors have not been validated; run `emoreg validate` on them first")
    for emotion in emotions:
        vectors.index(emotion)
    named = [emotion for emotion in emotions if emotion in found["emotions"]]
    parts = [_head(found), _verdicts(found, named), _legend(found), *(_by_layer(found, emotion) for emotion in named)]
    parts += [_all_emotions(found), _opposites(found), _severity(found, named), _dose(found), _plane(found)]
    parts += [_confounds(found), _matrix(found, "cosine", "Cosine of the directions"), _crosstalk(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(found: Mapping[str, Any]) -> str:
    settings = found["settings"]
    groups = f"{found['groups']} scenarios" if found["grouped"] else "each text a group of its own: no scenarios given"
    return (
        f"# Evidence for the emotion vectors of `{found['model']}`\n\n"
        f"{len(found['emotions'])} emotions, {found['texts']} texts ({groups}), {found['folds']} folds, never a group "
        f"in two of them; {settings['estimator'].replace('_', ' ')} of text means from token {settings['from_token']} "
        f"on, {settings['denoise_share']:.0%} of neutral variance taken out; {found['permutations']} permutations; "
        f"seed {found['seed']}. AUC: .5 is chance, 1 perfect; an emotion against all others unless said otherwise."
    )


def _verdicts(found: Mapping[str, Any], emotions: Sequence[str]) -> str:
    good = [emotion for emotion, verdict in found["verdict"].items() if verdict["layers"]]
    lines = ["## Verdict", "", f"{len(good)} of {len(found['verdict'])} emotions have layers to be trusted.", ""]
    if found["unjudged"]:
        lines += [f"Not judged, for want of texts: {', '.join(found['unjudged'])}.", ""]
    for emotion in emotions:
        verdict = found["verdict"][emotion]
        band = f"layers {_band(verdict['layers'])}" if verdict["layers"] else "none"
        lines.append(f"* **{emotion}: {band}**: {verdict['why']}.")
    return "\n".join(lines)


def _legend(found: Mapping[str, Any]) -> str:
    return (
        "In the tables: *p* is of shuffled labels, corrected for the choice among layers; *random*, what 95 % of "
        "random directions stay below; *lexical share*, how much of what is above chance the better of words and "
        "embeddings has already; *neighbours*, the mean AUC against the emotions with the nearest directions; "
        "*reliability*, the expected cosine with the direction of infinitely many texts; *residualised*, the cosine "
        f"after {_regressed_out(found)}; *as stored*, the stored directions on these texts, which they have seen if "
        "they were made from them."
    )


def _by_layer(found: Mapping[str, Any], emotion: str) -> str:
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


def _all_emotions(found: Mapping[str, Any]) -> str:
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
            _band(found["verdict"][emotion]["layers"]) or "none",
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


def _opposites(found: Mapping[str, Any]) -> str:
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


def _severity(found: Mapping[str, Any], emotions: Sequence[str]) -> str:
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


def _dose(found: Mapping[str, Any]) -> str:
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


def _plane(found: Mapping[str, Any]) -> str:
    plane = found["plane"]
    if not plane:
        return ""
    return (
        "## Valence and arousal\n\nThe directions' first two principal components hold "
        f"{plane['share'][0]:.0%} and {plane['share'][1]:.0%} of their variance; over {plane['rated']} rated emotions "
        f"the first has |r| {plane['valence_r']:.2f} with valence, the second {plane['arousal_r']:.2f} with arousal."
    )


def _confounds(found: Mapping[str, Any]) -> str:
    n = found["layers"].index(found["best_layer"])
    worst = min(range(len(found["emotions"])), key=lambda k: found["residualised"][n][k])
    mean = sum(found["residualised"][n]) / len(found["emotions"])
    return (
        f"## Confounds\n\nAfter {_regressed_out(found)} of the texts, directions at layer "
        f"{found['best_layer']} have a mean cosine of {mean:.2f} with what they were; the lowest is "
        f"{found['emotions'][worst]}'s, {found['residualised'][n][worst]:.2f}."
    )


def _regressed_out(found: Mapping[str, Any]) -> str:
    *others, last = found["confounds"]
    return f"{', '.join(others)} and {last} are regressed out" if others else f"{last} is regressed out"


def _crosstalk(found: Mapping[str, Any]) -> str:
    text = _matrix(found, "crosstalk", "Cross-talk")
    return (
        text and text + "\n\nMean held-out reading of a row's texts along a column's direction, in standard deviations."
    )


def _matrix(found: Mapping[str, Any], name: str, title: str) -> str:
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


def _band(layers: Sequence[int]) -> str:
    if not layers:
        return ""
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
