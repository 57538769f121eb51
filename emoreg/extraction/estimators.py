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
