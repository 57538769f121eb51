"""Penalties: pure, differentiable functions of z.

Each is a small frozen description (which emotion, how strongly, where) that is called on z and gives the penalty per
position, before weights and means. The regularizer averages it over the scope's positions and over layers, so a weight
means the same on a model of 6 blocks and of 80.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from emoreg import checks
from emoreg.reading import Scope, check_scope

HINGE_WEIGHT, ANCHOR_WEIGHT = 0.01, 0.1
"""Default weights, found on a real chat model (``docs/evidence-smollm2.md``), where a hinge of more than a tenth of its
anchor moved every emotion's replies and not only the penalised one's."""


@dataclass(frozen=True, kw_only=True)
class _Penalty:
    emotion: str = field(kw_only=False)
    weight: float
    """Factor on the mean penalty, as it joins the loss."""
    layers: Sequence[int] | Literal["trusted"] | None = None
    """Blocks that it acts on; all blocks of the vectors by default, or those that `emoreg validate` trusts."""

    def __post_init__(self):
        checks.text("emotion", self.emotion)
        checks.number("weight", self.weight, 0.0)
        if self.layers is not None and not (isinstance(self.layers, str) and self.layers == "trusted"):
            checks.layers("layers", self.layers)

    def places(self, layers: Sequence[int]) -> list[int]:
        """Where its layers are among those of a set of vectors."""
        assert self.layers != "trusted", "Regularizer looks up which these are"
        return [layers.index(layer) for layer in (layers if self.layers is None else self.layers)]

    @property
    def name(self) -> str:
        """Name in the metrics: ``hinge/desperate``."""
        return f"{type(self).__name__.lower()}/{self.emotion}"


@dataclass(frozen=True, kw_only=True)
class Hinge(_Penalty):
    """One-sided: ``max(0, z - threshold)^2``, nothing below the threshold.

    z is 0 where the base model reads neutral text on average, so about half of all neutral tokens lie above the default
    threshold too, if not far: what is squared there is small.
    """

    weight: float = HINGE_WEIGHT
    threshold: float = 0.0
    """In z: standard deviations of the base model's readings on neutral text."""
    scope: Scope = "completion"

    def __post_init__(self):
        super().__post_init__()
        checks.number("threshold", self.threshold)
        check_scope(self.scope)

    def __call__(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The penalty at each position."""
        return torch.relu(z - self.threshold).square()


@dataclass(frozen=True, kw_only=True)
class Band(_Penalty):
    """Two-sided: squared distance of z from the interval ``[low, high]``."""

    weight: float = HINGE_WEIGHT
    low: float = -1.0
    high: float = 1.0
    scope: Scope = "completion"

    def __post_init__(self):
        super().__post_init__()
        checks.number("low", self.low)
        checks.number("high", self.high)
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low={self.low} and high={self.high}")
        check_scope(self.scope)

    def __call__(self, z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The penalty at each position."""
        return (z - z.clamp(self.low, self.high)).square()


@dataclass(frozen=True, kw_only=True)
class Anchor(_Penalty):
    """Keep neutral reference text where the base model had it: ``(z - z_base)^2`` at each of its tokens.

    Without it a one-sided penalty is met by translation: every text, neutral ones too, moves down the direction.
    The reference texts (`emoreg.reading.matched`) are run through the model every ``every``-th optimizer step,
    ``texts`` of them in turn; the weight is multiplied by ``every``, so that its strength does not depend on it.
    """

    weight: float = ANCHOR_WEIGHT
    every: int = 4
    texts: int = 4

    def __post_init__(self):
        super().__post_init__()
        for name in ("every", "texts"):
            checks.integer(name, getattr(self, name), 1)

    def __call__(self, z: Float[Tensor, "*shape"], z_base: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The penalty at each token."""
        return (z - z_base).square()


Penalty = Hinge | Band | Anchor


def default_penalties(
    emotion: str = "desperate",
    hinge: float = HINGE_WEIGHT,
    anchor: float = ANCHOR_WEIGHT,
    *,
    scope: Scope = "completion",
    layers: Sequence[int] | Literal["trusted"] | None = None,
) -> list[Penalty]:
    """An anchored hinge at every block: what the trials on a real chat model settled on (``docs/evidence-smollm2.md``).

    Args:
        emotion: the emotion to keep down.
        hinge: weight of the `Hinge`.
        anchor: weight of the `Anchor`.
        scope: of the `Hinge`.
        layers: blocks that both act on; all blocks of the vectors by default.
    """
    checks.number("hinge", hinge, 0.0)
    checks.number("anchor", anchor, 0.0)
    return [Hinge(emotion, weight=hinge, scope=scope, layers=layers), Anchor(emotion, weight=anchor, layers=layers)]


def thresholds(penalties: Sequence[Penalty], emotions: Sequence[str]) -> list[float]:
    """For each emotion, the z above which statistics count a position: its hinge's or band's edge, else 0."""
    edges = {p.emotion: p.high for p in penalties if isinstance(p, Band)}
    edges |= {p.emotion: p.threshold for p in penalties if isinstance(p, Hinge)}
    return [edges.get(emotion, 0.0) for emotion in emotions]
