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
    # A sum of fixed size cannot hold a maximum, and two reductions would be one more.
    row = torch.zeros(
        len(sums) + torch.distributed.get_world_size() * len(maxima), dtype=sums.dtype, device=sums.device
    )
    row[: len(sums)] = sums
    places = row[len(sums) :].view(-1, len(maxima))
    places[torch.distributed.get_rank()] = maxima
    torch.distributed.all_reduce(row)  # in place: with many ranks it is large
    return row[: len(sums)], places.amax(0)


def gather(value: str) -> Sequence[str]:
    """A string of every rank, in their order."""
    found = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found
