"""From labelled text vectors to directions: one pure function per method, none of which centres away what it seeks.

Each gives unit directions in fp64, and each emotion's texts read higher along its own than the others' do. Difference
of means, one-against-rest, LDA and LEACE need sums alone; the probe and the subspace need some text vectors too.

Which to take: a difference of means is an emotion's *pattern*, what is added to the residual stream when it is felt,
and what steering and penalties should act on. LDA, LEACE's reader and the probe are *filters*: they read best, by
turning away from directions in which texts vary for other reasons, and so away from the pattern (Haufe et al. 2014).

Shapes: L layers, K emotions, N texts, D width, R rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from emoreg import checks
from emoreg.extraction.moments import Moments

ESTIMATORS = ("difference_of_means", "one_against_rest", "lda", "leace", "logistic", "class_pca")
NEED_PRODUCTS = ("lda", "leace", "class_pca")
NEED_SAMPLE = ("logistic", "class_pca")

# A difference below this share of the mean itself is rounding of the forward pass, not a direction.
_COINCIDE = 1e-5


@dataclass(frozen=True)
class Sample:
    """Some texts' own vectors, where sums are not enough."""

    vectors: Float[Tensor, "L N D"]
    emotion: Int[Tensor, " N"]
    """Which of the K emotions each text shows."""


def fit(
    estimator: str, moments: Moments, emotions: Sequence[str], sample: Sample | None = None, rank: int = 1
) -> Float[Tensor, "L K R D"]:
    """Directions by the method of that name; R of them for each emotion.

    Args:
        estimator: one of `ESTIMATORS`.
        moments: of text vectors, one group per emotion, with products for those of `NEED_PRODUCTS`.
        emotions: their K names.
        sample: text vectors, for those of `NEED_SAMPLE`.
        rank: R, above 1 for ``class_pca`` alone.

    Raises:
        ValueError: for an unknown method or a rank that it does not have, an emotion without texts, or one whose mean
            coincides with the others'.
    """
    checks.option("estimator", estimator, ESTIMATORS)
    checks.integer("rank", rank, 1)
    if rank > 1 and estimator != "class_pca":
        raise ValueError(f"{estimator} gives one direction per emotion; rank {rank} needs the estimator 'class_pca'")
    shift_LKD = shifts(moments, emotions)
    if estimator == "class_pca":
        assert sample is not None
        return class_pca(moments, sample, rank)
    if estimator == "logistic":
        assert sample is not None
        directions_LKD = logistic(sample, len(emotions))
    else:
        by_sums = {"one_against_rest": one_against_rest, "lda": lda, "leace": leace}
        directions_LKD = by_sums[estimator](moments) if estimator in by_sums else shift_LKD
    return unit(directions_LKD).unsqueeze(2)


def shifts(moments: Moments, emotions: Sequence[str]) -> Float[Tensor, "L K D"]:
    """Each emotion's mean less the mean of the other emotions' means, at its own length.

    Raises:
        ValueError: for an emotion without texts, or one whose mean coincides with the others'.
    """
    for emotion, count in zip(emotions, moments.count.tolist(), strict=True):
        if not count:
            raise ValueError(f"no text of {emotion!r} is left to fit a direction on")
    means_LKD = moments.mean
    centre_L1D = means_LKD.mean(dim=1, keepdim=True)
    shift_LKD = (means_LKD - centre_L1D) * len(emotions) / (len(emotions) - 1)
    small_LK = shift_LKD.norm(dim=-1) <= _COINCIDE * centre_L1D.norm(dim=-1)
    if small_LK.any():
        n, k = small_LK.nonzero()[0].tolist()
        raise ValueError(
            f"the mean of {emotions[k]!r} coincides with the mean over emotions at layer {moments.layers[n]}, so it "
            "has no direction; are its texts the same as another emotion's?"
        )
    return shift_LKD


def difference_of_means(moments: Moments, emotions: Sequence[str]) -> Float[Tensor, "L K D"]:
    """Each emotion's mean less the mean over emotions, every emotion counting alike.

    Raises:
        ValueError: as `shifts` does.

    References:
        Sofroniew et al. 2026, arXiv 2604.07729.
    """
    return unit(shifts(moments, emotions))


def one_against_rest(moments: Moments) -> Float[Tensor, "L K D"]:
    """Each emotion's mean less the mean of all other texts, every text counting alike.

    The same direction as `difference_of_means` where all emotions have as many texts.
    """
    rest_sums = moments.sums.sum(1, keepdim=True) - moments.sums
    rest_count = moments.count.sum() - moments.count
    return unit(moments.mean - rest_sums / rest_count[:, None])


