"""The evidence for a set of vectors, gathered in one go.

Shapes: L layers, N texts, D width, K emotions, S sources (words, embeddings and the layers), B draws.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg import checks, ranks
from emoreg.corpus import LabelledText
from emoreg.extraction import components, token_moments, tokenise, unit, without
from emoreg.validation import baselines, causal, geometry, scores
from emoreg.validation.severity import Rise, rises
from emoreg.validation.texts import Texts, directions_from, gather
from emoreg.validation.verdict import verdict
from emoreg.vectors import EmotionVectors

PROMPT_TOKENS, WRITTEN_TEXTS = 8, 64
NEIGHBOURS = 3
"""How many of the nearest emotions are an emotion's hard negatives."""


def validate(
    vectors: EmotionVectors,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Sequence[LabelledText],
    neutral: Sequence[str],
    *,
    severity: Sequence[Rise] = (),
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
    total = min(len(corpus), max_texts) + len(neutral) + sum(len(rise.stakes) + len(rise.twin) for rise in severity)
    with tqdm(total=total, desc="validate", unit="text", disable=not progress or ranks.rank() > 0) as bar:
        texts = gather(model, tokenizer, corpus, emotions, layers, from_token=settings["from_token"], folds=folds,
                       tokens_per_batch=tokens_per_batch, max_texts=max_texts, seed=seed, bar=bar)  # fmt: skip
        noise_L = [torch.empty(0, vectors.width)] * len(layers)
        if settings["denoise_share"]:
            moments = token_moments(model, layers, tokenise(model, tokenizer, neutral), tokens_per_batch, bar)
            noise_L = [components(of_DD[:-1, :-1], settings["denoise_share"]) for of_DD in moments.covariance]

        def fit(rows_LND: Tensor, emotion_N: Tensor) -> Tensor:
            return unit(without(directions_from(rows_LND, emotion_N, emotions, settings["estimator"]), noise_L))

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
        found |= _separation(texts, fit, stored_LKD, opposites, draws, seed)
        null_BK = scores.null_maxima(
            without(texts.rows, noise_L), texts.emotion, texts.fold, texts.group, permutations, seed
        )
        found["p"] = (1 + (null_BK[:, None] >= found["auc"]).sum(0)) / (1 + permutations)
        found |= _stability(texts, fit, found["best_row"], seed)
        if severity:
            stakes_LK, twin_LK = rises(model, tokenizer, severity, layers, stored_LKD,
                                       tokens_per_batch=tokens_per_batch, bar=bar)  # fmt: skip
            found["severity"] = {"stakes": stakes_LK, "twin": twin_LK, "templates": len(severity)}
    best_layer = found["best_layer"] = layers[found.pop("best_row")]
    best_KD = stored_LKD[layers.index(best_layer)]
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
    evidence = _plain(found)
    evidence["verdict"] = {emotion: verdict(evidence, emotion) for emotion in emotions}
    return replace(vectors, validation=evidence)


def _prompts(vectors: EmotionVectors) -> Int[Tensor, "N P"]:
    """The beginnings of the reference texts, as far as the shortest of them goes, some times over."""
    length = min(PROMPT_TOKENS, int(vectors.reference_mask.sum(1).min()))
    times = -(-WRITTEN_TEXTS // len(vectors.reference_ids))
    begin = vectors.reference_mask.int().argmax(1) - 1  # the token before the first that counts: BOS, or the first
    prompts = [ids[at : at + length] for ids, at in zip(vectors.reference_ids, begin.tolist(), strict=True)]
    return torch.stack(prompts * times)


def _separation(
    texts: Texts,
    fit: scores.Fit,
    stored_LKD: Float[Tensor, "L K D"],
    opposites: tuple[str, str],
    draws: int,
    seed: int,
) -> dict[str, Any]:
    """How well each emotion's texts are told from the others', by layers and by what must be beaten."""
    of_layers_LNK = scores.held_out_readings(texts.rows, texts.emotion, texts.fold, fit)
    lexical_2NK = torch.stack([baselines.word_readings(texts), baselines.embedding_readings(texts)])
    readings_SNK = torch.cat([lexical_2NK, of_layers_LNK])
    auc_BSK = scores.auc_draws(readings_SNK, texts.emotion, texts.fold, texts.group, draws, seed)
    lexical_BK, layers_BLK = auc_BSK[:, :2].max(1).values, auc_BSK[:, 2:]
    gain_BLK = layers_BLK - lexical_BK[:, None]
    auc_LK = layers_BLK[0]
    stored_LNK = texts.rows @ stored_LKD.mT
    one_fold_N = torch.zeros_like(texts.fold)
    best_row = int(auc_LK.mean(1).argmax())
    neighbours_KJ = _neighbours(stored_LKD[best_row])
    low, high = (torch.tensor(q) for q in (0.025, 0.975))
    found: dict[str, Any] = {
        "auc": auc_LK,
        "auc_low": layers_BLK.quantile(low, dim=0),
        "auc_high": layers_BLK.quantile(high, dim=0),
        "random": baselines.random_auc(texts, seed),
        "gain": gain_BLK[0],
        "gain_low": gain_BLK.quantile(low, dim=0),
        "stored": scores.auc_draws(stored_LNK, texts.emotion, one_fold_N, texts.group, 0, seed)[0],
        "neighbours": [[texts.emotions[j] for j in row] for row in neighbours_KJ.tolist()],
        "hard": _hard(of_layers_LNK, texts, neighbours_KJ),
        "crosstalk": geometry.crosstalk(of_layers_LNK[best_row], texts),
        "best_row": best_row,
    }
    for n, name in enumerate(("words", "embeddings")):
        found[name] = {
            "auc": auc_BSK[0, n],
            "low": auc_BSK[:, n].quantile(low, dim=0),
            "high": auc_BSK[:, n].quantile(high, dim=0),
        }
    if set(opposites) <= set(texts.emotions):
        first, second = (texts.emotions.index(name) for name in opposites)
        difference_SN = readings_SNK[..., first] - readings_SNK[..., second]
        auc_S = scores.pair_auc(difference_SN, texts.emotion == first, texts.emotion == second, texts.fold)
        found["opposites"] = {
            "pair": list(opposites), "words": auc_S[0], "embeddings": auc_S[1], "layers": auc_S[2:],
        }  # fmt: skip
    return found


def _stability(texts: Texts, fit: scores.Fit, best_row: int, seed: int) -> dict[str, Any]:
    """How much of a direction is these texts' doing, and how much length, topic and person."""
    half_LK = geometry.split_half(texts, fit, seed)
    per_half = len(texts.corpus) / len(texts.emotions) / 2
    confounds, cosine_LK = geometry.residualised(texts, fit)
    return {
        "half": half_LK,
        "reliability": geometry.reliability(half_LK),
        "enough": geometry.texts_enough(half_LK[best_row], per_half),
        "confounds": list(confounds),
        "residualised": cosine_LK,
    }


def _neighbours(directions_KD: Float[Tensor, "K D"]) -> Tensor:
    near_KK = geometry.cosines(directions_KD) - 3 * torch.eye(len(directions_KD))
    return near_KK.topk(min(NEIGHBOURS, len(directions_KD) - 1), dim=-1).indices


def _hard(readings_LNK: Float[Tensor, "L N K"], texts: Texts, neighbours_KJ: Tensor) -> Float[Tensor, "L K"]:
    """Mean AUC of each emotion against its neighbours, one by one, along its own direction."""
    found = []
    for k, near in enumerate(neighbours_KJ.tolist()):
        against = [
            scores.pair_auc(readings_LNK[..., k], texts.emotion == k, texts.emotion == j, texts.fold) for j in near
        ]
        found.append(torch.stack(against).mean(0))
    return torch.stack(found, dim=-1)


def _plain(value: Any) -> Any:
    """In JSON's types; four decimals are more than the texts can tell."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return round(value, 4) if isinstance(value, float) else value
