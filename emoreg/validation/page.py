"""The evidence as a page of Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from emoreg.validation.sections import (
    all_emotions,
    band,
    by_layer,
    confounds,
    crosstalk,
    dose,
    matrix,
    opposites,
    plane,
    regressed_out,
    severity,
)
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
    parts = [_head(found), _verdicts(found, named), _legend(found), *(by_layer(found, emotion) for emotion in named)]
    parts += [all_emotions(found), opposites(found), severity(found, named), dose(found), plane(found)]
    parts += [confounds(found), matrix(found, "cosine", "Cosine of the directions"), crosstalk(found)]
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
        layers = f"layers {band(verdict['layers'])}" if verdict["layers"] else "none"
        lines.append(f"* **{emotion}: {layers}**: {verdict['why']}.")
    return "\n".join(lines)


def _legend(found: Mapping[str, Any]) -> str:
    return (
        "In the tables: *p* is of shuffled labels, corrected for the choice among layers; *random*, what 95 % of "
        "random directions stay below; *lexical share*, how much of what is above chance the better of words and "
        "embeddings has already; *neighbours*, the mean AUC against the emotions with the nearest directions; "
        "*reliability*, the expected cosine with the direction of infinitely many texts; *residualised*, the cosine "
        f"after {regressed_out(found)}; *as stored*, the stored directions on these texts, which they have seen if "
        "they were made from them."
    )
