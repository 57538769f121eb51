"""Does a direction tell held-out texts apart?

Shapes: L layers, K emotions, D width, F folds, N texts.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg import ranks
from emoreg.corpus import LabelledText, check_corpus
from emoreg.extraction.directions import text_moments, warn_short
from emoreg.extraction.estimators import difference_of_means
from emoreg.extraction.stream import Batch, stream_moments
from emoreg.extraction.tokens import Tokens, tokenise
from emoreg.model import check_layers, decoder_blocks, input_device


def held_out_auc(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Sequence[LabelledText],
    positive: str = "desperate",
    negative: str = "calm",
    *,
    layers: Sequence[int] | None = None,
    along: Literal["difference", "positive"] = "difference",
    folds: int = 5,
    from_token: int = 50,
    tokens_per_batch: int = 2048,
    seed: int = 0,
    progress: bool = True,
) -> dict[int, float]:
    """How well directions tell one emotion's texts from another's, on texts that they were not fitted on.

    For each fold, directions are fitted as `extract` fits them, over all emotions, on the texts outside the fold; they
    then read the fold's texts of the two emotions (text mean · direction). Readings along different folds' directions
    have different zeros, so only texts of the same fold are compared: the score is the mean of the folds' AUCs,
    weighted by the pairs each compares, that is, the share of such pairs in the right order.

    A tuned model gives the AUC of directions fitted *afresh* on it, which falls only if the emotion can no longer be
    read along any such direction, not if it merely moved.

    Ranks and models are as in `extract`.

    Args:
        model: a causal language model of transformers, bare or wrapped; left as it is, training flags included.
        tokenizer: its tokenizer.
        corpus: labelled texts. Texts that share a group are held out together, across emotions; a text without a
            group is held out with its own copies only.
        positive: emotion whose texts should read higher.
        negative: emotion whose texts should read lower.
        along: what a text is read along. ``difference``: the positive direction less the negative one, the question
            whether the two can be told apart. ``positive``: the positive direction alone, the question whether that
            direction, fitted against all emotions, does it unaided; a harder one.
        layers: block numbers; all of them by default.
        folds: F.
        from_token: as in `extract`.
        tokens_per_batch: as in `extract`.
        seed: of the division into folds.
        progress: whether to show a bar, on the first rank.

    Returns:
        AUC by layer: .5 is chance, 1 is perfect.

    Raises:
        ValueError: for an emotion that the corpus does not have, fewer groups than folds, or anything that `extract`
            refuses.
    """
    emotions = check_corpus(corpus)
    for emotion in (positive, negative):
        if emotion not in emotions:
            raise ValueError(f"the corpus has no texts of {emotion!r}; it has {', '.join(emotions)}")
    blocks = decoder_blocks(model)
    layers = check_layers(range(len(blocks)) if layers is None else layers, len(blocks))
    fold_of_text = folds_of(corpus, (positive, negative), folds, seed)
    tokens = tokenise(
        model, tokenizer, [labelled.text for labelled in corpus], [labelled.read_from for labelled in corpus]
    )
    warn_short(tokens, from_token)
    judged = [n for n, labelled in enumerate(corpus) if labelled.emotion in (positive, negative)]

    disable = not progress or ranks.rank() > 0
    with tqdm(total=len(tokens) + len(judged), desc="hold out", unit="text", disable=disable) as bar:
        # One group per emotion and fold; what is outside a fold is then a union of groups.
        groups = [emotions.index(item.emotion) * folds + fold for item, fold in zip(corpus, fold_of_text, strict=True)]
        moments = text_moments(model, layers, tokens, groups, len(emotions) * folds, from_token=from_token,
                               tokens_per_batch=tokens_per_batch, bar=bar)  # fmt: skip
        directions = []
        for fold in range(folds):
            outside_KG = torch.eye(len(emotions)).repeat_interleave(folds, 1).bool()
            outside_KG[:, fold::folds] = False
            fitted_LKD = difference_of_means(moments.regroup(outside_KG), emotions)
            direction_LD = fitted_LKD[:, emotions.index(positive)]
            if along == "difference":
                direction_LD = direction_LD - fitted_LKD[:, emotions.index(negative)]
            directions.append(direction_LD)
        directions_LFD = ranks.from_first(torch.stack(directions, 1).float(), input_device(model))
        readings_LNF = _readings(
            model, layers, [tokens[n] for n in judged], directions_LFD, from_token, tokens_per_batch, bar
        )
    is_positive = [corpus[n].emotion == positive for n in judged]
    fold_N = torch.tensor([fold_of_text[n] for n in judged])
    reading_LN = readings_LNF.gather(2, fold_N.expand(len(layers), -1).unsqueeze(-1))[..., 0]
    return {
        layer: _auc(is_positive, fold_N.tolist(), reading_N.tolist())
        for layer, reading_N in zip(layers, reading_LN, strict=True)
    }


def folds_of(corpus: Sequence[LabelledText], judged: Sequence[str], folds: int, seed: int) -> list[int]:
    """Which of the folds each text is held out in: groups stay together, emotions are spread evenly.

    Raises:
        ValueError: if an emotion that is judged has fewer groups than there are folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    names = [("text", item.text) if item.group is None else ("group", item.group) for item in corpus]
    for emotion in judged:
        n_groups = len({name for name, item in zip(names, corpus, strict=True) if item.emotion == emotion})
        if not 2 <= folds <= n_groups:
            raise ValueError(
                f"folds must be between 2 and the number of groups of each emotion judged; got {folds}, "
                f"and {emotion!r} has {n_groups} groups"
            )
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    emotion_of_text, fold_of_text = [item.emotion for item in corpus], [0] * len(corpus)
    split = splitter.split(names, emotion_of_text, [number[name] for name in names])
    for fold, (_, held_out) in enumerate(split):
        for n in held_out:
            fold_of_text[n] = fold
    return fold_of_text


def _readings(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    directions_LFD: Float[Tensor, "L F D"],
    from_token: int,
    tokens_per_batch: int,
    bar: tqdm,
) -> Float[Tensor, "L N F"]:
    """Each text's reading along each fold's direction: moments in which every text is a group of its own."""
    directions = dict(zip(layers, directions_LFD, strict=True))
    each_N = torch.arange(len(texts), device=input_device(model))

    def rows(layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        directions[layer] = directions[layer].to(hidden_BTD.device)  # once: a layer stays where it computes
        return batch.text_means(hidden_BTD) @ directions[layer].T, batch.index[:, None] == each_N

    return stream_moments(model, layers, texts, rows, len(texts), from_token=from_token,
                          tokens_per_batch=tokens_per_batch, bar=bar).sums  # fmt: skip


def _auc(is_positive: Sequence[bool], folds: Sequence[int], readings: Sequence[float]) -> float:
    from sklearn.metrics import roc_auc_score

    right = compared = 0.0
    for fold in set(folds):
        here = [n for n, other in enumerate(folds) if other == fold]
        labels = [is_positive[n] for n in here]
        pairs = sum(labels) * (len(labels) - sum(labels))
        if pairs:
            right += pairs * float(roc_auc_score(labels, [readings[n] for n in here]))
            compared += pairs
    if not compared:
        raise ValueError("no fold holds texts of both emotions; use fewer folds, or groups that span both")
    return right / compared
