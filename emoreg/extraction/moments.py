"""Sums of vectors per layer and group, in fp64, from which every estimator starts.

Shapes: L layers, G groups, H groups of groups, N vectors, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emoreg import ranks


@dataclass(frozen=True)
class Moments:
    """What `MomentsFitter` saw, on the host."""

    layers: tuple[int, ...]
    """L block numbers."""
    count: Float[Tensor, " G"]
    """Rows (or their weight) in each group."""
    sums: Float[Tensor, "L G D"]
    """Sum of each group's vectors."""
    products: Float[Tensor, "L D D"] | None = None
    """Sum of all vectors' outer products with themselves, where the fitter kept it."""

    @property
    def mean(self) -> Float[Tensor, "L G D"]:
        """Mean vector of each group; nan for a group without vectors."""
        return self.sums / self.count[:, None]

    @property
    def covariance(self) -> Float[Tensor, "L D D"]:
        """Population covariance of all vectors."""
        assert self.products is not None, "fitted without products"
        n, mean_L1D = self.count.sum(), self.sums.sum(1, keepdim=True) / self.count.sum()
        return self.products / n - mean_L1D.mT @ mean_L1D

    @property
    def within(self) -> Float[Tensor, "L D D"]:
        """Population covariance of all vectors about the means of their own groups."""
        assert self.products is not None, "fitted without products"
        return (self.products - self.sums.mT @ self.mean) / self.count.sum()

    def regroup(self, member_HG: Bool[Tensor, "H G"]) -> "Moments":
        """The moments of unions of groups: True where a new group takes in an old one.

        Products are of all vectors together, so they go along only where every vector stays, in one group.
        """
        stays = bool(((member_HG.sum(0) == 1) | (self.count == 0)).all())
        member_HG = member_HG.to(self.sums.dtype)
        return Moments(self.layers, member_HG @ self.count, member_HG @ self.sums, self.products if stays else None)


class MomentsFitter:
    """Adds vectors up as they stream by. Memory does not grow with their number, and no call waits for the device.

    Args:
        layers: L block numbers.
        n_groups: G.
        products: whether to sum outer products too, for the covariance: L x D x D numbers.
    """

    def __init__(self, layers: Sequence[int], n_groups: int, products: bool = False):
        self.layers, self._n_groups, self._with_products = tuple(layers), n_groups, products
        # Each layer's sums lie where its vectors come from: a model may be spread over devices.
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, Tensor] = {}
        self._products: dict[int, Tensor] = {}

    def update(self, layer: int, vectors_ND: Float[Tensor, "N D"], weight_NG: Tensor) -> None:
        """Add vectors to the groups of one layer.

        Args:
            layer: one of `layers`.
            vectors_ND: the vectors, of any float dtype.
            weight_NG: how much of each vector goes to each group; a mask, mostly.
        """
        vectors_ND = _exact(vectors_ND)
        weight_GN = weight_NG.to(vectors_ND).T
        # All that takes memory comes first: where it does not suffice, nothing has been added yet.
        count_G, width = weight_GN.sum(1), vectors_ND.shape[1]
        weighted_DN = (vectors_ND * weight_GN.sum(0)[:, None]).T if self._with_products else None
        if weighted_DN is not None and layer not in self._products:
            self._products[layer] = vectors_ND.new_zeros(width, width)
        if layer not in self._counts:
            self._counts[layer] = vectors_ND.new_zeros(self._n_groups)
        if layer not in self._sums:
            self._sums[layer] = vectors_ND.new_zeros(self._n_groups, width)
        self._sums[layer].addmm_(weight_GN, vectors_ND)
        self._counts[layer] += count_G
        if weighted_DN is not None:
            self._products[layer].addmm_(weighted_DN, vectors_ND)

    def add(self, moments: Moments) -> None:
        """Add what another fitter of the same layers and groups saw. This one must have seen vectors at every layer."""
        for n, layer in enumerate(self.layers):
            self._sums[layer] += moments.sums[n].to(self._sums[layer])
            self._counts[layer] += moments.count.to(self._counts[layer])
            if moments.products is not None:
                self._products[layer] += moments.products[n].to(self._products[layer])

    def merge(self) -> None:
        """Add up what the fitters of all ranks saw. Every rank must call this, with vectors at every layer."""
        if ranks.world() == 1:
            return
        for of_layer in (self._sums, self._counts, self._products):
            for layer in self.layers if of_layer else ():
                of_layer[layer] = ranks.sum_over(of_layer[layer])

    @property
    def is_empty(self) -> bool:
        """Whether no vectors have come yet, not even of weight 0."""
        return not self._sums

    def not_finite(self) -> int | None:
        """The first layer that met a value that is not finite. Waits for the device."""
        return next((layer for layer in self.layers if not self._sums[layer].isfinite().all()), None)

    def result(self) -> Moments:
        """The moments so far, copied to the host."""
        sums = torch.stack([self._sums[layer].cpu() for layer in self.layers])
        count = self._counts[self.layers[0]].cpu()
        products = torch.stack([self._products[layer].cpu() for layer in self.layers]) if self._with_products else None
        return Moments(self.layers, count, sums, products)


def _exact(vectors: Tensor) -> Tensor:
    # Apple's GPUs have no fp64.
    return (vectors.cpu() if vectors.device.type == "mps" else vectors).double()
