"""Directions from labelled texts, each forwarded once; not calibrated yet.

Shapes: L layers, K emotions, N texts, D width, B batch, T positions, G groups.
"""

import logging
import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg import ranks
from emoreg.corpus import LabelledText, check_corpus
from emoreg.extraction.estimators import NEED_PRODUCTS, NEED_SAMPLE, Sample, fit, shifts
from emoreg.extraction.moments import Moments
from emoreg.extraction.shards import Shards
from emoreg.extraction.stream import Batch, stream_moments
from emoreg.extraction.tokens import Tokens, tokenise
from emoreg.model import check_layers, decoder_blocks, input_device
from emoreg.vectors import Directions, text_hash

logger = logging.getLogger(__name__)

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
    emotions = check_corpus(corpus)
    blocks = decoder_blocks(model)
    layers = check_layers(range(len(blocks)) if layers is None else layers, len(blocks))
    texts = tokenise(model, tokenizer, [item.text for item in corpus], [item.read_from for item in corpus])
    with tqdm(total=len(texts), desc="directions", unit="text", disable=not progress or ranks.rank() > 0) as bar:
        return directions_of(model, layers, texts, corpus, emotions, estimator=estimator, rank=rank,
                             from_token=from_token, tokens_per_batch=tokens_per_batch, bar=bar)  # fmt: skip


def directions_of(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    corpus: Sequence[LabelledText],
    emotions: Sequence[str],
    *,
    estimator: str,
    rank: int,
    from_token: int,
    tokens_per_batch: int,
    bar: tqdm,
    shards: Shards | None = None,
) -> Directions:
    """The same from texts that have been cut into tokens, one for each of ``corpus``."""
    warn_short(texts, from_token)
    groups = groups_of(corpus, emotions, estimator)
    n_groups, n_emotions = max(groups) + 1, len(emotions)
    moments = text_moments(
        model,
        layers,
        texts,
        groups,
        n_groups,
        products=estimator in NEED_PRODUCTS,
        from_token=from_token,
        tokens_per_batch=tokens_per_batch,
        bar=bar,
        shards=shards,
    )
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
        layers=tuple(layers),
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


def text_moments(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    groups: Sequence[int],
    n_groups: int,
    *,
    products: bool = False,
    from_token: int,
    tokens_per_batch: int,
    bar: tqdm,
    shards: Shards | None = None,
) -> Moments:
    """Moments of text vectors: one row per text, into the group that it is given."""
    group_of_text = torch.tensor(groups, device=input_device(model))
    each_G = torch.arange(n_groups, device=input_device(model))

    def rows(_layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.text_means(hidden_BTD), group_of_text[batch.index, None] == each_G

    return stream_moments(model, layers, texts, rows, n_groups, products=products, from_token=from_token,
                          tokens_per_batch=tokens_per_batch, bar=bar, shards=shards)  # fmt: skip


def warn_short(texts: Sequence[Tokens], from_token: int) -> None:
    """Say how many texts have no n-th token.

    Raises:
        ValueError: if n is not a token number.
    """
    if from_token < 1:
        raise ValueError(f"from_token counts from 1, got {from_token}")
    n_short = sum(text.end - text.begin < from_token for text in texts)
    if n_short:
        logger.warning(
            "%d of %d texts have fewer than %d tokens; all of theirs are read", n_short, len(texts), from_token
        )
