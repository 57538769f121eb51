"""What ranks of a distributed run tell each other: little, and only in calls that every rank makes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def world() -> int:
    """How many ranks there are: 1 in a process that is alone."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def rank() -> int:
    """This process's number among them."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


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
    both = sums.new_zeros(len(sums) + world() * len(maxima))
    both[: len(sums)] = sums
    places = both[len(sums) :].view(-1, len(maxima))
    places[rank()] = maxima
    torch.distributed.all_reduce(both)  # in place: with many ranks it is large
    return both[: len(sums)], places.amax(0)


def gather(value: str) -> Sequence[str]:
    """A string of every rank, in their order."""
    found = [""] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def from_first(value: Tensor, device: torch.device) -> Tensor:
    """The first rank's tensor, on every rank and bit for bit; ``device`` is the one that ranks communicate over."""
    if world() == 1:
        return value
    sent = value.to(device, copy=True)
    torch.distributed.broadcast(sent, src=0)
    return sent.to(value.device)


def object_from_first(value: Any) -> Any:
    """What the first rank has, on every rank."""
    if world() == 1:
        return value
    sent = [value]
    torch.distributed.broadcast_object_list(sent, src=0)
    return sent[0]


@contextmanager
def together() -> Iterator[None]:
    """Fail on every rank if one has failed, when all have reached the context's end. Every rank must enter it.

    Raises:
        ValueError: naming the first rank that failed, on those that did not.
    """
    if world() == 1:
        yield
        return
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    said = gather("" if failure is None else str(failure) or repr(failure))
    if failure is not None:
        raise failure
    for number, words in enumerate(said):
        if words:
            raise ValueError(f"rank {number} has failed: {words}")
