"""`Record`: what a term found since the last one, before anything gives it a name.

Shapes: L layers, K emotions.
"""

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Record:
    """Figures of every layer and emotion, and single numbers, on the host."""

    of: Literal["train", "eval"]
    """Which passes it is of."""
    emotions: tuple[str, ...]
    layers: tuple[int, ...]
    tables: dict[str, Float[Tensor, "L K"]]
    """z over the scope: ``mean``, ``sd``, ``p95``, ``max``, and the share ``above`` the threshold; empty if no
    position was in scope. Of training passes also ``neutral``, how far the mean z of reference text is from the base
    model's; ``contrast``, mean less that of reference text under the model as it is; where training rows are known,
    the reader ``gap``: on the replies of a few, mean z less the base model's on the same words; and at some logs, of
    replies that the model wrote itself, what its base reads in them (``own_base``) and what it reads itself less that
    (``own_gap``)."""
    numbers: dict[str, float]
    """``<penalty>/penalty`` (before its weight) and ``<penalty>/weight``; ``term`` and ``task``, what they add to an
    optimizer step's loss, and the term's ``share`` of both; ``gradient/term/layer_<l>`` and
    ``gradient/task/layer_<l>``, norms over the batch of an optimizer step, the root of the mean square over the steps
    at which they were measured; ``skipped``, how many penalties were not finite; ``target/limit``, ``off``, ``factor``
    and ``over_budget``."""
