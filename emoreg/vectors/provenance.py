"""Where a set of vectors comes from, and whether a model is the one it belongs to."""

import hashlib
import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from emoreg import checks
from emoreg.model import gathered, named_weights, text_config

_SAMPLED_MATRICES, _SAMPLED_VALUES = 64, 64
_ARCHITECTURE = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


@dataclass(frozen=True)
class Provenance:
    """What an `EmotionVectors` was made from. Everything a reader needs to make it again."""

    model: str
    """Model id or path, as given to `from_pretrained`."""
    revision: str | None
    """Commit of the model on its hub, where there is one."""
    config_hash: str
    """`config_hash` of the model."""
    tokenizer_hash: str
    """`tokenizer_hash` of the tokenizer that cut the corpus."""
    corpus_hash: str
    """`text_hash` of the labelled and neutral texts."""
    method: str
    """Name of the estimator."""
    token_rule: str
    """Which tokens of a text were read."""
    counts: dict[str, int] = field(default_factory=dict)
    """Texts per emotion, under the emotion's name, and of neutral text under ``"neutral"``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What `emoreg.extraction.extract` was told: ``estimator``, ``rank``, ``from_token``, ``denoise_share``."""
    versions: dict[str, str] = field(
        default_factory=lambda: {p: version(p) for p in ("emoreg", "torch", "transformers")}
    )
    """Versions of the libraries that did the work."""

    def __post_init__(self):
        for name in ("model", "config_hash", "tokenizer_hash", "corpus_hash", "method", "token_rule"):
            checks.kind(name, getattr(self, name), str, "a string")
        checks.kind("revision", self.revision, str | None, "a string, or None")
        for name, kind in (("counts", int), ("settings", object), ("versions", str)):
            table = getattr(self, name)
            good = isinstance(table, dict) and all(isinstance(k, str) for k in table)
            good = good and all(isinstance(value, kind) for value in table.values())
            checks.refuse_unless(good, name, f"a dict of names and {kind.__name__}s", table)


def text_hash(texts: Iterable[str]) -> str:
    """SHA-256 over texts, in order, each ended so that joining two of them shows."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides how a text is cut: the vocabulary and the fast tokenizer's pipeline."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return text_hash([json.dumps(tokenizer.get_vocab(), sort_keys=True)])
    pipeline = json.loads(backend.to_str())
    pipeline.update(padding=None, truncation=None)  # set by whoever tokenised last
    return text_hash([json.dumps(pipeline, sort_keys=True)])


def config_hash(model: nn.Module) -> str:
    """SHA-256 of the shape of the architecture, which fine-tuning does not change."""
    config = text_config(model)
    return text_hash([json.dumps({name: getattr(config, name, None) for name in _ARCHITECTURE}, sort_keys=True)])


def _matrices(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    # peft renames what it wraps ("q_proj.base_layer.weight") and adds matrices of its own ("lora_A").
    for name, p in named_weights(model):
        is_matrix = len(getattr(p, "ds_shape", p.shape)) >= 2
        if is_matrix and p.is_floating_point() and "lora_" not in name:
            yield name.replace(".base_layer", ""), p


@torch.no_grad()
def sample_weights(model: nn.Module) -> dict[str, Float[Tensor, " n"]]:
    """A fingerprint: evenly spaced values of evenly spaced weight matrices, fp32 on the host, under their names.

    Norm scales and biases are left out: they are alike in unrelated models. Of a sharded model every rank must ask.
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
def weight_distance(model: nn.Module, sample: dict[str, Tensor]) -> float:
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
