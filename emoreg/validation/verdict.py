"""From figures to advice: at which layers an emotion's direction may be trusted, and why, or why at none.

Shapes: L layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

ALPHA = 0.05
RELIABLE = 0.8


def verdict(figures: Mapping[str, Any], emotion: str) -> dict[str, Any]:
    """The band of layers to use for one emotion.

    A layer passes if its held-out AUC is more than luck (the permutation null, over all layers), above random
    directions, and above what words and embeddings give away, each with its interval; if the direction is stable
    between halves of the texts; and if it tells the emotion from its nearest neighbours. The band is the unbroken run
    of passing layers around the best of them.

    Args:
        figures: what `emoreg.validation.validate` gathered.
        emotion: one of its emotions.

    Returns:
        ``layers``, perhaps none, and ``why``.
    """
    k, layers = figures["emotions"].index(emotion), figures["layers"]
    failed = [_failures(figures, n, k) for n in range(len(layers))]
    auc = [n[k] for n in figures["auc"]]
    passing = [n for n in range(len(layers)) if not failed[n]]
    if not passing:
        best = max(range(len(layers)), key=lambda n: auc[n])
        return {
            "layers": [],
            "why": f"no layer is good enough; the best, {layers[best]}, has a held-out AUC of {auc[best]:.2f}, but "
            + "; ".join(failed[best]),
        }
    best = max(passing, key=lambda n: auc[n])
    band = _run_around(best, passing)
    lexical = max(figures[name]["auc"][k] for name in ("words", "embeddings"))
    return {
        "layers": [layers[n] for n in band],
        "why": f"layer {layers[best]} has a held-out AUC of {auc[best]:.2f} "
        f"({figures['auc_low'][best][k]:.2f} to {figures['auc_high'][best][k]:.2f}) where words or embeddings alone "
        f"have {lexical:.2f} and random directions up to {figures['random'][best][k]:.2f}; "
        f"p {figures['p'][best][k]:.3f} over all layers; reliability {figures['reliability'][best][k]:.2f}",
    }


def _failures(figures: Mapping[str, Any], n: int, k: int) -> list[str]:
    found = []
    if not figures["p"][n][k] <= ALPHA:
        found.append(f"shuffled labels do as well (p {figures['p'][n][k]:.2f} over all layers)")
    if not figures["auc_low"][n][k] > figures["random"][n][k]:
        found.append(f"random directions reach {figures['random'][n][k]:.2f}")
    if not figures["gain_low"][n][k] > 0:
        words, embedded = (figures[name]["auc"][k] for name in ("words", "embeddings"))
        found.append(
            f"it is not above what is lexical: words alone reach {words:.2f}, embeddings alone {embedded:.2f} "
            f"(gain over the better of {figures['gain'][n][k]:+.2f}, 95 % from {figures['gain_low'][n][k]:+.2f})"
        )
    if not figures["reliability"][n][k] >= RELIABLE:
        found.append(f"reliability is {figures['reliability'][n][k]:.2f}: too few texts for a stable direction")
    if not figures["hard"][n][k] > 0.5:
        found.append(f"it does not tell the emotion from its neighbours (AUC {figures['hard'][n][k]:.2f})")
    return found


def _run_around(n: int, passing: Sequence[int]) -> list[int]:
    low = high = n
    while low - 1 in passing:
        low -= 1
    while high + 1 in passing:
        high += 1
    return list(range(low, high + 1))
