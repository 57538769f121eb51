"""Emotion vectors from labelled and neutral texts, in one streaming pass.

Shapes: B batch, T positions, D width, L layers, K emotions, N reference texts, G groups.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg import ranks
from emoreg.extraction.corpus import LabelledText, check_corpus
from emoreg.extraction.estimators import denoise, difference_of_means
from emoreg.extraction.moments import Moments
from emoreg.extraction.shards import Shards
from emoreg.extraction.stream import Batch, stream_moments
from emoreg.extraction.tokens import Tokens, input_device, tokenise
from emoreg.passes import run_to
from emoreg.projection import project
from emoreg.provenance import Provenance, config_hash, sample_weights, text_hash, tokenizer_hash
from emoreg.residual import check_layers, decoder_blocks, evaluating, unwrap
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
    denoise_share: float = 0.5,
    tokens_per_batch: int = 4096,
    reference_texts: int = 16,
    reference_tokens: int = 64,
    resume_dir: str | Path | None = None,
    progress: bool = True,
) -> EmotionVectors:
    """Directions by difference of means, denoised and calibrated on neutral text.

    A text's vector is the mean of its hidden states from the n-th token on; an emotion's mean is the mean over its
    texts; its direction is that mean less the mean over emotions, less what lies in the largest principal components of
    neutral tokens, at unit length. Mean and covariance of the neutral tokens give each reading its zero and its unit.
    BOS, padding and a text's very first position are never read.

    Each text is forwarded once, without the head (the few reference texts a second time). Sums are fp64. Memory does
    not grow with the number of texts: it holds one D x D covariance per layer, 4.8 GB for 36 layers of width 4096.

    Where torch.distributed is set up, every rank must call this, with the same arguments. Texts are dealt to the ranks,
    whose sums are added up in fp64, and each gets the same vectors, to the last bit. Batches are the same however many
    ranks there are. The model may be a copy on each rank, sharded over them (FSDP, ZeRO-3), or in one process over
    several devices (device_map), parts of it waiting on the host or a disk; its base may be quantised.

    Args:
        model: a causal language model of transformers, bare or wrapped; left as it is, training flags included.
        tokenizer: its tokenizer; the padding side and pad token do not matter.
        corpus: labelled texts of two emotions or more.
        neutral: texts without emotion, of the kind the model will be trained on.
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
    if not neutral:
        raise ValueError("there is no neutral text; expected some to calibrate the readings on")
    for name, value, least in (
        ("tokens_per_batch", tokens_per_batch, 1),
        ("reference_texts", reference_texts, 1),
        ("reference_tokens", reference_tokens, 2),
    ):
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
    blocks = decoder_blocks(model)
    layers = check_layers(range(len(blocks)) if layers is None else layers, len(blocks))

    read_from = [labelled.read_from for labelled in corpus] + [0] * len(neutral)
    tokens = tokenise(model, tokenizer, [labelled.text for labelled in corpus] + list(neutral), read_from)
    labelled_tokens, neutral_tokens = tokens[: len(corpus)], tokens[len(corpus) :]
    warn_short(labelled_tokens, from_token)
    groups = [emotions.index(labelled.emotion) for labelled in corpus]
    device, weights = input_device(model), sample_weights(model)
    shards: dict[str, Shards] = {}
    if resume_dir is not None:
        key = {"layers": str(layers), "token rule": str(from_token), "tokens per batch": str(tokens_per_batch)}
        key |= {"model": _model_hash(model, weights), "texts": _tokens_hash(tokens, groups)}
        shards = {stream: Shards(resume_dir, stream, key, layers) for stream in ("labelled", "neutral")}
    disable = not progress or ranks.rank() > 0
    with tqdm(total=len(tokens), desc="extract", unit="text", disable=disable) as bar:
        moments = text_moments(
            model,
            layers,
            labelled_tokens,
            groups,
            len(emotions),
            from_token=from_token,
            tokens_per_batch=tokens_per_batch,
            bar=bar,
            shards=shards.get("labelled"),
        )
        directions_LKD = difference_of_means(moments, emotions)
        tokens_moments = _token_moments(model, layers, neutral_tokens, tokens_per_batch, bar, shards.get("neutral"))

    covariance_LDD = tokens_moments.covariance[:, :-1, :-1]
    # One rank's word from here on: what follows is rounded by each machine in its own way.
    directions_LKD = ranks.from_first(denoise(directions_LKD, covariance_LDD, denoise_share), device)
    exact_LKD = directions_LKD.double()
    mean_LK = (exact_LKD @ tokens_moments.mean[:, 0, :-1, None])[..., 0].float()
    std_LK = (exact_LKD @ covariance_LDD * exact_LKD).sum(-1).clamp(min=0).sqrt().float()

    references = [text.ids[:reference_tokens].long() for text in neutral_tokens[:reference_texts]]
    masks = [_readable(text)[:reference_tokens] for text in neutral_tokens[:reference_texts]]
    ids_NT, mask_NT = pad_sequence(references, batch_first=True), pad_sequence(masks, batch_first=True)
    present_NT = pad_sequence([torch.ones_like(ids).bool() for ids in references], batch_first=True)
    reference_NTLK = (_readings(model, layers, ids_NT, present_NT, directions_LKD) - mean_LK) / std_LK
    mean_LK, std_LK, reference_NTLK = (ranks.from_first(x, device) for x in (mean_LK, std_LK, reference_NTLK))
    for shard in shards.values():
        shard.remove()
    counts = {emotion: int(count) for emotion, count in zip(emotions, moments.count.tolist(), strict=True)}
    inner = unwrap(model)
    return EmotionVectors(
        emotions=emotions,
        layers=layers,
        directions=directions_LKD,
        mean=mean_LK,
        std=std_LK,
        residual_norm=tokens_moments.mean[:, 0, -1].float(),
        reference_ids=ids_NT,
        reference_mask=mask_NT,
        reference_z=torch.where(mask_NT[..., None, None], reference_NTLK, 0.0),
        provenance=Provenance(
            model=getattr(inner, "name_or_path", "") or inner.config._name_or_path or type(inner).__name__,  # pyright: ignore
            revision=getattr(inner.config, "_commit_hash", None),
            config_hash=config_hash(model),
            tokenizer_hash=tokenizer_hash(tokenizer),
            corpus_hash=text_hash([part for item in corpus for part in (item.emotion, item.text)] + list(neutral)),
            method=f"difference of means, {denoise_share:.0%} of neutral variance taken out",
            token_rule=f"mean from token {from_token} on, or of all tokens of a shorter text; neutral: every token",
            counts=counts | {"neutral": len(neutral)},
        ),
        weights=weights,
    )


