"""Does a direction tell held-out texts apart?

Shapes: L layers, K emotions, D width, N texts, M texts of one fold, G groups.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from emoreg import ranks
from emoreg.corpus import LabelledText, check_corpus
from emoreg.extraction.estimators import difference_of_means
from emoreg.extraction.holdout import auc_within_folds, folds_of, held_out_readings
from emoreg.extraction.stream import streaming
from emoreg.extraction.texts import text_moments, text_readings
from emoreg.extraction.tokens import tokenise
from emoreg.model import input_device


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

    Each text is forwarded once for the directions, and those of the two emotions a second time, to be read. Texts'
    vectors are not kept, so that memory does not grow with their number: it holds fp64 sums of every emotion and fold
    at every layer, 142 MB for 24 emotions and 5 folds at 36 layers of width 4096, and a number per text and layer.

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
    fold_N = torch.tensor(folds_of(corpus, (positive, negative), folds, seed))
    emotion_N = torch.tensor([emotions.index(item.emotion) for item in corpus])
    high, low = emotions.index(positive), emotions.index(negative)
    judged = ((emotion_N == high) | (emotion_N == low)).nonzero()[:, 0]
    if not set(fold_N[emotion_N == high].tolist()) & set(fold_N[emotion_N == low].tolist()):
        raise ValueError("no fold holds texts of both emotions; use fewer folds, or groups that span both")

    total = len(corpus) + len(judged)
    with streaming(model, layers, tokens_per_batch, title="hold out", total=total, progress=progress) as stream:
        tokens = tokenise(model, tokenizer, [item.text for item in corpus], from_token)
        # One group per emotion and fold; what is outside a fold is then a union of groups.
        groups = (emotion_N * folds + fold_N).tolist()
        moments = text_moments(stream, tokens, groups, len(emotions) * folds)

        def fit(fold: int) -> Float[Tensor, "L 1 D"]:
            outside_KG = torch.eye(len(emotions)).repeat_interleave(folds, 1).bool()
            outside_KG[:, fold::folds] = False
            fitted_LKD = difference_of_means(moments.regroup(outside_KG), emotions)
            direction_LD = fitted_LKD[:, high] - fitted_LKD[:, low] if along == "difference" else fitted_LKD[:, high]
            return ranks.from_first(direction_LD[:, None].float(), input_device(model))

        def read(fold: int, direction_L1D: Tensor) -> Float[Tensor, "L M 1"]:
            return text_readings(stream, [tokens[n] for n in judged[fold_N[judged] == fold]], direction_L1D)

        reading_LM1 = held_out_readings(fold_N[judged], fit, read)
    is_high = emotion_N[judged] == high
    auc_L = auc_within_folds(reading_LM1[..., 0], is_high, ~is_high, fold_N[judged])[0]
    return dict(zip(stream.layers, auc_L.tolist(), strict=True))
