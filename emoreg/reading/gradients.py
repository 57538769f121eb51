"""Norms of the term's and of the task's gradient at each hooked layer, measured in the one backward that there is.

At the last hooked layer the task's is exact; below it also carries what the term sends down from the layers above.
"""

from functools import partial

import torch
from torch import Tensor

from emoreg.reading.statistics import Statistics


class GradientNorms:
    """Counts squared norms into statistics, at the steps at which it is on."""

    def __init__(self, statistics: Statistics):
        self.on = False
        """Whether passes measure in their backward."""
        self.scaler: torch.amp.GradScaler | None = None
        """What multiplies the loss before its backward, in fp16: what is measured is divided by it."""
        self._statistics = statistics
        self._in_step = False

    def part(self, layer: int, hidden_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Two views of a hidden state: one for the term to read, one for the layers above.

        Autograd adds the gradients of the two up where they meet; each is measured before.
        """
        for_term, above = hidden_BTD.view_as(hidden_BTD), hidden_BTD.view_as(hidden_BTD)
        for_term.register_hook(partial(self._measure, "term", layer))
        above.register_hook(partial(self._measure, "task", layer))
        self._in_step = True
        return for_term, above

    def close_step(self) -> None:
        """Count an optimizer step in which any pass was measured."""
        if self._in_step:
            self._statistics.count("gradient/steps", 1.0)
            self._in_step = False

    def _measure(self, whose: str, layer: int, grad: Tensor) -> None:
        norm = grad.float().norm()
        if self.scaler is not None:
            # Not get_scale(): it would make the host wait.
            norm = norm / self.scaler.scale(torch.ones_like(norm))
        # Micro-batches and ranks have positions of their own: squares add up to that of the whole batch.
        self._statistics.count(f"gradient/{whose}/layer_{layer}", norm.square())


def gradient_norms(numbers: dict[str, float], n_ranks: int) -> None:
    """Turn counted squares, in place, into root mean squares over the steps at which they were measured."""
    # Every rank counts its steps, and trainers divide what ranks add up to by their number.
    steps = numbers.pop("gradient/steps", 0.0) / n_ranks
    for name in numbers:
        if name.startswith("gradient/"):
            numbers[name] = (numbers[name] / steps) ** 0.5 / n_ranks
