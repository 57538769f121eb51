"""Directions to `emoreg.EmotionVectors`: denoised on neutral text, and with its readings as their zero and unit.

Shapes: B batch, T positions, D width, L layers, K emotions, N reference texts.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg import checks, ranks
from emoreg.extraction.denoising import denoise
from emoreg.extraction.moments import Moments
from emoreg.extraction.shards import Shards
from emoreg.extraction.stream import Batch, stream_moments
from emoreg.extraction.tokens import Tokens, tokenise
from emoreg.model import check_layers, depth, input_device, unwrap, width
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
    check_layers(directions.layers, depth(model))
    check_neutral(neutral, tokens_per_batch, reference_texts, reference_tokens)
    texts = tokenise(model, tokenizer, neutral)
    references = references_of(texts, reference_texts, reference_tokens)
    with tqdm(total=len(texts), desc="calibrate", unit="text", disable=not progress or ranks.rank() > 0) as bar:
        moments = token_moments(model, directions.layers, texts, tokens_per_batch, bar)
    vectors = calibrated(model, tokenizer, directions, moments, references, denoise_share, reference_tokens)
    return with_neutral(vectors, neutral)


def check_neutral(
    neutral: Sequence[str], tokens_per_batch: int, reference_texts: int, reference_tokens: int
) -> None:  # fmt: skip
    """Refuse what no calibration can be made of.

    Raises:
        ValueError: for no text, or a number that is too small.
    """
    if not neutral:
        raise ValueError("there is no neutral text; expected some to calibrate the readings on")
    checks.whole("tokens_per_batch", tokens_per_batch, 1)
    checks.whole("reference_texts", reference_texts, 1)
    checks.whole("reference_tokens", reference_tokens, 2)


def references_of(texts: Sequence[Tokens], reference_texts: int, reference_tokens: int) -> list[Tokens]:
    """The first few neutral texts of which something is read within so many tokens: a reply may begin later.

    Raises:
        ValueError: if there is none.
    """
    found = [text for text in texts if text.first_read < reference_tokens]
    if not found:
        earliest = min(text.first_read for text in texts)
        raise ValueError(
            f"no neutral text is read within its first {reference_tokens} tokens, of which reference texts are made: "
            f"the earliest reply begins at token {earliest}; raise reference_tokens, or give shorter conversations"
        )
    return found[:reference_texts]


def token_moments(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    tokens_per_batch: int,
    bar: tqdm,
    shards: Shards | None = None,
) -> Moments:
    """Moments of every token's hidden state, with its norm as a last component."""

    def rows(_layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        states_BTD = hidden_BTD.float()
        rows_BTD = torch.cat([states_BTD, states_BTD.norm(dim=-1, keepdim=True)], dim=-1)
        return rows_BTD.flatten(0, 1), batch.readable.reshape(-1, 1)

    return stream_moments(model, layers, texts, rows, 1, products=True,
                          tokens_per_batch=tokens_per_batch, bar=bar, shards=shards)  # fmt: skip


def calibrated(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    directions: Directions,
    neutral: Moments,
    references: Sequence[Tokens],
    denoise_share: float,
    reference_tokens: int,
) -> EmotionVectors:
    """The vectors, once the moments of neutral tokens are there.

    Raises:
        ValueError: if nothing of a direction is left, or it no longer separates its emotion's texts from the others'.
    """
    layers, device = directions.layers, input_device(model)
    covariance_LDD = neutral.covariance[:, :-1, :-1]
    denoised_LKD = denoise(directions.directions, covariance_LDD, denoise_share)
    separation_LK = (denoised_LKD * directions.shift).sum(-1)
    # The sign is fixed here: a filter such as LDA can come out of denoising the wrong way round.
    denoised_LKD = torch.where(separation_LK[..., None] < 0, -denoised_LKD, denoised_LKD)
    # One rank's word from here on: what follows is rounded by each machine in its own way.
    directions_LKD = ranks.from_first(denoised_LKD.float(), device)
    exact_LKD = directions_LKD.double()
    mean_LK = (exact_LKD @ neutral.mean[:, 0, :-1, None])[..., 0].float()
    std_LK = (exact_LKD @ covariance_LDD * exact_LKD).sum(-1).clamp(min=0).sqrt().float()

    kept = [text.ids[:reference_tokens].long() for text in references]
    masks = [_readable(text)[:reference_tokens] for text in references]
    ids_NT, mask_NT = pad_sequence(kept, batch_first=True), pad_sequence(masks, batch_first=True)
    present_NT = pad_sequence([torch.ones_like(ids).bool() for ids in kept], batch_first=True)
    reading_NTLK = torch.stack(readings(model, layers, directions_LKD, ids_NT, present_NT), dim=2)
    reference_NTLK = (reading_NTLK - mean_LK) / std_LK
    mean_LK, std_LK, reference_NTLK = (ranks.from_first(x, device) for x in (mean_LK, std_LK, reference_NTLK))
    inner = unwrap(model)
    return EmotionVectors(
        emotions=directions.emotions,
        layers=layers,
        directions=directions_LKD,
        separation=ranks.from_first(separation_LK.abs().float(), device),
        mean=mean_LK,
        std=std_LK,
        residual_norm=neutral.mean[:, 0, -1].float(),
        reference_ids=ids_NT,
        reference_mask=mask_NT,
        reference_z=torch.where(mask_NT[..., None, None], reference_NTLK, 0.0),
        provenance=Provenance(
            model=getattr(inner, "name_or_path", "") or inner.config._name_or_path or type(inner).__name__,  # pyright: ignore
            revision=getattr(inner.config, "_commit_hash", None),
            config_hash=config_hash(model),
            tokenizer_hash=tokenizer_hash(tokenizer),
            corpus_hash=directions.corpus_hash,
            method=f"{directions.method}, {denoise_share:.0%} of neutral variance taken out",
            token_rule=f"{directions.token_rule}; neutral: every token",
            counts=directions.counts,
            settings=directions.settings | {"denoise_share": denoise_share},
        ),
        weights=sample_weights(model),
    )


def with_neutral(vectors: EmotionVectors, neutral: Sequence[str]) -> EmotionVectors:
    """The same, with the neutral texts in its provenance."""
    provenance = vectors.provenance
    hashed = text_hash([provenance.corpus_hash, *neutral])
    counts = provenance.counts | {"neutral": len(neutral)}
    return replace(vectors, provenance=replace(provenance, corpus_hash=hashed, counts=counts))


def _readable(text: Tokens) -> Bool[Tensor, " T"]:
    position = torch.arange(len(text))
    return (position >= text.first_read) & (position < text.end)
