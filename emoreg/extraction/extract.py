"""Emotion vectors from labelled and neutral texts, each forwarded once."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from emoreg.corpus import LabelledText, check_corpus
from emoreg.extraction.calibration import calibrated, check_neutral, references_of
from emoreg.extraction.directions import directions_of, groups_of
from emoreg.extraction.shards import Shards
from emoreg.extraction.stream import streaming
from emoreg.extraction.texts import token_moments
from emoreg.extraction.tokens import Tokens, tokenise
from emoreg.model import unwrap
from emoreg.vectors import EmotionVectors, config_hash, sample_weights, text_hash


def extract(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Sequence[LabelledText],
    neutral: Sequence[str],
    *,
    estimator: str = "difference_of_means",
    rank: int = 1,
    layers: Sequence[int] | None = None,
    from_token: int = 50,
    denoise_share: float = 0.5,
    tokens_per_batch: int = 2048,
    reference_texts: int = 16,
    reference_tokens: int = 64,
    resume_dir: str | Path | None = None,
    progress: bool = True,
) -> EmotionVectors:
    """Directions of every emotion at every layer, denoised and calibrated on neutral text.

    A text's vector is the mean of its hidden states from the n-th token on; an emotion's mean is the mean over its
    texts; its direction is, by default, that mean less the mean over emotions, less what lies in the largest principal
    components of neutral tokens, at unit length. Mean and covariance of the neutral tokens give each reading its zero
    and its unit. BOS, padding and a text's very first position are never read.

    Each text is forwarded once, without the head (the few reference texts a second time). Sums are fp64. Memory does
    not grow with the number of texts: it holds one D x D covariance per layer, 4.8 GB for 36 layers of width 4096, and
    for estimators other than means as much again at times, and some texts' own vectors.

    Where torch.distributed is set up, every rank must call this, with the same arguments. Texts are dealt to the ranks,
    whose sums are added up in fp64, and each gets the same vectors, to the last bit. Batches are the same however many
    ranks there are. The model may be a copy on each rank, sharded over them (FSDP, ZeRO-3), or in one process over
    several devices (device_map), parts of it waiting on the host or a disk; its base may be quantised.

    Args:
        model: a causal language model of transformers, bare or wrapped; left as it is, training flags included.
        tokenizer: its tokenizer; the padding side and pad token do not matter.
        corpus: labelled texts of two emotions or more. A conversation is given as an `emoreg.corpus.reply`, which sees
            to the chat template and to what is read.
        neutral: texts without emotion, of the kind the model will be trained on; conversations likewise.
        estimator: how directions come from text vectors (`emoreg.extraction.estimators`): ``difference_of_means``, as
            the source has it; ``one_against_rest``, ``lda``, ``leace``, ``logistic``, ``class_pca``.
        rank: of ``class_pca``'s subspace: its further directions are called ``desperate.2``, ``desperate.3``, ...
        layers: block numbers; all of them by default. The forward pass stops at the last one.
        from_token: n, counted from 1 without BOS. Shorter texts are read from their start, with a warning.
        denoise_share: variance of neutral tokens held by the components taken out; 0 takes out none, the source half.
        tokens_per_batch: of a forward pass, padding included; a longer text has a pass of its own. Where memory does
            not suffice, the batch is halved, and so are those that follow.
        reference_texts: how many of the neutral texts, from the first, are kept as reference.
        reference_tokens: to how many tokens each of these is cut, BOS included.
        resume_dir: a folder, seen by all ranks, in which sums are kept on the way, about once a minute. A run that was
            killed goes on from them when started again, on however many ranks. It is emptied of them at the end.
        progress: whether to show a bar, on the first rank.

    Returns:
        Vectors of K emotions, in order of first appearance, at L layers, on the host.

    Raises:
        ValueError: for an empty corpus or no neutral text, fewer than two emotions, emotions whose means coincide, a
            text without tokens, a layer out of range, hidden states that are not finite, a text that is too long for
            the memory, sums in ``resume_dir`` that were made from something else, or a failure on another rank.

    References:
        Sofroniew et al. 2026, arXiv 2604.07729.
    """
    emotions = check_corpus(corpus)
    check_neutral(neutral, reference_texts, reference_tokens)
    total = len(corpus) + len(neutral)
    with streaming(model, layers, tokens_per_batch, title="extract", total=total, progress=progress) as stream:
        labelled_tokens = tokenise(model, tokenizer, [item.text for item in corpus], from_token)
        neutral_tokens = tokenise(model, tokenizer, neutral)
        references = references_of(neutral_tokens, reference_texts, reference_tokens)
        shards: dict[str, Shards] = {}
        if resume_dir is not None:
            key = {"layers": str(stream.layers), "token rule": str(from_token)}
            key |= {"tokens per batch": str(tokens_per_batch), "estimator": estimator}
            key |= {"model": _model_hash(model, sample_weights(model))}
            key |= {"texts": _tokens_hash(labelled_tokens + neutral_tokens, groups_of(corpus, emotions, estimator))}
            shards = {name: Shards(resume_dir, name, key, stream.layers) for name in ("labelled", "neutral")}
        directions = directions_of(stream, labelled_tokens, corpus, estimator, rank, from_token, shards.get("labelled"))
        moments = token_moments(stream, neutral_tokens, shards.get("neutral"))
    vectors = calibrated(model, tokenizer, directions, neutral, moments, references, denoise_share, reference_tokens)
    for shard in shards.values():
        shard.remove()
    return vectors


def _model_hash(model: nn.Module, weights: dict[str, Tensor]) -> str:
    """What decides the model's hidden states: its weights, and in which numbers it holds them."""
    quantised = getattr(unwrap(model).config, "quantization_config", None)
    parts = [config_hash(model), str(next(model.parameters()).dtype), str(quantised)]
    return text_hash(parts + [f"{name} {sample.tolist()}" for name, sample in weights.items()])


def _tokens_hash(texts: Sequence[Tokens], groups: Sequence[int]) -> str:
    return text_hash([str(list(groups)), *(f"{text.first} {text.end} {text.ids.tolist()}" for text in texts)])
