"""A penalty over the positions of its scope, or over reference text: from z to what joins a loss, before its weight.

Shapes: B batch, T positions, L layers that the penalty acts on, n tokens of reference texts.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emoreg.reading import Scoped, n_sequences
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


class ScopedPenalty(NamedTuple):
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


def sums_over_scope(
    penalty: Hinge | Band, z_LBT: Float[Tensor, "L B T"], batch: Scoped
) -> tuple[Float[Tensor, " B"], Int[Tensor, " B"]]:
    """Of each sequence, the penalty summed over its positions in scope and averaged over layers, and their number."""
    inside_BT = batch.positions(penalty.scope)
    # Padding may hold NaN: cut out before the penalty, so that its gradient is cut too, and again after.
    penalty_LBT = penalty(torch.where(inside_BT, z_LBT, 0.0)) * inside_BT
    return penalty_LBT.sum(2).mean(0), inside_BT.sum(1)


def over_scope(
    penalty: Hinge | Band, z_LBT: Sequence[Tensor], batches: Sequence[Scoped], scale: Scale
) -> ScopedPenalty:
    """A penalty over the positions of its scope in every pass, averaged over layers.

    Args:
        penalty: the penalty.
        z_LBT: z of its emotion at its layers, one (L, B, T) tensor for each pass.
        batches: what scopes look at, for each pass.
        scale: what the sum over positions becomes.
    """
    of_passes = [sums_over_scope(penalty, z, batch) for z, batch in zip(z_LBT, batches, strict=True)]
    sums_B, counts_B = (torch.cat(found) for found in zip(*of_passes, strict=True))
    total, count = sums_B.sum(), counts_B.sum()
    value = total / count.clamp(min=1)
    if scale.of == "tokens":
        value = total
    elif scale.of == "sequences":
        n = torch.stack([n_sequences(penalty.scope, batch.inputs) for batch in batches]).sum()
        value = (sums_B / counts_B.clamp(min=1)).sum() / n.clamp(min=1)
    everywhere = torch.stack([batch.tokens(penalty.scope).sum() for batch in batches]).sum()
    return ScopedPenalty(scale.factor * value, total.detach(), count, everywhere)


def over_reference(anchor: Anchor, z_Ln: Float[Tensor, "L n"], base_Ln: Float[Tensor, "L n"]) -> Float[Tensor, ""]:
    """An anchor over reference texts and layers, times ``every``, so that its strength does not depend on that.

    Args:
        anchor: the anchor.
        z_Ln: z of its emotion at its layers, under the model as it is.
        base_Ln: the same under the base model.
    """
    return anchor.every * anchor(z_Ln, base_Ln).mean()
