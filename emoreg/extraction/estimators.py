"""From moments of labelled texts to directions: one pure function per method.

Shapes: L layers, K emotions, D width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from emoreg.extraction.moments import Moments

# A difference below this share of the mean itself is rounding of the forward pass, not a direction.
_COINCIDE = 1e-5


def difference_of_means(moments: Moments, emotions: Sequence[str]) -> Float[Tensor, "L K D"]:
    """Unit directions: each emotion's mean less the mean over emotions.

    Args:
        moments: of text vectors, one group per emotion, in the order of ``emotions``.
        emotions: their K names.

    Raises:
        ValueError: for an emotion without texts, or one whose mean coincides with the mean over emotions.

    References:
        Sofroniew et al. 2026, arXiv 2604.07729.
    """
    for emotion, count in zip(emotions, moments.count.tolist(), strict=True):
        if not count:
            raise ValueError(f"no text of {emotion!r} is left to fit a direction on")
    means_LKD = moments.mean
    centre_L1D = means_LKD.mean(dim=1, keepdim=True)
    differences_LKD = means_LKD - centre_L1D
    length_LK1 = differences_LKD.norm(dim=-1, keepdim=True)
    flat = (length_LK1 <= _COINCIDE * centre_L1D.norm(dim=-1, keepdim=True))[..., 0].nonzero().tolist()
    if flat:
        layer, k = moments.layers[flat[0][0]], flat[0][1]
        raise ValueError(
            f"the mean of {emotions[k]!r} coincides with the mean over emotions at layer {layer}, so it has no "
            "direction; are its texts the same as another emotion's?"
        )
    return (differences_LKD / length_LK1).to(torch.float32)


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
    if not 0 <= share < 1:
        raise ValueError(f"the share of variance to take out must be at least 0 and below 1, got {share}")
    if share == 0:
        return directions_LKD
    denoised = []
    for directions_KD, covariance_DD in zip(directions_LKD.double(), covariance_LDD, strict=True):
        variance_D, components_DD = torch.linalg.eigh(covariance_DD)  # ascending
        held_D = variance_D.flip(0).clamp(min=0).cumsum(0)
        n_out = int((held_D < share * held_D[-1]).sum()) + 1
        out_DN = components_DD[:, -n_out:]
        rest_KD = directions_KD - directions_KD @ out_DN @ out_DN.T
        length_K1 = rest_KD.norm(dim=-1, keepdim=True)
        if (length_K1 < _COINCIDE).any():
            raise ValueError(
                f"nothing of a direction is left when {share:.0%} of neutral variance is taken out; take less"
            )
        denoised.append((rest_KD / length_K1).float())
    return torch.stack(denoised)
