"""What ranks of a distributed run tell each other: little, and only where every rank is sure to come by."""

from collections.abc import Sequence

import torch
from torch import Tensor


def sum_over(value: Tensor) -> Tensor:
    """The sum of a tensor over all ranks, on each of them."""
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value


def sum_and_max_over(sums: Tensor, maxima: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and maxima over all ranks, in one reduction: each rank has a place of its own for its maxima.

    Args:
        sums: (n,).
        maxima: (m,), of the same dtype.
    """
    ranks = torch.distributed.get_world_size()
    places = torch.zeros(ranks, len(maxima), dtype=sums.dtype, device=sums.device)
    places[torch.distributed.get_rank()] = maxima
    reduced = sum_over(torch.cat([sums, places.flatten()]))
    return reduced[: len(sums)], reduced[len(sums) :].view_as(places).amax(0)


def gather(value: str) -> Sequence[str]:
    """A string of every rank, in their order."""
    found = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found
