"""Directions from labelled texts, each forwarded once; not calibrated yet."""

import random
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from emoreg.corpus import LabelledText, check_corpus
from emoreg.extraction.estimators import NEED_PRODUCTS, NEED_SAMPLE, Sample, fit, shifts
from emoreg.extraction.shards import Shards
from emoreg.extraction.stream import Stream, streaming
from emoreg.extraction.texts import text_moments
from emoreg.extraction.tokens import Tokens, tokenise
from emoreg.vectors import Directions, text_hash

SAMPLE_PER_EMOTION = 64
"""Texts of each emotion whose own vectors are kept for the estimators that sums do not suffice for."""


def fit_directions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Sequence[LabelledText],
    *,
    estimator: str = "difference_of_means",
    rank: int = 1,
    layers: Sequence[int] | None = None,
    from_token: int = 50,
    tokens_per_batch: int = 2048,
    progress: bool = True,
) -> Directions:
    """Directions alone: without neutral texts, and so without denoising and calibration. See `extract`, for both.

    Raises:
        ValueError: as `extract` does.
    """
    check_corpus(corpus)
    with streaming(model, layers, tokens_per_batch, title="directions", total=len(corpus), progress=progress) as stream:
        texts = tokenise(model, tokenizer, [item.text for item in corpus], from_token)
        return directions_of(stream, texts, corpus, estimator, rank, from_token)


def directions_of(
    stream: Stream,
    texts: Sequence[Tokens],
    corpus: Sequence[LabelledText],
    estimator: str,
    rank: int,
    from_token: int,
    shards: Shards | None = None,
) -> Directions:
    """The same from texts that have been cut into tokens, one for each of ``corpus``."""
    emotions = check_corpus(corpus)
    groups = groups_of(corpus, emotions, estimator)
    n_groups, n_emotions = max(groups) + 1, len(emotions)
    moments = text_moments(stream, texts, groups, n_groups, products=estimator in NEED_PRODUCTS, shards=shards)
    member_KG, sample = torch.zeros(n_emotions, n_groups, dtype=torch.bool), None
    for item, group in zip(corpus, groups, strict=True):
        member_KG[emotions.index(item.emotion), group] = True
    if n_groups > n_emotions:
        sample = Sample(moments.sums[:, n_emotions:], member_KG.int().argmax(0)[n_emotions:])
    moments = moments.regroup(member_KG)
    counts = {emotion: int(count) for emotion, count in zip(emotions, moments.count.tolist(), strict=True)}
    directions_LKRD = fit(estimator, moments, emotions, sample, rank)
    return Directions(
        emotions=tuple(name if r == 0 else f"{name}.{r + 1}" for name in emotions for r in range(rank)),
        layers=stream.layers,
        directions=directions_LKRD.flatten(1, 2),
        shift=shifts(moments, emotions).repeat_interleave(rank, dim=1),
        method=estimator.replace("_", " ") + (f" of rank {rank}" if rank > 1 else ""),
        token_rule=f"mean from token {from_token} on, or of all tokens of a shorter text",
        corpus_hash=text_hash([part for item in corpus for part in (item.emotion, item.text)]),
        counts=counts,
        settings={"estimator": estimator, "rank": rank, "from_token": from_token},
    )


def groups_of(corpus: Sequence[LabelledText], emotions: Sequence[str], estimator: str) -> list[int]:
    """Into which group of sums each text goes: its emotion's, or one of its own where its vector is to be kept."""
    groups = [emotions.index(item.emotion) for item in corpus]
    if estimator in NEED_SAMPLE:
        kept, n_groups = dict.fromkeys(range(len(emotions)), 0), len(emotions)
        for n in random.Random(0).sample(range(len(corpus)), len(corpus)):  # any order but the corpus's own
            emotion = groups[n]
            if kept[emotion] < SAMPLE_PER_EMOTION:
                kept[emotion] += 1
                groups[n], n_groups = n_groups, n_groups + 1
    return groups
