"""Forward passes into a fitter of moments, in pieces where memory does not suffice for a whole batch."""

import logging
from collections.abc import Callable, Sequence

import torch
from accelerate.utils import memory
from torch import Tensor, nn

from emoreg.extraction.batches import Batch, cut, padded
from emoreg.extraction.moments import MomentsFitter
from emoreg.extraction.tokens import Tokens
from emoreg.model import input_device, run_to

logger = logging.getLogger(__name__)

VectorsOf = Callable[[int, Tensor, Batch], tuple[Tensor, Tensor]]
"""Layer, hidden states and batch to the vectors that go into the moments and their weight in each group."""


class Passes:
    """Runs some texts at a time, each at every layer of the fitter once."""

    def __init__(
        self,
        model: nn.Module,
        fitter: MomentsFitter,
        texts: Sequence[Tokens],
        vectors_of: VectorsOf,
        tokens_per_batch: int,
        can_split: bool,
    ):
        self._model, self._fitter, self._texts, self._vectors_of = model, fitter, texts, vectors_of
        self._tokens, self._can_split = tokens_per_batch, can_split

    def add(self, index: Sequence[int], counts: bool = True) -> None:
        """Run some texts, the longest first, and add their vectors at every layer, at weight 0 if they do not count."""
        # A pass that breaks off has been added at its lower layers, which must not add it again.
        pieces = [(list(index), frozenset[int]())]
        while pieces:
            piece, added = pieces.pop(0)
            parts = cut(self._texts, piece, self._tokens)
            if len(parts) > 1:
                pieces[:0] = [(part, added) for part in parts]
                continue
            now = set(added)
            if self._fits(piece, now, counts):
                continue
            # Not in the except clause: there the exception still holds what the pass had on the device.
            memory.clear_device_cache(garbage_collection=True)
            self._tokens = len(piece) * len(self._texts[piece[0]]) // 2
            pieces.insert(0, (piece, frozenset(now)))
            logger.warning("out of memory; batches have at most %d padded tokens from here on", self._tokens)

    def _fits(self, piece: Sequence[int], added: set[int], counts: bool) -> bool:
        batch = padded(self._texts, piece, input_device(self._model))

        def visit(layer: int, hidden: Tensor) -> None:
            if layer not in added:
                vectors, weight = self._vectors_of(layer, hidden, batch)
                self._fitter.update(layer, vectors, weight if counts else torch.zeros_like(weight))
                added.add(layer)

        layers = self._fitter.layers
        try:
            run_to(self._model, layers, visit, input_ids=batch.ids, attention_mask=batch.present.long())
        except Exception as error:
            if not (isinstance(error, torch.OutOfMemoryError) or memory.should_reduce_batch_size(error)):
                raise
            shape = f"{len(piece)} x {batch.ids.shape[1]} tokens"
            if not self._can_split:
                raise ValueError(
                    f"out of memory in a forward pass of {shape}; ranks that share a model's weights cannot back off "
                    f"one by one: take fewer tokens per batch, or more ranks ({error})"
                ) from error
            if len(piece) == 1:
                raise ValueError(
                    f"out of memory in a forward pass of a single text ({shape}); shorten the texts, or load the "
                    f"model in a smaller dtype, quantised, or over several devices (device_map) ({error})"
                ) from error
            return False
        return True
