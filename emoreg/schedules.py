"""Schedules: optimizer step to a factor in [0, 1] on every penalty's weight."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""A function of the optimizer step, counted from 0."""


def constant() -> Schedule:
    """Full weight at every step."""
    return lambda step: 1.0


def linear(warmup_steps: int = 0, total_steps: int | None = None) -> Schedule:
    """Rise in a line over the first ``warmup_steps``, then stay, or fall in a line to 0 at ``total_steps``.

    The first step already has a share of the weight (``1 / warmup_steps``), so that a term that cannot train is found
    at once.
    """
    return _warm_and_decay(lambda x: x, warmup_steps, total_steps)


def cosine(warmup_steps: int = 0, total_steps: int | None = None) -> Schedule:
    """As `linear`, along half a cosine each way."""
    return _warm_and_decay(lambda x: (1 - math.cos(math.pi * x)) / 2, warmup_steps, total_steps)


def _warm_and_decay(shape: Callable[[float], float], warmup: int, total: int | None) -> Schedule:
    if not isinstance(warmup, int) or warmup < 0:
        raise ValueError(f"warmup_steps must be a whole number of at least 0, got {warmup!r}")
    if total is not None and (not isinstance(total, int) or total <= warmup):
        raise ValueError(f"total_steps must be a whole number above warmup_steps={warmup}, got {total!r}")

    def factor(step: int) -> float:
        if step < warmup:
            return shape((step + 1) / warmup)
        if total is None:
            return 1.0
        return shape(max(0.0, (total - step) / (total - warmup)))

    return factor
