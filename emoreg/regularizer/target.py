"""A target: the contrast to hold, for which the weight of a penalty is sought while it trains.

Stating "contrast at most .3 above the base model's" makes training a constrained problem; its multiplier is the
penalty's weight. At each log the loop raises or lowers the weight by how far the logged contrast is off: dual ascent,
with a proportional part beside the integral one because a model answers to a weight with delay (Stooke et al. 2020,
"Responsive safety in reinforcement learning by PID Lagrangian methods", arXiv 2007.03964; here in the weight's
logarithm, so that the search takes as long from far below as from far above).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from emoreg import checks
from emoreg.reading import from_text, to_text


@dataclass(frozen=True, kw_only=True)
class Target:
    """What to hold an emotion's contrast to: ``Regularizer(vectors, penalties, target=Target("desperate", ...))``.

    The `Hinge` and `Band` penalties of that emotion start from their own weights and are multiplied by one factor that
    is sought at each log; anchors keep theirs.

    The callback does this at the trainer's logs. A loop of one's own calls `Term.add_losses` with each loss and
    `Term.report` now and then; without, the weights stay what they were.
    """

    emotion: str = field(kw_only=False)
    at_most: float | None = None
    """Largest contrast, in z. Either this or `above_base`."""
    above_base: float | None = None
    """Largest contrast above the base model's, which is measured on the first step's batches, before weights change."""
    task_budget: float | None = None
    """Task loss beyond which the weight goes down, whatever the contrast."""
    gain: float = 2.0
    """Change of the weight's logarithm at each log, for each unit of z that the contrast is off."""
    damping: float = 2.0
    """Of the same, for each unit by which the contrast changed since the last log, in multiples of ``gain``."""
    low: float = 1e-3
    high: float = 1e3
    """Bounds of the factor."""

    def __post_init__(self):
        checks.text("emotion", self.emotion)
        for name in ("at_most", "above_base", "task_budget", "gain", "damping", "low", "high"):
            value = getattr(self, name)
            if value is None and name in ("at_most", "above_base", "task_budget"):
                continue
            checks.number(name, value, None if name in ("at_most", "above_base") else 0.0)
        if (self.at_most is None) == (self.above_base is None):
            raise ValueError(
                f"a Target needs at_most or above_base, and not both; got at_most={self.at_most} and "
                f"above_base={self.above_base}"
            )
        if not 0 < self.low <= 1 <= self.high:
            raise ValueError(f"low and high must lie around 1, with low above 0; got {self.low} and {self.high}")


class ClosedLoop:
    """A `Target` being sought: the factor on the weights, and what it takes to go on from a checkpoint."""

    def __init__(self, target: Target):
        self.target = target
        self.base: Tensor | None = None
        """(L, K) mean z of the first step, the base model's, on the device; None before it."""
        self._log_factor = 0.0
        self._last: float | None = None

    @property
    def factor(self) -> float:
        """Factor on the weights now."""
        return math.exp(self._log_factor)

    def update(self, contrast: float, base_contrast: float, task: float) -> dict[str, float]:
        """Move the factor after a log.

        Args:
            contrast: of the target's emotion, mean over layers, since the last log.
            base_contrast: the base model's.
            task: task loss since the last log.

        Returns:
            Metrics: the ``limit`` on the contrast, by how much it is ``off``, the ``factor`` from now on, and whether
            the task loss is ``over_budget``.
        """
        t = self.target
        limit = t.at_most if t.at_most is not None else base_contrast + (t.above_base or 0.0)
        if not math.isfinite(contrast):  # a window that was skipped whole says nothing
            return {"limit": limit, "factor": self.factor}
        off = contrast - limit
        # At the first log the model has hardly answered to the weight that it has: nothing is known yet.
        move = 0.0 if self._last is None else t.gain * (off + t.damping * (contrast - self._last))
        over_budget = t.task_budget is not None and task > t.task_budget
        if over_budget:
            move = min(move, -t.gain)
        self._log_factor = min(max(self._log_factor + move, math.log(t.low)), math.log(t.high))
        self._last = contrast
        return {"limit": limit, "off": off, "factor": self.factor, "over_budget": float(over_budget)}

    def state(self) -> dict[str, Any]:
        """Everything that changes, as JSON can hold it."""
        base = None if self.base is None else to_text(self.base)
        return {"base": base, "log_factor": self._log_factor, "last": self._last}

    def load_state(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from a `state`, with the base on a device."""
        self.base = None if state["base"] is None else from_text(state["base"]).to(device)
        self._log_factor, self._last = state["log_factor"], state["last"]