def lda(moments: Moments) -> Float[Tensor, "L K D"]:
    """Linear discriminants: the difference from the other texts, weighed by the inverse covariance within emotions.

    The covariance is shrunk by nine tenths. That still takes out whatever varies much more than the rest, a nuisance as
    large as the emotion say; with the usual few per cent, an emotion that is unevenly strong turns the direction away
    from its own mean, since its own variance counts as noise (cosine .59 instead of .98 where it was planted).

    References:
        Friedman 1989, regularized discriminant analysis, eq. 18 with lambda 0 and gamma .9.
    """
    return unit(torch.linalg.solve(shrunk(moments.within, 0.9), one_against_rest(moments).mT).mT)


def leace(moments: Moments) -> Float[Tensor, "L K D"]:
    """What LEACE reads to erase "this emotion or another": the cross-covariance with the label, weighed by the pseudo-
    inverse of the covariance of all texts.

    What it takes away lies along the other factor of the eraser, the cross-covariance itself: `one_against_rest`. This
    is exact, not shrunk, as erasure needs it: with fewer texts than dimensions it fits every text, noise included, and
    it comes near the pattern only with many thousands of them. To read an emotion take `lda`.

    References:
        Belrose et al. 2023, arXiv 2306.03819, theorem 4.3.
    """
    # Below this share of the largest, an eigenvalue is rounding of fp32 states, not variance.
    inverse_LDD = torch.linalg.pinv(moments.covariance, hermitian=True, rtol=1e-8)
    return unit(one_against_rest(moments) @ inverse_LDD)


def logistic(sample: Sample, n_emotions: int) -> Float[Tensor, "L K D"]:
    """Weights of a logistic regression for each emotion against the rest, L2-penalised; both sides weigh alike."""
    from sklearn.linear_model import LogisticRegression

    weights = []
    for vectors_ND in sample.vectors.double():
        centred_ND = vectors_ND - vectors_ND.mean(0)
        scaled = (centred_ND / centred_ND.square().mean().sqrt()).numpy()  # one scale for all: it turns no direction
        for k in range(n_emotions):
            probe = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
            weights.append(torch.from_numpy(probe.fit(scaled, (sample.emotion == k).numpy()).coef_[0]))
    return unit(torch.stack(weights).unflatten(0, (-1, n_emotions)).double())


def class_pca(moments: Moments, sample: Sample, rank: int) -> Float[Tensor, "L K R D"]:
    """An orthonormal basis of the R directions in which an emotion's texts lie farthest from the other emotions' mean.

    Principal components of the emotion's texts *about the others' mean*, not their own, in the metric in which variance
    within emotions is 1 in every direction. So the shift of the mean counts, and what varies in all texts does not.

    Raises:
        ValueError: if an emotion has fewer texts in the sample than the rank.
    """
    fewest = int(torch.bincount(sample.emotion, minlength=len(moments.count)).min())
    if not rank <= min(fewest, sample.vectors.shape[-1]):
        raise ValueError(f"a subspace of rank {rank} needs as many texts of every emotion; one has {fewest}")
    bases = []
    for n, within_DD in enumerate(shrunk(moments.within, 0.1)):
        variance_D, axes_DD = torch.linalg.eigh(within_DD)
        root_DD, inverse_DD = (axes_DD * variance_D**power @ axes_DD.T for power in (0.5, -0.5))
        for k in range(len(moments.count)):
            others_D = (moments.sums[n].sum(0) - moments.sums[n, k]) / (moments.count.sum() - moments.count[k])
            seen_ND = (sample.vectors[n, sample.emotion == k].double() - others_D) @ inverse_DD
            components_RD = torch.linalg.svd(seen_ND, full_matrices=False).Vh[:rank] @ root_DD
            basis_RD = torch.linalg.qr(components_RD.T).Q.T
            sign_R = torch.where(basis_RD @ (moments.mean[n, k] - others_D) < 0, -1.0, 1.0)
            bases.append(basis_RD * sign_R[:, None])
    return torch.stack(bases).unflatten(0, (-1, len(moments.count)))


def shrunk(covariance_LDD: Float[Tensor, "L D D"], share: float) -> Float[Tensor, "L D D"]:
    """A covariance, in some share replaced by the multiple of the identity that has the same trace."""
    variance_L = covariance_LDD.diagonal(dim1=-2, dim2=-1).mean(-1)
    identity_DD = torch.eye(covariance_LDD.shape[-1], dtype=covariance_LDD.dtype)
    return (1 - share) * covariance_LDD + share * variance_L[:, None, None] * identity_DD


def unit(vectors: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
    """Vectors at length 1."""
    return vectors / vectors.norm(dim=-1, keepdim=True)
