"""Texts through the model, each once, into moments: in batches that are the same however many ranks share them.

Shapes: B batch, T positions, D width, N rows, G groups.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate.utils import memory
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from emoreg import ranks
from emoreg.extraction.moments import Moments, MomentsFitter
from emoreg.extraction.shards import Shards
from emoreg.extraction.tokens import Tokens
from emoreg.model import evaluating, gathered, input_device, is_sharded, named_weights, run_to, unwrap

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Texts of about the same length, padded on the right (in a causal model no token can see that padding)."""

    index: Int[Tensor, " B"]
    """Which texts these are."""
    ids: Int[Tensor, "B T"]
    present: Bool[Tensor, "B T"]
    """Not padding."""
    readable: Bool[Tensor, "B T"]
    """The text's own tokens."""
    chosen: Bool[Tensor, "B T"]
    """Those of them that the token rule takes."""

    def text_means(self, hidden_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Each text's mean over its chosen tokens, fp32 or better."""
        chosen_BT1 = self.chosen.to(hidden_BTD.device).unsqueeze(-1)
        dtype = torch.promote_types(hidden_BTD.dtype, torch.float32)
        return torch.where(chosen_BT1, hidden_BTD, 0).sum(1, dtype=dtype) / chosen_BT1.sum(1)


Rows = Callable[[int, Tensor, Batch], tuple[Tensor, Tensor]]
"""Layer, hidden states and batch to the rows that go into the moments and their weight in each group."""


def stream_moments(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    rows: Rows,
    n_groups: int,
    *,
    products: bool = False,
    from_token: int = 1,
    tokens_per_batch: int,
    bar: tqdm,
    shards: Shards | None = None,
) -> Moments:
    """Forward every text once, in eval mode and without the head, and add up what ``rows`` makes of each layer.

    Batches are dealt to the ranks of a distributed run, each of which must call this and gets the moments of all. What
    ``shards`` already hold is not done again.

    Raises:
        ValueError: naming the first layer that gave a value that is not finite; for a text that alone needs more memory
            than there is, or a tensor-parallel model on several ranks; on all ranks if one of them fails.
    """
    check_ranks(model)
    # Longest first: little padding, and memory that does not suffice shows in the first batch.
    batches = cut(texts, sorted(range(len(texts)), key=lambda n: -len(texts[n])), tokens_per_batch)
    done = set() if shards is None else shards.done
    missing, world, rank = [n for n in range(len(batches)) if n not in done], ranks.world(), ranks.rank()
    turns = [missing[at : at + world] for at in range(0, len(missing), world)] or [[]]
    in_shares = is_sharded(model)
    fitter, mine = MomentsFitter(layers, n_groups, products), list[int]()
    passes = _Passes(model, fitter, texts, rows, from_token, tokens_per_batch, can_split=not in_shares)
    bar.update(sum(len(batches[n]) for n in done))

    def take(turn: Sequence[int]) -> None:
        if rank < len(turn):
            passes.add(batches[turn[rank]])
            mine.append(turn[rank])
        elif in_shares or fitter.is_empty:  # others wait for this rank's share of the weights, or of the sums
            passes.add(batches[-1][-1:], counts=False)
        bar.update(sum(len(batches[n]) for n in turn))
        if shards is not None and mine:
            shards.save(fitter.result, mine)

    def watched():
        # A rank of a sharded model cannot tell the others: they wait for its weights, and see that it is gone.
        return nullcontext() if in_shares else ranks.together()

    with evaluating(model):
        with watched():
            take(turns[0])
        _check_finite(model, fitter)  # a broken model shows at once; each batch's look would wait for the device
        with watched():
            for turn in turns[1:]:
                take(turn)
            if shards is not None:
                shards.close(fitter.result, mine)
                for moments in shards.earlier():
                    fitter.add(moments)
    fitter.merge()
    _check_finite(model, fitter)
    return fitter.result()


class _Passes:
    """Forward passes into a fitter, in pieces where memory does not suffice for a whole batch."""

    def __init__(self, model, fitter, texts, rows, from_token, tokens_per_batch, can_split):
        self._model, self._fitter, self._texts, self._rows = model, fitter, texts, rows
        self._from_token, self._can_split = from_token, can_split
        self._tokens = tokens_per_batch

    def add(self, index: Sequence[int], counts: bool = True) -> None:
        """Run some texts, the longest first, and add their rows at every layer, at weight 0 if they do not count."""
        # A pass that breaks off has been added at its lower layers. They are not to add it again.
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
            # Only here has the exception let go of what the pass had on the device.
            memory.clear_device_cache(garbage_collection=True)
            self._tokens = len(piece) * len(self._texts[piece[0]]) // 2
            pieces.insert(0, (piece, frozenset(now)))
            logger.warning("out of memory; batches have at most %d padded tokens from here on", self._tokens)

    def _fits(self, piece: Sequence[int], added: set[int], counts: bool) -> bool:
        batch = _padded(self._texts, piece, self._from_token, input_device(self._model))

        def visit(layer: int, hidden: Tensor) -> None:
            if layer not in added:
                rows, weight = self._rows(layer, hidden, batch)
                self._fitter.update(layer, rows, weight if counts else torch.zeros_like(weight))
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


def cut(texts: Sequence[Tokens], index: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Texts, given the longest first, in batches of so many padded tokens at most. A longer text is one of its own."""
    batches: list[list[int]] = []
    for n in index:
        if batches and len(texts[batches[-1][0]]) * (len(batches[-1]) + 1) <= tokens_per_batch:
            batches[-1].append(n)
        else:
            batches.append([n])
    return batches


def check_ranks(model: nn.Module) -> None:
    """Refuse a model whose ranks must all see the same batch.

    Raises:
        ValueError: for a tensor-parallel model on several ranks.
    """
    if ranks.world() > 1 and (getattr(unwrap(model), "tp_size", None) or 1) > 1:
        raise ValueError(
            "texts are dealt to the ranks, but those of a tensor-parallel model must see the same; load it whole, with "
            "FSDP or ZeRO-3, or in one process with device_map"
        )


def _padded(texts: Sequence[Tokens], index: Sequence[int], from_token: int, device: torch.device) -> Batch:
    chosen = [texts[n] for n in index]
    length, first, end = torch.tensor([(len(text), text.first_read, text.end) for text in chosen]).T.unsqueeze(-1)
    rule = torch.tensor([[text.first_from(from_token)] for text in chosen])
    position = torch.arange(len(chosen[0]))
    masks = position < length, (position >= first) & (position < end), (position >= rule) & (position < end)
    ids = pad_sequence([text.ids for text in chosen], batch_first=True)  # any token will do where none is seen
    return Batch(*(tensor.to(device) for tensor in (torch.tensor(index), ids.long(), *masks)))


def _check_finite(model: nn.Module, fitter: MomentsFitter) -> None:
    layer = fitter.not_finite()
    if ranks.world() > 1:  # one that is found on any rank, so that all look for the cause
        said = [int(found) for found in ranks.gather("-1" if layer is None else str(layer)) if found != "-1"]
        layer = min(said, default=None)
    if layer is None:
        return
    bad = dict[str, None]()
    for name, parameter in named_weights(model):
        with gathered(parameter) as whole:
            if not whole.isfinite().all():
                bad[name] = None
    if bad:
        cause = f"parameter {next(iter(bad))} holds nan or inf"
        cause += f", and so do {len(bad) - 1} more" if len(bad) > 1 else ""
    else:
        dtype = next(model.parameters()).dtype
        cause = f"its parameters are, so the forward pass overflows in {dtype}; load the model in bfloat16 or float32"
    raise ValueError(f"hidden states at layer {layer} are not finite: {cause}")
