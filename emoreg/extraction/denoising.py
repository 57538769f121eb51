"""Taking out of directions what varies most in neutral text.

Shapes: L layers, K emotions, D width, N components, X states or directions.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# What is left of a direction below this length is rounding.
_NOTHING = 1e-5


def components(covariance_DD: Float[Tensor, "D D"], share: float) -> Float[Tensor, "N D"]:
    """The fewest principal components that hold a share of the variance; none for a share of 0.

    Raises:
        ValueError: if ``share`` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of variance to take out must be at least 0 and below 1, got {share}")
    if share == 0:
        return covariance_DD[:0]
    variance_D, components_DD = torch.linalg.eigh(covariance_DD)  # ascending
    held_D = variance_D.flip(0).clamp(min=0).cumsum(0)
    n_out = int((held_D < share * held_D[-1]).sum()) + 1
    return components_DD[:, -n_out:].T


def project_out(
    states_LXD: Float[Tensor, "L X D"], components_L: Sequence[Float[Tensor, "_ D"]]
) -> Float[Tensor, "L X D"]:
    """States less their part in each layer's components, or directions less theirs: the readings are the same."""
    out = [out_ND.to(states_LXD) for out_ND in components_L]
    return torch.stack([one - one @ out_ND.T @ out_ND for one, out_ND in zip(states_LXD, out, strict=True)])


def denoise(
    directions_LKD: Float[Tensor, "L K D"], covariance_LDD: Float[Tensor, "L D D"], share: float
) -> Float[Tensor, "L K D"]:
    """Directions less their part in the largest principal components of neutral text, at unit length again.

    What varies most in text without emotion (its topic, its form) is no emotion's; a direction that leans on it reads,
    and when penalised disturbs, much else.

    Args:
        directions_LKD: unit directions.
        covariance_LDD: of neutral token states.
        share: of their variance, held by the components that are taken out; 0 takes out none.

    Raises:
        ValueError: if ``share`` is not in [0, 1), or nothing of a direction is left.

    References:
        Sofroniew et al. 2026, arXiv 2604.07729: a share of one half.
    """
    rest_LKD = project_out(directions_LKD.double(), [components(one_DD, share) for one_DD in covariance_LDD])
    length_LK1 = rest_LKD.norm(dim=-1, keepdim=True)
    if (length_LK1 < _NOTHING).any():
        raise ValueError(f"nothing of a direction is left when {share:.0%} of neutral variance is taken out; take less")
    return rest_LKD / length_LK1
