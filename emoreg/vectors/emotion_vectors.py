"""`EmotionVectors`: emotion directions at every layer, with what is needed to use and to trust them.

Shapes: L layers, K emotions, D width, N reference texts, T tokens of a reference text.
"""

import difflib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from emoreg import checks
from emoreg.vectors import storage
from emoreg.vectors.belonging import check_model
from emoreg.vectors.provenance import Provenance
from emoreg.vectors.storage import FLOATS, TENSORS


@dataclass(frozen=True)
class EmotionVectors:
    """Unit directions of K emotions at L layers of one model, and how that model reads neutral text along them.

    Made by `emoreg.extraction.extract`, stored as one safetensors file.

    Raises:
        ValueError: on shapes that disagree, values that are not finite, directions that are not unit, a spread that is
            not positive, or names that repeat.
    """

    emotions: tuple[str, ...]
    """K names."""
    layers: tuple[int, ...]
    """L block numbers, ascending."""
    directions: Float[Tensor, "L K D"]
    """Unit vectors, fp32. The emotion's own texts read higher along its direction than the other emotions' texts do."""
    separation: Float[Tensor, "L K"]
    """How much higher, on average, in units of the residual stream: the scale that a unit vector has lost."""
    mean: Float[Tensor, "L K"]
    """Mean of the token readings on neutral text, in units of the residual stream."""
    std: Float[Tensor, "L K"]
    """Their standard deviation, in the same units."""
    residual_norm: Float[Tensor, " L"]
    """Mean norm of the residual stream per neutral token: the unit of steering strength."""
    reference_ids: Int[Tensor, "N T"]
    """Token ids of neutral reference texts, right-padded: what anchors hold where no rows are known."""
    reference_mask: Bool[Tensor, "N T"]
    """True where `reference_ids` holds a token that counts: not padding, not BOS."""
    reference_z: Float[Tensor, "N T L K"]
    """The base model's z at each of their tokens; 0 where the mask is False."""
    provenance: Provenance
    weights: dict[str, Tensor] = field(default_factory=dict, repr=False)
    """Sampled weights of the base model (`emoreg.vectors.sample_weights`)."""
    validation: dict[str, Any] | None = field(default=None, repr=False)
    """The evidence that `emoreg.validation.validate` gathered, in JSON's types; None if nobody has asked for it."""

    def __post_init__(self):
        checks.names("emotions", self.emotions)
        checks.layers("layers", self.layers)
        checks.kind("provenance", self.provenance, Provenance, "a Provenance")
        checks.kind("weights", self.weights, dict, "a dict of name and tensor")
        for name, sample in self.weights.items():
            good = isinstance(sample, Tensor) and sample.ndim == 1 and sample.dtype == torch.float32
            checks.refuse_unless(good, f"weights[{name!r}]", "one-dimensional, of fp32 values", sample)
        checks.kind("validation", self.validation, dict | None, "a dict, or None")
        for name in TENSORS:
            checks.kind(name, getattr(self, name), Tensor, "a tensor")
        for name, n in (("directions", 3), ("reference_ids", 2)):
            if getattr(self, name).ndim != n:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, expected {n} dimensions")
        n_layers, n_emotions, _ = self.directions.shape
        n_texts, n_tokens = self.reference_ids.shape
        for name, shape in {
            "separation": (n_layers, n_emotions),
            "mean": (n_layers, n_emotions),
            "std": (n_layers, n_emotions),
            "residual_norm": (n_layers,),
            "reference_mask": (n_texts, n_tokens),
            "reference_z": (n_texts, n_tokens, n_layers, n_emotions),
        }.items():
            if tuple(getattr(self, name).shape) != shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if len(self.emotions) != n_emotions or len(set(self.emotions)) != n_emotions:
            raise ValueError(f"expected {n_emotions} distinct emotions, got {list(self.emotions)}")
        if len(self.layers) != n_layers or list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"expected {n_layers} distinct ascending layers, got {list(self.layers)}")
        for name in FLOATS:
            tensor = getattr(self, name)
            if tensor.dtype != torch.float32 or not tensor.isfinite().all():
                raise ValueError(
                    f"{name} must be finite fp32, got {tensor.dtype} with {(~tensor.isfinite()).sum()} bad values"
                )
        if self.reference_ids.dtype != torch.int64 or (self.reference_ids < 0).any():
            raise ValueError("reference_ids must be int64 token ids, none of them negative")
        if self.reference_mask.dtype != torch.bool or not n_texts or not self.reference_mask.any(1).all():
            raise ValueError("reference_mask must be bool and leave one token or more of each of one or more texts")
        if not torch.allclose(self.directions.norm(dim=-1), torch.ones(()), atol=1e-3):
            raise ValueError("directions must have norm 1 at every layer and emotion")
        if not (self.separation > 0).all():
            raise ValueError("separation must be positive: an emotion's texts read higher along its direction")
        if not (self.std > 0).all():
            raise ValueError("std must be positive: an emotion with one reading on all neutral text has no z")

    @property
    def width(self) -> int:
        """Size D of the residual stream."""
        return self.directions.shape[-1]

    def fingerprint(self) -> str:
        """A hash of names, directions and calibration: the same for the same vectors."""
        digest = hashlib.sha256(repr((self.emotions, self.layers)).encode())
        for name in TENSORS:
            digest.update(getattr(self, name).contiguous().numpy().tobytes())
        return digest.hexdigest()

    def index(self, emotion: str) -> int:
        """Position of an emotion among `emotions`.

        Raises:
            ValueError: for an unknown emotion, with the nearest known name.
        """
        checks.text("emotion", emotion)
        if emotion in self.emotions:
            return self.emotions.index(emotion)
        near = difflib.get_close_matches(emotion, self.emotions, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(self.emotions)}"
        raise ValueError(f"unknown emotion {emotion!r}; {hint}")

    def trusted(self, emotion: str) -> tuple[int, ...]:
        """The layers, of these vectors, at which validation found that an emotion's direction may be trusted.

        Returns:
            Block numbers, ascending; none if validation trusts no layer.

        Raises:
            ValueError: for an unknown emotion, or one that nobody has validated.
        """
        self.index(emotion)
        if self.validation is None:
            raise ValueError(
                f"nobody has validated these vectors, so no layer of {emotion!r} is known to be trusted; run `emoreg "
                "validate` on their file, or name layers"
            )
        verdict = self.validation["verdict"]
        if emotion not in verdict:
            raise ValueError(
                f"{emotion!r} was not validated, for want of texts; known: {', '.join(verdict)}. Run `emoreg validate` "
                "on texts of it, or name layers"
            )
        return tuple(layer for layer in verdict[emotion]["layers"] if layer in self.layers)

    def select(self, emotions: Sequence[str] | None = None, layers: Sequence[int] | None = None) -> "EmotionVectors":
        """The same vectors with only the given emotions (in the order given) and layers.

        Raises:
            ValueError: for an emotion or a layer that these vectors do not have, or that is named twice.
        """
        if emotions is not None:
            checks.names("emotions", emotions)
        if layers is not None:
            checks.layers("layers", layers)
        emotions = self.emotions if emotions is None else tuple(emotions)
        layers = self.layers if layers is None else tuple(sorted(layers))
        k = [self.index(emotion) for emotion in emotions]
        for layer in layers:
            if layer not in self.layers:
                raise ValueError(f"layer {layer} is out of range: these vectors have layers {list(self.layers)}")
        at = [self.layers.index(layer) for layer in layers]
        return replace(
            self,
            emotions=emotions,
            layers=layers,
            directions=self.directions[at][:, k],
            separation=self.separation[at][:, k],
            mean=self.mean[at][:, k],
            std=self.std[at][:, k],
            residual_norm=self.residual_norm[at],
            reference_z=self.reference_z[:, :, at][..., k],
        )

    def check(self, model: nn.Module) -> None:
        """Refuse a model that these vectors do not belong to. A fine-tune of the same base is allowed, with a warning.

        Raises:
            ValueError: for a model of another width, depth, architecture or unrelated weights.
        """
        check_model(model, self.provenance, self.width, self.layers, self.weights, int(self.reference_ids.max()))

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all. Adds the suffix if it is missing; returns the path.

        Raises:
            ValueError: if the folder does not exist or cannot be written to.
        """
        return storage.save(vars(self), path)

    @classmethod
    def load(cls, path: str | Path) -> "EmotionVectors":
        """Read a file that `save` wrote.

        Raises:
            ValueError: if the file is missing, truncated, no safetensors, not of this format, or not as it was written.
        """
        return storage.load(path, cls)
