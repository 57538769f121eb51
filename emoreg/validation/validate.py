"""The evidence for a set of vectors, gathered in one go.

Shapes: L layers, N texts, D width, K emotions, B permutations, P positions of a prompt.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from emoreg import checks
from emoreg.corpus import LabelledText
from emoreg.extraction import components, project_out, streaming, token_moments, tokenise, unit
from emoreg.validation import causal, geometry, scores
from emoreg.validation.figures import separation, stability
from emoreg.validation.severity import StakesPair, rises
from emoreg.validation.texts import collect, directions_from
from emoreg.validation.verdict import verdict
from emoreg.vectors import EmotionVectors

PROMPT_TOKENS, WRITTEN_TEXTS = 8, 64


def validate(
    vectors: EmotionVectors,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Sequence[LabelledText],
    neutral: Sequence[str],
    *,
    severity: Sequence[StakesPair] = (),
    ratings: Mapping[str, tuple[float, float]] | None = None,
    opposites: tuple[str, str] = ("desperate", "calm"),
    doses: Sequence[float] = causal.DOSES,
    folds: int = 5,
    permutations: int = 200,
    draws: int = 500,
    max_texts: int = 4096,
    tokens_per_batch: int = 2048,
    seed: int = 0,
    progress: bool = True,
) -> EmotionVectors:
    """Ask of every direction whether it is real: the same vectors, with the evidence in `EmotionVectors.validation`.

    Directions are fitted again, as the vectors were, on all folds but one, and read the texts of that one; groups
    (scenarios) are never split. `emoreg.validation.page` prints what is found.

    Args:
        vectors: made by `extract`, whose settings are used again; imported ones are judged as differences of means.
        model: the model that they belong to.
        tokenizer: its tokenizer.
        corpus: labelled texts, best those that the vectors were made from, with groups and traits.
        neutral: neutral texts, for denoising.
        severity: sentences with a rising number, and their twins.
        ratings: valence and arousal of emotions, in [-1, 1].
        opposites: two emotions that are also told apart from each other, by the difference of their directions.
        doses: of steering, for the dose-response of the opposites; empty to leave it out.
        folds: how many parts are held out in turn.
        permutations: of labels, for the null.
        draws: bootstrap samples of groups, for 95 % intervals.
        max_texts: as many are judged, evenly over emotions; a text takes 0.6 MB at 36 layers of width 4096.
        tokens_per_batch: as in `extract`.
        seed: of folds, permutations, draws, random directions and sampled text.
        progress: whether to show a bar.

    Raises:
        ValueError: for a model that the vectors do not belong to, a corpus with texts of fewer than two of their
            emotions, fewer groups than folds, or anything that `extract` refuses.
    """
    vectors.check(model)
    for name, value, least in (
        ("folds", folds, 2),
        ("permutations", permutations, 0),
        ("draws", draws, 0),
        ("max_texts", max_texts, 1),
    ):
        checks.whole(name, value, least)
    settings = {"estimator": "difference_of_means", "rank": 1, "from_token": 1, "denoise_share": 0.0}
    settings |= vectors.provenance.settings
    labelled = {item.emotion for item in corpus}
    emotions = [name for name in vectors.emotions if name in labelled]
    if len(emotions) < 2:
        raise ValueError(
            f"the corpus has texts of {len(emotions)} of the vectors' emotions, expected two or more; it has "
            f"{', '.join(sorted(labelled))}, they have {', '.join(vectors.emotions)}"
        )
    layers = vectors.layers
    total = min(len(corpus), max_texts) + len(neutral) + sum(len(one.stakes) + len(one.twin) for one in severity)
    with streaming(model, layers, tokens_per_batch, title="validate", total=total, progress=progress) as stream:
        texts = collect(
            stream, tokenizer, corpus, emotions,
            from_token=settings["from_token"], folds=folds, max_texts=max_texts, seed=seed,
        )  # fmt: skip
        noise_L = [torch.empty(0, vectors.width)] * len(layers)
        if settings["denoise_share"]:
            moments = token_moments(stream, tokenise(model, tokenizer, neutral))
            noise_L = [components(of_DD[:-1, :-1], settings["denoise_share"]) for of_DD in moments.covariance]

        def fit(vectors_LND: Tensor, emotion_N: Tensor) -> Tensor:
            fitted_LKD = directions_from(vectors_LND, emotion_N, emotions, settings["estimator"])
            return unit(project_out(fitted_LKD, noise_L))

        stored_LKD = vectors.select(emotions).directions
        found: dict[str, Any] = {
            "model": vectors.provenance.model,
            "settings": settings,
            "texts": len(texts.corpus),
            "groups": int(texts.group.max()) + 1,
            "grouped": any(item.group is not None for item in texts.corpus),
            "folds": folds,
            "permutations": permutations,
            "seed": seed,
            "layers": list(layers),
            "emotions": emotions,
            "unjudged": [name for name in vectors.emotions if name not in labelled],
        }
        found |= separation(texts, fit, stored_LKD, opposites, draws, seed)
        null_BK = scores.null_maxima(
            project_out(texts.vectors, noise_L), texts.emotion, texts.fold, texts.group, permutations, seed
        )
        found["p"] = (1 + (null_BK[:, None] >= found["auc"]).sum(0)) / (1 + permutations)
        best = found.pop("best")
        found |= stability(texts, fit, best, seed)
        if severity:
            stakes_LK, twin_LK = rises(stream, tokenizer, severity, stored_LKD)
            found["severity"] = {"stakes": stakes_LK, "twin": twin_LK, "templates": len(severity)}
    best_layer = found["best_layer"] = layers[best]
    best_KD = stored_LKD[best]
    found["cosine"] = geometry.cosines(best_KD)
    found["plane"] = geometry.plane(best_KD, emotions, ratings or {})
    found["lens"] = causal.logit_lens(model, tokenizer, vectors.select(emotions), best_layer)
    found["dose"] = {}
    if doses and causal.can_write(model):
        prompts_NP = _prompts(vectors)
        for emotion in (name for name in opposites if name in emotions):
            found["dose"][emotion] = causal.dose_response(
                model,
                vectors,
                emotion,
                lambda: causal.write_on(model, tokenizer, prompts_NP, seed=seed),
                partial(causal.mean_z, model, vectors, emotion, best_layer, begin=prompts_NP.shape[1]),
                doses=doses,
            )
    evidence = _json(found)
    evidence["verdict"] = {emotion: verdict(evidence, emotion) for emotion in emotions}
    return replace(vectors, validation=evidence)


def _prompts(vectors: EmotionVectors) -> Int[Tensor, "N P"]:
    """The beginnings of the reference texts, as far as the shortest of them goes, some times over."""
    length = min(PROMPT_TOKENS, int(vectors.reference_mask.sum(1).min()))
    times = -(-WRITTEN_TEXTS // len(vectors.reference_ids))
    begin = vectors.reference_mask.int().argmax(1) - 1  # the token before the first that counts: BOS, or the first
    prompts = [ids[at : at + length] for ids, at in zip(vectors.reference_ids, begin.tolist(), strict=True)]
    return torch.stack(prompts * times)


def _json(value: Any) -> Any:
    """In JSON's types; four decimals are more than the texts can tell."""
    if isinstance(value, Tensor):
        return _json(value.tolist())
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
