"""Whether a model is the one that a set of vectors belongs to: its shape, and a sample of its weights."""

import logging
from collections.abc import Container, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emoreg.model import check_layers, depth, embeddings, gathered, named_weights, width
from emoreg.vectors.provenance import Provenance, config_hash

logger = logging.getLogger(__name__)

_SAMPLED_MATRICES, _SAMPLED_VALUES = 64, 64
# Relative distance of sampled weights: up to the first they differ by rounding, up to the second by a fine-tune.
_ROUNDING, _FINE_TUNE = 0.005, 1.0


def check_model(
    model: nn.Module,
    provenance: Provenance,
    width_of_vectors: int,
    layers: Sequence[int],
    sample: Mapping[str, Tensor],
    last_token: int,
) -> None:
    """Refuse a model that vectors do not belong to. A fine-tune of the same base is allowed, with a warning.

    Args:
        model: the model.
        provenance: of the vectors.
        width_of_vectors: D.
        layers: those that the vectors have.
        sample: `sample_weights` of the model that they were made from.
        last_token: the highest id among their reference texts' tokens.

    Raises:
        ValueError: for a model of another width, depth, architecture or unrelated weights.
    """
    made_from = f"these vectors were made from {provenance.model!r}"
    if width(model) != width_of_vectors:
        raise ValueError(f"{made_from} with width {width_of_vectors}; the model has width {width(model)}")
    try:
        check_layers(layers, depth(model))
    except ValueError as error:
        raise ValueError(f"{made_from}, which is deeper: {error}") from None
    if config_hash(model) != provenance.config_hash:
        raise ValueError(f"{made_from}, which has another architecture; extract vectors from the model you train")
    n_embeddings = embeddings(model).num_embeddings
    if last_token >= n_embeddings:
        raise ValueError(
            f"{made_from}; their reference_ids go up to {last_token}, and the model has {n_embeddings} embeddings; "
            "extract vectors from the model you train"
        )
    distance = weight_distance(model, sample)
    if not distance <= _FINE_TUNE:
        raise ValueError(
            f"{made_from}; this model's weights are unrelated to it (relative distance {distance:.2f}, a fine-tune "
            f"stays below {_FINE_TUNE}); extract vectors from the model you train"
        )
    if distance > _ROUNDING:
        logger.warning("%s; this model is a fine-tune of it (relative distance %.3f)", made_from, distance)


def _matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # peft renames what it wraps ("q_proj.base_layer.weight") and adds matrices of its own ("lora_A").
    for name, p in named_weights(model):
        is_matrix = len(getattr(p, "ds_shape", p.shape)) >= 2
        if is_matrix and p.is_floating_point() and "lora_" not in name:
            yield name.replace(".base_layer", ""), p


@torch.no_grad()
def sample_weights(model: nn.Module) -> dict[str, Float[Tensor, " n"]]:
    """A fingerprint: evenly spaced values of evenly spaced weight matrices, fp32 on the host, under their names.

    Norm scales and biases are left out: they are alike in unrelated models. For a sharded model every rank must call
    this.
    """
    names = sorted(name for name, _ in _matrices(model))
    chosen = names[:: max(1, len(names) // _SAMPLED_MATRICES)][:_SAMPLED_MATRICES]
    sample = _spread_of(model, chosen)
    return {name: sample[name] for name in chosen}


def _spread_of(model: nn.Module, names: Container[str]) -> dict[str, Float[Tensor, " n"]]:
    spread = {}
    for name, p in _matrices(model):
        if name in names:
            with gathered(p) as whole:
                spread[name] = _spread(whole)
    return spread


def _spread(parameter: Tensor) -> Float[Tensor, " n"]:
    flat = parameter.detach().reshape(-1)
    last, n = flat.numel() - 1, min(flat.numel(), _SAMPLED_VALUES)
    # In whole numbers: in fp32, 2^24 values (any real model's embeddings have more) are enough to end past the end.
    where = torch.arange(n) * last // max(1, n - 1)
    return flat[where.to(flat.device)].float().cpu()


@torch.no_grad()
def weight_distance(model: nn.Module, sample: Mapping[str, Tensor]) -> float:
    """Relative distance ``|now - then| / |then|`` between a model's weights and a `sample_weights` of another.

    0 for the same weights, about 1e-3 for the same weights in bf16, small for a fine-tune, about 1.4 for an unrelated
    model of the same architecture. Matrices that the model no longer holds as floats (a quantised base) are left out;
    infinite if none is left to compare.
    """
    found = _spread_of(model, sample)
    shared = [name for name in sample if name in found]
    if not shared:
        return float("inf")
    then, now = (torch.cat([of[name] for name in shared]) for of in (sample, found))
    if now.shape != then.shape:
        return float("inf")
    return float((now - then).norm() / then.norm())
