"""Texts through a model, each once, into moments: in batches that are the same however many ranks share them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from torch import nn
from tqdm.auto import tqdm

from emoreg import checks, ranks
from emoreg.extraction.batches import cut
from emoreg.extraction.moments import Moments, MomentsFitter
from emoreg.extraction.passes import Passes, VectorsOf
from emoreg.extraction.shards import Shards
from emoreg.extraction.tokens import Tokens
from emoreg.model import check_layers, depth, evaluating, gathered, is_sharded, named_weights, unwrap


@dataclass(frozen=True)
class Stream:
    """What all streams of texts through one model have in common."""

    model: nn.Module
    layers: tuple[int, ...]
    """L block numbers, ascending."""
    tokens_per_batch: int
    """Of a forward pass, padding included."""
    bar: tqdm
    """Advances by one for each text."""

    def moments(
        self,
        texts: Sequence[Tokens],
        vectors_of: VectorsOf,
        n_groups: int,
        *,
        products: bool = False,
        shards: Shards | None = None,
    ) -> Moments:
        """Forward every text once, in eval mode and without the head, and add up what ``vectors_of`` gives, by layer.

        Batches are dealt to the ranks of a distributed run; every rank must call this, and gets the moments of all.
        What ``shards`` already hold is not done again.

        Raises:
            ValueError: naming the first layer that gave a value that is not finite; for a text that alone needs more
                memory than there is, or a tensor-parallel model on several ranks; on all ranks if one of them fails.
        """
        check_ranks(self.model)
        # Longest first: little padding, and memory that does not suffice shows in the first batch.
        batches = cut(texts, sorted(range(len(texts)), key=lambda n: -len(texts[n])), self.tokens_per_batch)
        done = set() if shards is None else shards.done
        missing, world, rank = [n for n in range(len(batches)) if n not in done], ranks.world(), ranks.rank()
        turns = [missing[at : at + world] for at in range(0, len(missing), world)] or [[]]
        in_shares = is_sharded(self.model)
        fitter, mine = MomentsFitter(self.layers, n_groups, products), list[int]()
        passes = Passes(self.model, fitter, texts, vectors_of, self.tokens_per_batch, can_split=not in_shares)
        self.bar.update(sum(len(batches[n]) for n in done))

        def take(turn: Sequence[int]) -> None:
            if rank < len(turn):
                passes.add(batches[turn[rank]])
                mine.append(turn[rank])
            elif in_shares or fitter.is_empty:  # others wait for this rank's share of the weights, or of the sums
                passes.add(batches[-1][-1:], counts=False)
            self.bar.update(sum(len(batches[n]) for n in turn))
            if shards is not None and mine:
                shards.save(fitter.result, mine)

        def watched():
            # A rank of a sharded model cannot tell the others: they wait for its weights, and see that it is gone.
            return nullcontext() if in_shares else ranks.together()

        with evaluating(self.model):
            with watched():
                take(turns[0])
            # A broken model shows at once; a look at each batch would wait for the device.
            _check_finite(self.model, fitter)
            with watched():
                for turn in turns[1:]:
                    take(turn)
                if shards is not None:
                    shards.close(fitter.result, mine)
                    for moments in shards.earlier():
                        fitter.add(moments)
        fitter.merge()
        _check_finite(self.model, fitter)
        return fitter.result()


@contextmanager
def streaming(
    model: nn.Module, layers: Sequence[int] | None, tokens_per_batch: int, *, title: str, total: int, progress: bool
) -> Iterator[Stream]:
    """A stream through some layers, all of them by default, with its bar on the first rank.

    Args:
        model: a causal language model of transformers, bare or wrapped.
        layers: block numbers.
        tokens_per_batch: of a forward pass, padding included.
        title: what the bar is called.
        total: how many texts will go through, all streams together.
        progress: whether there is a bar.

    Raises:
        ValueError: for a layer out of range, or a number that is too small.
    """
    checks.integer("tokens_per_batch", tokens_per_batch, 1)
    n_blocks = depth(model)
    layers = check_layers(range(n_blocks) if layers is None else layers, n_blocks)
    with tqdm(total=total, desc=title, unit="text", disable=not progress or ranks.rank() > 0) as bar:
        yield Stream(model, layers, tokens_per_batch, bar)


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
