"""Statistics of z while a model trains: sums, maxima and histograms on the device, brought to the host once per log.

Each state is declared once, where `Statistics.reset` starts it; packing, reduction over ranks and checkpoints go over
whatever is there. The figures are those of one process on the whole batch.

Shapes: B batch, T positions, n of both together, L layers, K emotions, Q histogram bins.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from emoreg import ranks
from emoreg.reading.as_text import from_text, to_text

LOW, HIGH, BINS = -16.0, 16.0, 512
"""Histogram for p95: bins of 1/16 of a standard deviation, which bounds its error; beyond the ends, the end bin."""

FIGURES = ("mean", "sd", "p95", "max", "above")

_MAXIMA = {"max"}
"""The states of which ranks' values are compared; those of all others add up."""


class Statistics:
    """Running statistics over the positions of a scope, per layer and emotion, and running means of named numbers."""

    def __init__(
        self, emotions: Sequence[str], layers: Sequence[int], thresholds: Sequence[float], device: torch.device
    ):
        """
        Args:
            emotions: K names.
            layers: L block numbers.
            thresholds: K values of z; the share of positions above each is among the figures.
            device: where the sums live.
        """
        self.emotions, self.layers = tuple(emotions), tuple(layers)
        self._device = device
        # MPS has no float64; its sums are the less exact ones.
        self._dtype = torch.float32 if device.type == "mps" else torch.float64
        self._thresholds_K = torch.tensor(list(thresholds), device=device)
        self._bin_of_zero = torch.tensor(-LOW * BINS / (HIGH - LOW), device=device)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        shape = (len(self.layers), len(self.emotions))
        self._states = {
            "count": torch.zeros((), dtype=self._dtype, device=self._device),
            # Of z, of z^2, and how many are above the threshold.
            "sums": torch.zeros(3, *shape, dtype=self._dtype, device=self._device),
            "bins": torch.zeros(shape[0], BINS, shape[1], dtype=torch.int32, device=self._device),
            "max": torch.full(shape, -torch.inf, device=self._device),
        }
        self._numbers: dict[str, tuple[Tensor, Tensor]] = {}
        self._counts: set[str] = set()

    def forget_values(self) -> None:
        """`reset`, but for which named numbers there are."""
        names, counts = list(self._numbers), self._counts
        self.reset()
        self._counts = counts
        for name in names:
            self.add(name, 0.0, weight=0.0)

    @torch.no_grad()
    def update(self, z_LBTK: Sequence[Float[Tensor, "B T K"]], scope_BT: Bool[Tensor, "B T"]) -> None:
        """Add one forward pass: z at each of the L layers, of which the positions in scope count."""
        states = self._states
        states["count"] += scope_BT.sum()
        inside_n1 = scope_BT.flatten()[:, None]
        outside_n1, weight_n1 = ~inside_n1, inside_n1.to(torch.int32)
        found = [
            self._add_layer(bins_QK, z_BTK.to(self._device).flatten(0, 1), outside_n1, weight_n1)
            for bins_QK, z_BTK in zip(states["bins"], z_LBTK, strict=True)
        ]
        # All layers at once: on an accelerator an addition of K numbers costs what one of a whole layer does.
        totals, norms, above, maxima = (torch.stack(of_layers) for of_layers in zip(*found, strict=True))
        states["sums"] += torch.stack([totals, norms.square(), above])
        states["max"] = torch.maximum(states["max"], maxima)

    def _add_layer(
        self, bins_QK: Tensor, z_nK: Tensor, outside_n1: Tensor, weight_n1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Add to a layer's histogram; returns its sums of z, the norms, counts above the thresholds, and maxima.

        Every line here is a pass over all positions and emotions. Padding may hold NaN: it is filled, not multiplied.
        """
        z_nK = z_nK.masked_fill(outside_n1, -torch.inf)
        maxima, above = z_nK.amax(0), (z_nK > self._thresholds_K).sum(0, dtype=torch.int32)
        z_nK.masked_fill_(outside_n1, 0.0)
        exact_nK = z_nK.to(self._dtype)
        totals, norms = exact_nK.sum(0), torch.linalg.vector_norm(exact_nK, dim=0)
        del exact_nK  # before as much again is taken for the bins
        # z / width + (bin of 0), in one pass. What is out of scope has a bin, but no weight there; NaN needs one too.
        bins_nK = torch.add(self._bin_of_zero, z_nK, alpha=BINS / (HIGH - LOW)).nan_to_num_().clamp_(0, BINS - 1)
        bins_QK.scatter_add_(0, bins_nK.long(), weight_n1.expand_as(bins_nK))
        return totals, norms, above, maxima

    @torch.no_grad()
    def add(self, name: str, value: Tensor | float, weight: Tensor | float = 1.0) -> None:
        """Add to a named number: the sum of its values over the sum of their weights is among the figures."""
        zero = torch.zeros((), dtype=self._dtype, device=self._device)
        total, weights = self._numbers.get(name, (zero, zero))
        self._numbers[name] = total + value, weights + weight

    def count(self, name: str, value: Tensor | float) -> None:
        """Add to a named count: the sum of its values is among the figures."""
        self._counts.add(name)
        self.add(name, value, weight=0.0)

    @torch.no_grad()
    def mean(self, across_ranks: bool = False) -> Float[Tensor, "L K"]:
        """Mean z since the last `reset`, left on the device; NaN if no position was in scope."""
        sums = torch.cat([self._states["sums"][0].flatten(), self._states["count"][None]])
        sums = ranks.sum_over(sums) if across_ranks else sums
        return (sums[:-1] / sums[-1]).view_as(self._states["max"])

    @torch.no_grad()
    def read(self, across_ranks: bool = False) -> tuple[dict[str, Float[Tensor, "L K"]], dict[str, float]]:
        """Everything since the last `reset`, in one transfer to the host.

        Args:
            across_ranks: of all ranks of a distributed run together, by one reduction that every rank must join; its
                size depends on emotions, layers and ranks alone.

        Returns:
            Each of `FIGURES` as an (L, K) table, empty if no position was in scope; and each named number.
        """
        states, numbers = self._combined(across_ranks)
        tables = torch.stack([*states["sums"], states["max"], _p95(states["bins"])])
        found = torch.cat([states["count"][None], tables.flatten(), numbers.flatten()]).cpu()
        count, of_tables, of_numbers = found[0], found[1 : 1 + tables.numel()], found[1 + tables.numel() :]
        means = {}
        for name, (total, weight) in zip(sorted(self._numbers), of_numbers.view(-1, 2).tolist(), strict=True):
            means[name] = total if name in self._counts else total / weight if weight else 0.0
        if count == 0:
            return {}, means
        *sums, maxima, p95 = of_tables.view(tables.shape)
        mean, square, above = torch.stack(sums) / count
        # A NaN variance must stay one: clamp keeps it, and whoever logs can see it.
        sd = (square - mean.square()).clamp(min=0).sqrt()
        return dict(zip(FIGURES, (mean, sd, p95, maxima, above), strict=True)), means

    @torch.no_grad()
    def move_to_first_rank(self) -> None:
        """Combine the statistics of all ranks on the first and leave none on the others; every rank must call this."""
        states, numbers = self._combined(across_ranks=True)
        if ranks.rank() > 0:
            self.forget_values()
            return
        for name, value in states.items():
            self._states[name].copy_(value)
        self._numbers = {name: (pair[0], pair[1]) for name, pair in zip(sorted(self._numbers), numbers, strict=True)}

    def _combined(self, across_ranks: bool) -> tuple[dict[str, Tensor], Float[Tensor, "numbers 2"]]:
        """Every state, in one dtype, and total and weight of each named number; of all ranks by one reduction."""
        pairs = [value for name in sorted(self._numbers) for value in self._numbers[name]]  # so on every rank
        added = [state for name, state in self._states.items() if name not in _MAXIMA]
        compared = [state for name, state in self._states.items() if name in _MAXIMA]
        sums, maxima = (
            torch.cat([value.flatten().to(self._dtype) for value in part]) for part in ([*added, *pairs], compared)
        )
        if across_ranks:
            sums, maxima = ranks.sum_and_max_over(sums, maxima)
        rest, states = {False: sums, True: maxima}, {}
        for name, state in self._states.items():
            row, n = rest[name in _MAXIMA], state.numel()
            states[name], rest[name in _MAXIMA] = row[:n].view(state.shape), row[n:]
        return states, rest[False].view(-1, 2)

    def state(self) -> dict[str, Any]:
        """Everything since the last `reset`, exactly, as JSON can hold it."""
        numbers = {name: [value.item() for value in pair] for name, pair in self._numbers.items()}
        texts = {name: to_text(value) for name, value in self._states.items()}
        return {"numbers": numbers, "counts": sorted(self._counts), **texts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`.

        Raises:
            ValueError: if it is of other emotions or layers.
        """
        for name, now in self._states.items():
            then = from_text(state[name])
            if then.shape != now.shape:
                raise ValueError(
                    f"the checkpoint's statistics have shape {tuple(then.shape)} where the regularizer's have "
                    f"{tuple(now.shape)}; resume with the vectors, layers and emotions that the run began with"
                )
            now.copy_(then)
        self._numbers = {
            name: (self._number(total), self._number(weight)) for name, (total, weight) in state["numbers"].items()
        }
        self._counts = set(state["counts"])

    def _number(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=self._dtype, device=self._device)


def _p95(bins_LQK: Float[Tensor, "L Q K"]) -> Float[Tensor, "L K"]:
    cumulative = bins_LQK.cumsum(1)
    wanted = 0.95 * cumulative[:, -1:]
    first = (cumulative < wanted).sum(1, keepdim=True).clamp(max=BINS - 1)
    inside = bins_LQK.gather(1, first)
    before = cumulative.gather(1, first) - inside
    part = ((wanted - before) / inside.clamp(min=1)).clamp(0, 1)
    return (LOW + (first + part) * ((HIGH - LOW) / BINS)).squeeze(1)
