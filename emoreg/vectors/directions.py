"""`Directions`: what an estimator, or another library's file, gives; not calibrated yet.

Shapes: L layers, K emotions, D width.
"""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Directions:
    """Unit directions and where they come from: what an estimator, or another library's file, gives."""

    emotions: tuple[str, ...]
    """K names."""
    layers: tuple[int, ...]
    """L block numbers, ascending."""
    directions: Float[Tensor, "L K D"]
    """Unit vectors, fp64."""
    shift: Float[Tensor, "L K D"]
    """What separates the emotion's texts from the others', at its own length in units of the residual stream, fp64."""
    method: str
    """Name of the estimator, or of the library."""
    token_rule: str = "unknown"
    corpus_hash: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    """Texts per emotion."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the estimator was told."""
