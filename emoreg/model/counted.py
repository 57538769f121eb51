"""Which forward passes of a model count, and which are its own reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

from emoreg.model.wrappers import active_adapters

Mode = Literal["train", "eval", "off"]


class CountedPasses:
    """Tells the passes that train from reference passes, generation and evaluation, which run through the same blocks.

    In mode ``train`` those under grad count, in ``eval`` those without, in ``off`` none. In any mode only those with
    the adapters that were active at the start: with others, or none, the model is its own reference.
    """

    def __init__(self, model: nn.Module):
        self.mode: Mode = "train"
        self._model, self._adapters = model, active_adapters(model)

    def __call__(self) -> bool:
        """Whether a pass that runs now counts."""
        if self.mode == "off" or torch.is_grad_enabled() != (self.mode == "train"):
            return False
        return active_adapters(self._model) == self._adapters

    @contextmanager
    def during(self, mode: Mode) -> Iterator[None]:
        """Count by another mode while the context is open."""
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before
