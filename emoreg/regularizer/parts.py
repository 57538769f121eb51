"""Parts: what single penalties add to the loss, before their weights.

Shapes: B batch, T positions, L layers that the penalty acts on, n tokens of reference texts.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emoreg.reading import n_sequences, rows, tokens
from emoreg.regularizer.penalties import Anchor, Band, Hinge


class Scale(NamedTuple):
    """How a batch's positions in scope become a part of an optimizer step's loss."""

    of: Literal["scope", "tokens", "sequences"] = "scope"
    """``scope``: a mean over this batch's positions in scope. ``tokens``: a sum over them, times ``factor``.
    ``sequences``: each sequence's mean over its own, and the mean of those."""
    factor: Tensor | float = 1.0
    """For a loop that accumulates gradients, or averages them over ranks."""
    once: Tensor | float = 1.0
    """Factor on what is added once per optimizer step (anchors)."""


class Part(NamedTuple):
    """One penalty over the passes of a batch."""

    value: Float[Tensor, ""]
    """What joins the loss, before its weight."""
    total: Float[Tensor, ""]
    """Sum of the penalty over the positions in scope, without gradient."""
    inside: Int[Tensor, ""]
    """Number of positions in scope."""
    everywhere: Int[Tensor, ""]
    """The same in all sequences: whether a preference batch holds one of the kind in question is chance, and no fault
    of the scope."""


class Gate:
    """Keeps the gradient of a part that is not finite, which may be NaN, out of the model."""

    def __init__(self):
        self.open = torch.ones((), dtype=torch.bool)
        """Whether the part is finite; known once it is computed, before any backward."""

    def on(self, z: Tensor) -> Tensor:
        """z, whose gradient will be 0 unless the gate is open."""
        if z.requires_grad:
            z.register_hook(lambda grad: torch.where(self.open, grad, 0.0))
        return z

    def close_unless_finite(self, part: Tensor) -> Tensor:
        """A part, or 0 in its place."""
        self.open = part.detach().isfinite()
        return torch.where(self.open, part, 0.0)


def over_scope(
    penalty: Hinge | Band, z_LBT: Sequence[Tensor], batches: Sequence[Mapping[str, Tensor]], scale: Scale
) -> Part:
    """A penalty over the positions of its scope in every pass, averaged over layers.

    Args:
        penalty: the penalty.
        z_LBT: z of its emotion at its layers, one (L, B, T) tensor for each pass.
        batches: what scopes look at, for each pass.
        scale: what the sum over positions becomes.
    """
    sums, counts, sequences, everywhere = [], [], [], []
    for z, batch in zip(z_LBT, batches, strict=True):
        everywhere_BT = tokens(penalty.scope, batch)
        inside_BT = everywhere_BT & rows(penalty.scope, batch)[:, None]
        # Padding may hold NaN: cut out before the penalty, so that its gradient is cut too, and again after.
        sums.append((penalty(torch.where(inside_BT, z, 0.0)) * inside_BT).sum(2).mean(0))
        counts.append(inside_BT.sum(1))
        sequences.append(n_sequences(penalty.scope, batch))
        everywhere.append(everywhere_BT.sum())
    sums_B, counts_B = torch.cat(sums), torch.cat(counts)
    total, count = sums_B.sum(), counts_B.sum()
    value = total / count.clamp(min=1)
    if scale.of == "tokens":
        value = total
    elif scale.of == "sequences":
        value = (sums_B / counts_B.clamp(min=1)).sum() / torch.stack(sequences).sum().clamp(min=1)
    return Part(scale.factor * value, total.detach(), count, torch.stack(everywhere).sum())


def anchored(anchor: Anchor, z_Ln: Float[Tensor, "L n"], base_Ln: Float[Tensor, "L n"]) -> Float[Tensor, ""]:
    """An anchor over reference texts and layers, times ``every``, so that its strength does not depend on that.

    Args:
        anchor: the anchor.
        z_Ln: z of its emotion at its layers, under the model as it is.
        base_Ln: the same under the base model.
    """
    return anchor.every * anchor(z_Ln, base_Ln).mean()
