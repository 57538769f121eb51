"""`Reader`: the hook that turns a model's forward passes into z, at every layer of a set of vectors.

Shapes: B batch, T positions, D width, L layers, K emotions, P penalised emotions (the first P of the K).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from emoreg.projection import project, standardise
from emoreg.statistics import Statistics
from emoreg.vectors import EmotionVectors

Mode = Literal["train", "eval", "off"]


class Reading(NamedTuple):
    """z of one forward pass, one tensor per layer, in the order of the vectors' layers."""

    penalised: list[Float[Tensor, "B T P"]]
    """With gradient."""
    all: list[Float[Tensor, "B T K"]]
    """Without."""


class Reader:
    """Holds z of the last forward pass until it is taken."""

    def __init__(self, vectors: EmotionVectors, n_penalised: int, statistics: Statistics):
        self.vectors = vectors
        self.n_penalised = n_penalised
        self.mode: Mode = "train"
        """Which passes are read: those under grad, all of them, or none."""
        self.watch_gradient = False
        """Whether passes measure, in their backward, the term's gradient at each layer against the task's."""
        self._statistics = statistics
        self._constants: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._drop()

    def _drop(self) -> None:
        self._passes = 0
        self._penalised: dict[int, Tensor] = {}
        self._all: dict[int, Tensor] = {}

    @contextmanager
    def reading(self, mode: Mode, watch_gradient: bool = False) -> Iterator[None]:
        """Read the passes of one mode while the context is open; then go on as if they had not been."""
        before = self.mode, self.watch_gradient, self._passes, self._penalised, self._all
        self._drop()
        self.mode, self.watch_gradient = mode, watch_gradient
        try:
            yield
        finally:
            self.mode, self.watch_gradient, self._passes, self._penalised, self._all = before

    def on_block(self, layer: int, hidden_BTD: Tensor) -> Tensor | None:
        """The hook at each layer: reads the residual stream; replaces it, if at all, by a view of itself."""
        if self.mode == "off" or (self.mode == "train" and not torch.is_grad_enabled()):
            return None
        self._passes += layer == self.vectors.layers[0]
        if not (self.watch_gradient and hidden_BTD.requires_grad):
            self._read(layer, hidden_BTD)
            return None
        # Two views part the gradients that meet at this tensor: the term's own here, and all that comes from above.
        here, above = hidden_BTD.view_as(hidden_BTD), hidden_BTD.view_as(hidden_BTD)
        here.register_hook(partial(self._record_gradient, "term", layer))
        above.register_hook(partial(self._record_gradient, "task", layer))
        self._read(layer, here)
        return above

    def _record_gradient(self, whose: str, layer: int, grad: Tensor) -> None:
        self._statistics.add(f"gradient/{whose}/layer_{layer}", grad.float().norm())

    def _read(self, layer: int, hidden_BTD: Tensor) -> None:
        if layer not in self._constants:
            row = self.vectors.layers.index(layer)
            v, device = self.vectors, hidden_BTD.device
            self._constants[layer] = v.directions[row].to(device), v.mean[row].to(device), v.std[row].to(device)
        directions_KD, mean_K, std_K = self._constants[layer]
        P = self.n_penalised
        readings_BTP, readings_BTK = project(hidden_BTD, directions_KD, P)
        self._penalised[layer] = standardise(readings_BTP, mean_K[:P], std_K[:P])
        self._all[layer] = standardise(readings_BTK, mean_K, std_K)

    def take(self, shape: torch.Size) -> Reading:
        """z of the pass just made, which must have read ``shape`` (B, T) positions. Forgets it.

        Raises:
            ValueError: if none, or more than one, pass was read since the last was taken, or one of another shape.
        """
        passes, penalised, everything = self._passes, self._penalised, self._all
        self._drop()
        if passes != 1:
            raise ValueError(
                f"expected one forward pass through all blocks, saw {passes}; make passes that do not train under "
                "torch.no_grad(), and take the term once after each that does"
            )
        reading = Reading([penalised[layer] for layer in penalised], [everything[layer] for layer in everything])
        if len(everything) != len(self.vectors.layers) or reading.all[0].shape[:2] != shape:
            raise ValueError(
                f"the model's blocks read {tuple(reading.all[0].shape[:2])} positions at {len(everything)} layers, "
                f"input_ids has {tuple(shape)} and the vectors {len(self.vectors.layers)}; scopes cannot be matched"
            )
        return reading
