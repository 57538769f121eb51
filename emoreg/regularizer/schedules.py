"""Schedules: optimizer step to a factor on every penalty's weight."""

import math
from collections.abc import Callable

from emoreg import checks

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


def check_steps(warmup: int, total: int | None, prefix: str = "") -> None:
    """Raise ValueError unless a schedule can rise over ``warmup`` steps and then fall until ``total``."""
    checks.integer(f"{prefix}warmup_steps", warmup, 0)
    if total is not None:
        checks.integer(f"{prefix}total_steps", total, 1)
        if total <= warmup:
            raise ValueError(
                f"{prefix}total_steps must be a whole number above {prefix}warmup_steps={warmup}, got {total}"
            )


def _warm_and_decay(shape: Callable[[float], float], warmup: int, total: int | None) -> Schedule:
    check_steps(warmup, total)

    def factor(step: int) -> float:
        if step < warmup:
            return shape((step + 1) / warmup)
        if total is None:
            return 1.0
        return shape(max(0.0, (total - step) / (total - warmup)))

    return factor
