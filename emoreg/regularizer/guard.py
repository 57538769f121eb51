"""What must hold for a penalty to join a loss: a gradient and a finite value at its first step, and never NaN after it.

Failing closed: a term that cannot train, or a scope that selects nothing, stops the run before any weight moves. Later
a value that is not finite is left out of loss and gradient and counted; the next log stops the run or says how many.
"""

from typing import Literal

import torch
from torch import Tensor

from emoreg import ranks
from emoreg.reading import Statistics
from emoreg.regularizer.penalties import Penalty
from emoreg.regularizer.scoped import ScopedPenalty


class Gate:
    """Keeps the gradient of a penalty that is not finite, which may be NaN, out of the model."""

    def __init__(self):
        self.open = torch.ones((), dtype=torch.bool)
        """Whether the penalty is finite; known once it is computed, before any backward."""

    def on(self, z: Tensor) -> Tensor:
        """z, whose gradient will be 0 unless the gate is open."""
        if z.requires_grad:
            z.register_hook(lambda grad: torch.where(self.open, grad, 0.0))
        return z

    def close_unless_finite(self, value: Tensor) -> Tensor:
        """A value, or 0 in its place."""
        self.open = value.detach().isfinite()
        return torch.where(self.open, value, 0.0)


class Guard:
    """Watches over the penalties of one term, step by step."""

    def __init__(self, statistics: Statistics, non_finite: Literal["stop", "skip"]):
        self.proven = False
        """Whether a first step is through in which every penalty had a gradient, a finite value and positions."""
        self.non_finite: Literal["stop", "skip"] = non_finite
        self._statistics = statistics
        self._tried = False
        self._selected: dict[str, Tensor] = {}

    def count(self, penalty: Penalty, scoped: ScopedPenalty) -> None:
        """Note how many positions a penalty's scope selected in this optimizer step."""
        self._selected[penalty.name] = self._selected.get(penalty.name, 0) + scoped.everywhere

    def join(
        self, penalty: Penalty, value: Tensor, gate: Gate, total: Tensor, positions: Tensor | float = 1.0
    ) -> Tensor:
        """What of a penalty's value joins the loss: all, or 0 where it is not finite.

        Args:
            penalty: whose it is.
            value: weighted.
            gate: that z came through.
            total: the penalty, before its weight, summed over positions: what is logged.
            positions: how many.

        Raises:
            ValueError: in the first step, for a value without gradient or one that is not finite.
        """
        self._tried = True
        finite = gate.close_unless_finite(value)
        self._statistics.add(f"{penalty.name}/penalty", torch.where(gate.open, total, 0.0), positions * gate.open)
        if self.proven:
            self._statistics.count("skipped", ~gate.open)
            return finite
        # In the first step only: looking at a value makes the host wait.
        if not value.requires_grad:
            raise ValueError(
                f"{penalty.name} has no gradient: no trainable parameter lies at or below its layers; "
                "train (or put adapters on) blocks at or below them, or choose higher layers"
            )
        if not gate.open:
            raise ValueError(
                f"{penalty.name} is {value.item()} at its first step; the model's weights or vectors are not finite"
            )
        return finite

    def close_step(self, distributed: bool) -> None:
        """End an optimizer step; over several processes every rank must call this.

        Raises:
            ValueError: at the first step, if a scope selected no position on any rank.
        """
        if self._tried and not self.proven:
            for name, count in self._selected.items():
                refuse_empty(f"the scope of {name}", count, distributed)
            self.proven = True
        # Counted here and judged at the log: looking at it now would make the host wait.
        for name, count in self._selected.items():
            self._statistics.add(f"{name}/empty_steps", count == 0)
        self._selected = {}

    def judge(self, tables: dict[str, Tensor], numbers: dict[str, float], n_ranks: int) -> None:
        """Refuse what statistics have found since the last log. Takes out of ``numbers`` what only this needs.

        Raises:
            ValueError: if a scope was empty for a whole step, or, unless skipped, a reading or penalty was not finite.
        """
        for name in [name for name in numbers if name.endswith("/empty_steps")]:
            # A rank may have nothing in scope; where more are empty than all but one could be, a whole step was.
            if numbers.pop(name) * n_ranks > n_ranks - 1:
                raise ValueError(
                    f"the scope of {name.removesuffix('/empty_steps')} selected no position for a whole step; the term "
                    "was missing there: check the data set's labels, or choose another scope"
                )
        if self.non_finite == "skip":
            return
        for layer, k in [] if not tables else (~tables["mean"].isfinite()).nonzero().tolist():
            statistics = self._statistics
            raise ValueError(
                f"readings of {statistics.emotions[k]!r} at layer {statistics.layers[layer]} are not finite: the "
                "model's hidden states hold NaN or inf; lower the learning rate or look at the task loss"
            )
        if numbers.get("skipped"):
            raise ValueError(
                f"{numbers['skipped']:.0f} penalties were not finite since the last log; they were left out of the "
                'gradient. Lower the penalty\'s weight, or go on without them by non_finite="skip"'
            )


def refuse_empty(whose: str, count: Tensor, distributed: bool) -> None:
    """Raise ValueError if a scope selected nothing in the first step, on any rank."""
    if (ranks.sum_over(count) if distributed else count) == 0:
        raise ValueError(
            f"{whose} selects no position of the first step's batches; check the data set's labels (or completion "
            "mask), or choose another scope"
        )