def text_moments(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    groups: Sequence[int],
    n_groups: int,
    *,
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

    return stream_moments(model, layers, texts, rows, n_groups, from_token=from_token,
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


def _token_moments(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    tokens_per_batch: int,
    bar: tqdm,
    shards: Shards | None,
) -> Moments:
    """Moments of every token's hidden state, with its norm as a last component."""

    def rows(_layer: int, hidden_BTD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        states_BTD = hidden_BTD.float()
        rows_BTD = torch.cat([states_BTD, states_BTD.norm(dim=-1, keepdim=True)], dim=-1)
        return rows_BTD.flatten(0, 1), batch.readable.reshape(-1, 1)

    return stream_moments(model, layers, texts, rows, 1, products=True,
                          tokens_per_batch=tokens_per_batch, bar=bar, shards=shards)  # fmt: skip


def _readings(
    model: nn.Module,
    layers: Sequence[int],
    ids_NT: Int[Tensor, "N T"],
    attention_NT: Bool[Tensor, "N T"],
    directions_LKD: Float[Tensor, "L K D"],
) -> Float[Tensor, "N T L K"]:
    """Readings of a few texts at every token."""
    found, device = [], input_device(model)

    def read(layer: int, hidden_NTD: Tensor) -> None:
        directions_KD = directions_LKD[layers.index(layer)].to(hidden_NTD.device)
        found.append(project(hidden_NTD, directions_KD, 0)[1].cpu())

    with evaluating(model):
        run_to(model, layers, read, input_ids=ids_NT.to(device), attention_mask=attention_NT.long().to(device))
    return torch.stack(found, dim=2)


def _readable(text: Tokens) -> Bool[Tensor, " T"]:
    position = torch.arange(len(text))
    return (position >= text.first_read) & (position < text.end)


def _model_hash(model: nn.Module, weights: dict[str, Tensor]) -> str:
    """What decides the model's hidden states: its weights, and in which numbers it holds them."""
    quantised = getattr(unwrap(model).config, "quantization_config", None)
    parts = [config_hash(model), str(next(model.parameters()).dtype), str(quantised)]
    return text_hash(parts + [f"{name} {sample.tolist()}" for name, sample in weights.items()])


def _tokens_hash(texts: Sequence[Tokens], groups: Sequence[int]) -> str:
    return text_hash([str(list(groups)), *(f"{text.begin} {text.end} {text.ids.tolist()}" for text in texts)])
