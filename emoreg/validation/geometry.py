"""What the directions are like among themselves: how stable, how entangled, and whether they lie as emotions do.

Shapes: L layers, N texts, D width, K emotions.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from emoreg.extraction import unit
from emoreg.validation.scores import Fit
from emoreg.validation.texts import Texts

_HALVINGS = 10
ENOUGH = 0.95
"""Cosine with the direction of infinitely many texts that counts as enough."""


def split_half(texts: Texts, fit: Fit, seed: int) -> Float[Tensor, "L K"]:
    """Mean cosine between the directions of two halves of the groups, over ten ways to halve them."""
    make, n_groups = torch.Generator().manual_seed(seed), int(texts.group.max()) + 1
    found = []
    for _ in range(_HALVINGS):
        first_N = (torch.randperm(n_groups, generator=make) < n_groups // 2)[texts.group]
        counts = [one_hot(texts.emotion[half_N], len(texts.emotions)).sum(0) for half_N in (first_N, ~first_N)]
        if min(int(count.min()) for count in counts):
            halves = [fit(texts.vectors[:, half_N], texts.emotion[half_N]) for half_N in (first_N, ~first_N)]
            found.append((halves[0] * halves[1]).sum(-1))
    if not found:
        raise ValueError("no half of the groups has texts of every emotion; expected more groups, or smaller ones")
    return torch.stack(found).mean(0)


def reliability(half_cosine: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """Expected cosine of a direction with that of infinitely many texts, by Spearman and Brown's formula.

    Texts add noise of which half is left when their number doubles, so the cosine c of two halves tells that of the
    whole: sqrt(2c / (1 + c)).
    """
    half = half_cosine.clamp(min=0)
    return (2 * half / (1 + half)).sqrt()


def texts_enough(half_cosine: Float[Tensor, "*any"], texts_per_half: float) -> Float[Tensor, "*any"]:
    """How many texts of an emotion would bring its direction to `ENOUGH`, by the same formula; at least 1."""
    half = half_cosine.clamp(min=1e-3, max=1 - 1e-6)
    noise = texts_per_half * (1 - half) / half
    return (noise * ENOUGH**2 / (1 - ENOUGH**2)).ceil().clamp(min=1)


def crosstalk(readings_NK: Float[Tensor, "N K"], texts: Texts) -> Float[Tensor, "K K"]:
    """Mean held-out reading of each emotion's texts (rows) along each direction (columns), in standard deviations."""
    member_KN = one_hot(texts.emotion, len(texts.emotions)).float().T
    z_NK = torch.empty_like(readings_NK)
    for fold in texts.fold.unique():  # each fold's directions have a zero of their own
        inside_MK = readings_NK[texts.fold == fold]
        z_NK[texts.fold == fold] = (inside_MK - inside_MK.mean(0)) / inside_MK.std(0).clamp(min=1e-12)
    return member_KN @ z_NK / member_KN.sum(1, keepdim=True)


def residualised(texts: Texts, fit: Fit) -> tuple[tuple[str, ...], Float[Tensor, "L K"]]:
    """Cosine of each direction with itself fitted after length and traits have been regressed out of the texts.

    Returns:
        The confounds that were taken out, and the cosines: near 1 if a direction owes them nothing.
    """
    columns, names = [torch.ones(len(texts.emotion)), texts.lengths.float().log()], ["length"]
    for trait in dict.fromkeys(name for item in texts.corpus for name in item.traits):
        values = [item.traits.get(trait, "") for item in texts.corpus]
        if len(set(values)) > 1:
            columns += [torch.tensor([value == one for value in values]).float() for one in sorted(set(values))[1:]]
            names.append(trait)
    design_NC = torch.stack(columns, 1).double()
    basis_NC = torch.linalg.svd(design_NC, full_matrices=False)
    basis_NC = basis_NC.U[:, 1e-8 * basis_NC.S[0] < basis_NC.S].float()
    rest_LND = texts.vectors - basis_NC @ (basis_NC.T @ texts.vectors)
    before_LKD, after_LKD = fit(texts.vectors, texts.emotion), fit(rest_LND, texts.emotion)
    return tuple(names), (before_LKD * after_LKD).sum(-1)


def plane(
    directions_KD: Float[Tensor, "K D"], emotions: Sequence[str], ratings: Mapping[str, tuple[float, float]]
) -> dict:
    """The first two principal components of the directions, against ratings of valence and arousal.

    Returns:
        Each component's share of variance, |r| of the first with valence and of the second with arousal over the
        emotions that are rated, and every emotion's place; empty for fewer than five rated emotions.

    References:
        Sofroniew et al. 2026, arXiv 2604.07729: r .81 and .66 over 171 emotions.
    """
    rated = [k for k, emotion in enumerate(emotions) if emotion in ratings]
    if len(rated) < 5:
        return {}
    centred_KD = directions_KD - directions_KD.mean(0)
    left_KC, length_C, _ = torch.linalg.svd(centred_KD, full_matrices=False)
    places_K2 = left_KC[:, :2] * length_C[:2]
    rating_R2 = torch.tensor([ratings[emotions[k]] for k in rated])
    r = [float(torch.corrcoef(torch.stack([places_K2[rated, c], rating_R2[:, c]]))[0, 1]) for c in (0, 1)]
    places_K2 = places_K2 * torch.tensor([1.0 if one >= 0 else -1.0 for one in r])
    share = (length_C**2 / (length_C**2).sum())[:2].tolist()
    return {
        "share": share,
        "valence_r": abs(r[0]),
        "arousal_r": abs(r[1]),
        "rated": len(rated),
        "places": places_K2.tolist(),
    }


def cosines(directions_KD: Float[Tensor, "K D"]) -> Float[Tensor, "K K"]:
    """Cosine of every direction with every other one."""
    return unit(directions_KD) @ unit(directions_KD).T
