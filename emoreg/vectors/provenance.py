"""Where a set of vectors comes from: hashes of the model's shape, of the tokenizer and of the texts."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from emoreg import checks
from emoreg.model import text_config

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
