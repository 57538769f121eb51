"""Emotion vectors from labelled and neutral texts, in one streaming pass.

Shapes: B batch, T positions, D width, L layers, K emotions, N reference texts, G groups.
"""

import logging
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg.extraction.corpus import LabelledText, check_corpus
from emoreg.extraction.estimators import difference_of_means
from emoreg.extraction.moments import Moments
from emoreg.extraction.stream import Batch, Tokens, input_device, stream_moments, tokenise
from emoreg.projection import project
from emoreg.provenance import Provenance, config_hash, sample_weights, text_hash, tokenizer_hash
from emoreg.residual import check_layers, decoder_blocks, unwrap
from emoreg.vectors import EmotionVectors

logger = logging.getLogger(__name__)


def extract(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Sequence[LabelledText],
    neutral: Sequence[str],
    *,
    layers: Sequence[int] | None = None,
    from_token: int = 50,
    batch_size: int = 16,
    reference_texts: int = 16,
    reference_tokens: int = 64,
    progress: bool = True,
) -> EmotionVectors:
    """Directions by difference of means, calibrated on neutral text. Each text is forwarded once, without the head.

    A text's vector is the mean of its hidden states from the n-th token on; an emotion's mean is the mean over its
    texts; its direction is that mean less the mean over emotions, at unit length. The neutral texts, read at every
    token along the finished directions, give each reading its zero and its unit. BOS, padding and a text's very first
    position are never read. Sums are fp64, and memory does not grow with the number of texts.

    Args:
        model: a causal language model of transformers, bare or wrapped; left as it is, training flags included.
        tokenizer: its tokenizer; the padding side and pad token do not matter.
        corpus: labelled texts of two emotions or more.
        neutral: texts without emotion, of the kind the model will be trained on.
        layers: block numbers; all of them by default. The forward pass stops at the last one.
        from_token: n, counted from 1 without BOS. Shorter texts are read from their start, with a warning.
        batch_size: texts per forward pass.
        reference_texts: how many of the neutral texts, from the first, are kept as reference.
        reference_tokens: to how many tokens each of these is cut, BOS included.
        progress: whether to show a bar.

    Returns:
        Vectors of K emotions, in order of first appearance, at L layers, on the host.

    Raises:
        ValueError: for an empty corpus or no neutral text, fewer than two emotions, emotions whose means coincide, a
            text without tokens, a layer out of range, or hidden states that are not finite.

    References:
        Sofroniew et al. 2026, arXiv 2604.07729.
    """
    emotions = check_corpus(corpus)
    if not neutral:
        raise ValueError("there is no neutral text; expected some to calibrate the readings on")
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("reference_texts", reference_texts, 1),
        ("reference_tokens", reference_tokens, 2),
    ):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    blocks = decoder_blocks(model)
    layers = check_layers(range(len(blocks)) if layers is None else layers, len(blocks))

    tokens = tokenise(model, tokenizer, [labelled.text for labelled in corpus] + list(neutral))
    labelled_tokens, neutral_tokens = tokens[: len(corpus)], tokens[len(corpus) :]
    warn_short(labelled_tokens, from_token)
    with tqdm(total=len(tokens), desc="extract", unit="text", disable=not progress) as bar:
        moments = text_moments(
            model,
            layers,
            labelled_tokens,
            [emotions.index(labelled.emotion) for labelled in corpus],
            len(emotions),
            from_token=from_token,
            batch_size=batch_size,
            bar=bar,
        )
        directions_LKD = difference_of_means(moments, emotions)
        n_reference = min(reference_texts, len(neutral))
        readings = _neutral_moments(
            model, layers, neutral_tokens, directions_LKD, n_reference, reference_tokens, batch_size, bar
        )

    mean_LGK, std_LGK = readings.mean[..., :-1], readings.std[..., :-1]  # groups: all tokens, then each reference
    reference_LNK = (mean_LGK[:, 1:] - mean_LGK[:, :1]) / std_LGK[:, :1]
    references = [text.ids[:reference_tokens].long() for text in neutral_tokens[:n_reference]]
    counts = {emotion: int(count) for emotion, count in zip(emotions, moments.count.tolist(), strict=True)}
    inner = unwrap(model)
    return EmotionVectors(
        emotions=emotions,
        layers=layers,
        directions=directions_LKD,
        mean=mean_LGK[:, 0].float(),
        std=std_LGK[:, 0].float(),
        residual_norm=readings.mean[:, 0, -1].float(),
        reference_ids=pad_sequence(references, batch_first=True),
        reference_mask=pad_sequence(
            [_readable(text)[:reference_tokens] for text in neutral_tokens[:n_reference]], batch_first=True
        ),
        reference_z=reference_LNK.transpose(0, 1).float().contiguous(),
        provenance=Provenance(
            model=getattr(inner, "name_or_path", "") or inner.config._name_or_path or type(inner).__name__,  # pyright: ignore
            revision=getattr(inner.config, "_commit_hash", None),
            config_hash=config_hash(model),
            tokenizer_hash=tokenizer_hash(tokenizer),
            corpus_hash=text_hash([part for item in corpus for part in (item.emotion, item.text)] + list(neutral)),
            method="difference_of_means",
            token_rule=f"mean from token {from_token} on, or of all tokens of a shorter text; neutral: every token",
            counts=counts | {"neutral": len(neutral)},
        ),
        weights=sample_weights(model),
    )


def text_moments(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    groups: Sequence[int],
    n_groups: int,
    *,
    from_token: int,
    batch_size: int,
    bar: tqdm,
) -> Moments:
    """Moments of text vectors: one row per text, into the group that it is given."""
    group_of_text = torch.tensor(groups, device=input_device(model))
    each_G = torch.arange(n_groups, device=input_device(model))

    def rows(_layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return batch.text_means(hidden_BTD), group_of_text[batch.index, None] == each_G

    return stream_moments(model, layers, texts, rows, n_groups, from_token=from_token, batch_size=batch_size, bar=bar)


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


def _neutral_moments(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    directions_LKD: Float[Tensor, "L K D"],
    n_reference: int,
    reference_tokens: int,
    batch_size: int,
    bar: tqdm,
) -> Moments:
    """Moments of K readings and the residual norm, a row per token: of all texts, then of each reference text."""
    blocks, device = decoder_blocks(model), input_device(model)
    directions = {
        layer: directions_KD.to(next(blocks[layer].parameters()).device)
        for layer, directions_KD in zip(layers, directions_LKD, strict=True)
    }
    each_N = torch.arange(n_reference, device=device)

    def rows(layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        _, readings_BTK = project(hidden_BTD, directions[layer], 0)
        norm_BT1 = hidden_BTD.float().norm(dim=-1, keepdim=True)
        readable_BT1 = batch.readable.unsqueeze(-1)
        # A causal model reads the start of a text alike whether the rest follows or not.
        start_T1 = (torch.arange(batch.ids.shape[1], device=device) < reference_tokens).unsqueeze(-1)
        reference_BTN = readable_BT1 & start_T1 & (batch.index[:, None, None] == each_N)
        weight = torch.cat([readable_BT1, reference_BTN], dim=-1)
        return torch.cat([readings_BTK, norm_BT1], dim=-1).flatten(0, 1), weight.flatten(0, 1)

    return stream_moments(model, layers, texts, rows, 1 + n_reference, squares=True, batch_size=batch_size, bar=bar)


def _readable(text: Tokens) -> Bool[Tensor, " T"]:
    position = torch.arange(len(text))
    return (position >= text.first_read) & (position < text.end)
