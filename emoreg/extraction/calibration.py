"""Directions to `emoreg.EmotionVectors`: denoised on neutral text, and with its readings as their zero and unit.

Shapes: T positions, D width, L layers, K emotions, N reference texts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from emoreg import checks, ranks
from emoreg.extraction.denoising import denoise
from emoreg.extraction.moments import Moments
from emoreg.extraction.stream import streaming
from emoreg.extraction.texts import token_moments
from emoreg.extraction.tokens import Tokens, tokenise
from emoreg.model import input_device, unwrap, width
from emoreg.reading import readings
from emoreg.vectors import (
    Directions,
    EmotionVectors,
    Provenance,
    config_hash,
    sample_weights,
    text_hash,
    tokenizer_hash,
)


def calibrate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    directions: Directions,
    neutral: Sequence[str],
    *,
    denoise_share: float = 0.0,
    tokens_per_batch: int = 2048,
    reference_texts: int = 16,
    reference_tokens: int = 64,
    progress: bool = True,
) -> EmotionVectors:
    """Vectors of directions that came from elsewhere, such as another library's file. Arguments are as in `extract`.

    Raises:
        ValueError: for directions that do not fit the model, no neutral text, or anything else that `extract` refuses.
    """
    if directions.directions.shape[-1] != width(model):
        raise ValueError(
            f"these directions have width {directions.directions.shape[-1]}, the model has {width(model)}; they were "
            "made from another model"
        )
    check_neutral(neutral, reference_texts, reference_tokens)
    with streaming(
        model, directions.layers, tokens_per_batch, title="calibrate", total=len(neutral), progress=progress
    ) as stream:
        texts = tokenise(model, tokenizer, neutral)
        references = references_of(texts, reference_texts, reference_tokens)
        moments = token_moments(stream, texts)
    return calibrated(model, tokenizer, directions, neutral, moments, references, denoise_share, reference_tokens)


def check_neutral(neutral: Sequence[str], reference_texts: int, reference_tokens: int) -> None:
    """Refuse neutral texts and numbers that no calibration can be made of.

    Raises:
        ValueError: for no text, or a number that is too small.
    """
    if not neutral:
        raise ValueError("there is no neutral text; expected some to calibrate the readings on")
    checks.integer("reference_texts", reference_texts, 1)
    checks.integer("reference_tokens", reference_tokens, 2)


def references_of(texts: Sequence[Tokens], reference_texts: int, reference_tokens: int) -> list[Tokens]:
    """The first few neutral texts of which something is read within so many tokens: a reply may begin later.

    Raises:
        ValueError: if there is none.
    """
    found = [text for text in texts if text.first < reference_tokens]
    if not found:
        earliest = min(text.first for text in texts)
        raise ValueError(
            f"no neutral text is read within its first {reference_tokens} tokens, of which reference texts are made: "
            f"the earliest reply begins at token {earliest}; raise reference_tokens, or give shorter conversations"
        )
    return found[:reference_texts]


def calibrated(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    directions: Directions,
    neutral: Sequence[str],
    moments: Moments,
    references: Sequence[Tokens],
    denoise_share: float,
    reference_tokens: int,
) -> EmotionVectors:
    """The vectors, once the moments of the neutral texts' tokens are there.

    Raises:
        ValueError: if nothing of a direction is left, or it no longer separates its emotion's texts from the others'.
    """
    layers, device = directions.layers, input_device(model)
    covariance_LDD = moments.covariance[:, :-1, :-1]
    denoised_LKD = denoise(directions.directions, covariance_LDD, denoise_share)
    separation_LK = (denoised_LKD * directions.shift).sum(-1)
    # The sign is fixed here: a filter such as LDA can come out of denoising the wrong way round.
    denoised_LKD = torch.where(separation_LK[..., None] < 0, -denoised_LKD, denoised_LKD)
    # All ranks take the first one's: each machine rounds in its own way.
    directions_LKD = ranks.from_first(denoised_LKD.float(), device)
    exact_LKD = directions_LKD.double()
    mean_LK = (exact_LKD @ moments.mean[:, 0, :-1, None])[..., 0].float()
    std_LK = (exact_LKD @ covariance_LDD * exact_LKD).sum(-1).clamp(min=0).sqrt().float()

    kept = [text.ids[:reference_tokens].long() for text in references]
    masks = [_read(text)[:reference_tokens] for text in references]
    ids_NT, mask_NT = pad_sequence(kept, batch_first=True), pad_sequence(masks, batch_first=True)
    present_NT = pad_sequence([torch.ones_like(ids).bool() for ids in kept], batch_first=True)
    reading_NTLK = torch.stack(readings(model, layers, directions_LKD, ids_NT, present_NT), dim=2)
    reference_NTLK = (reading_NTLK - mean_LK) / std_LK
    mean_LK, std_LK, reference_NTLK = (ranks.from_first(x, device) for x in (mean_LK, std_LK, reference_NTLK))
    return EmotionVectors(
        emotions=directions.emotions,
        layers=layers,
        directions=directions_LKD,
        separation=ranks.from_first(separation_LK.abs().float(), device),
        mean=mean_LK,
        std=std_LK,
        residual_norm=moments.mean[:, 0, -1].float(),
        reference_ids=ids_NT,
        reference_mask=mask_NT,
        reference_z=torch.where(mask_NT[..., None, None], reference_NTLK, 0.0),
        provenance=_provenance(model, tokenizer, directions, neutral, denoise_share),
        weights=sample_weights(model),
    )


def _provenance(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    directions: Directions,
    neutral: Sequence[str],
    denoise_share: float,
) -> Provenance:
    inner: Any = unwrap(model)
    return Provenance(
        model=getattr(inner, "name_or_path", "") or inner.config._name_or_path or type(inner).__name__,
        revision=getattr(inner.config, "_commit_hash", None),
        config_hash=config_hash(model),
        tokenizer_hash=tokenizer_hash(tokenizer),
        corpus_hash=text_hash([directions.corpus_hash, *neutral]),
        method=f"{directions.method}, {denoise_share:.0%} of neutral variance taken out",
        token_rule=f"{directions.token_rule}; neutral: every token that is read",
        counts=directions.counts | {"neutral": len(neutral)},
        settings=directions.settings | {"denoise_share": denoise_share},
    )


def _read(text: Tokens) -> Bool[Tensor, " T"]:
    position = torch.arange(len(text))
    return (position >= text.first) & (position < text.end)
