"""`Regularizer`: vectors, penalties and a schedule; `Term`: the same, attached to one model. Knows no trainer.

Shapes: B batch, T positions, L layers, K emotions, P penalised emotions, N reference texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from emoreg.penalties import Anchor, Band, Hinge, Penalty
from emoreg.reader import Reader
from emoreg.reference import Reference
from emoreg.residual import hook_blocks
from emoreg.schedules import Schedule, constant
from emoreg.scope import Scope, check_scope, positions
from emoreg.statistics import Statistics
from emoreg.vectors import EmotionVectors


class Regularizer:
    """What to keep down, and how. Attach it to a model to train under it.

    Example:
        >>> reg = Regularizer(vectors, [Hinge("desperate", weight=0.1), Anchor("desperate", weight=0.3)])
        >>> with reg.attach(model) as term:
        ...     loss = model(**batch).loss + term.loss(batch)
        ...     loss.backward()

    With no penalties it only watches.
    """

    def __init__(
        self,
        vectors: EmotionVectors,
        penalties: Sequence[Penalty] = (),
        *,
        scope: Scope = "completion",
        schedule: Schedule | None = None,
        monitor: Sequence[str] | None = None,
    ):
        """
        Args:
            vectors: directions and their calibration. Penalties act at all their layers unless they name some;
                `EmotionVectors.select` narrows them.
            penalties: `Hinge`, `Band`, `Anchor`.
            scope: the positions that the statistics are taken over. Each penalty has its own.
            schedule: optimizer step to a factor on every weight; constant by default.
            monitor: emotions to keep statistics of, beside the penalised ones; all by default.

        Raises:
            ValueError: for an emotion or layer that the vectors do not have, or two penalties of one name.
        """
        check_scope(scope)
        for penalty in penalties:
            if not isinstance(penalty, Penalty):
                raise ValueError(f"penalties must be Hinge, Band or Anchor, got {type(penalty).__name__}")
            vectors.select([penalty.emotion], penalty.layers)
        names = [penalty.name for penalty in penalties]
        if len(set(names)) != len(names):
            raise ValueError(f"two penalties of one name among {names}; their metrics could not be told apart")
        penalised = list(dict.fromkeys(penalty.emotion for penalty in penalties))
        watched = vectors.emotions if monitor is None else monitor
        # The penalised emotions come first: `project` gives the first P readings a gradient.
        self.vectors = vectors.select([*penalised, *(name for name in watched if name not in penalised)])
        self.n_penalised = len(penalised)
        self.penalties = tuple(penalties)
        self.scope = scope
        self.schedule = constant() if schedule is None else schedule

    @property
    def thresholds(self) -> list[float]:
        """Per emotion, the z above which a position is counted: its band's or hinge's edge, else 0."""
        edges = {p.emotion: p.high for p in self.penalties if isinstance(p, Band)}
        edges |= {p.emotion: p.threshold for p in self.penalties if isinstance(p, Hinge)}
        return [edges.get(emotion, 0.0) for emotion in self.vectors.emotions]

    @contextmanager
    def attach(self, model: nn.Module) -> Iterator["Term"]:
        """Hook the model for as long as the context is open.

        Raises:
            ValueError: if the vectors do not belong to the model.
        """
        self.vectors.check(model)
        term = Term(self, model)
        with hook_blocks(model, self.vectors.layers, term.reader.on_block):
            yield term


class Term:
    """A regularizer on one model: turns the forward passes made under grad into a loss term and statistics."""

    def __init__(self, regularizer: Regularizer, model: nn.Module):
        vectors, device = regularizer.vectors, next(model.parameters()).device
        self.regularizer = regularizer
        self.statistics = Statistics(vectors.emotions, vectors.layers, regularizer.thresholds, device)
        self.eval_statistics = Statistics(vectors.emotions, vectors.layers, regularizer.thresholds, device)
        self.reader = Reader(vectors, regularizer.n_penalised, self.statistics)
        self.reference = Reference(vectors, model, self.reader)
        self._device = device
        self._step = -1
        self._in_step: dict[str, Tensor | int] = {}
        self._proven = False

    def loss(
        self,
        inputs: Mapping[str, Tensor],
        *,
        step: int | None = None,
        token_scale: Tensor | float | None = None,
        step_scale: float = 1.0,
    ) -> Tensor:
        """The term for the forward pass just made: a scalar to add to its task loss.

        Each penalty is summed over the positions of its scope, averaged over its layers, and multiplied by its weight,
        the schedule's factor and ``token_scale``. Anchors join once per optimizer step.

        Args:
            inputs: the batch that the model was given: ``input_ids``, and what the scopes need.
            step: optimizer step, counted from 0; by default every call is a step.
            token_scale: by default one over the number of positions in scope, so that a penalty is a mean over them. A
                loop that accumulates gradients passes one over the count of its whole window.
            step_scale: factor on what is added once per step; the number of micro-batches, if the loop divides by it.

        Raises:
            ValueError: if not exactly one pass was made under grad since the last call; and at the first step with a
                weight, if a scope is empty, or a part has no gradient or is not finite.
        """
        step = self._step + 1 if step is None else step
        first_of_step = step != self._step
        if first_of_step:
            self._begin_step(step)
        z = self.reader.take(inputs["input_ids"].shape)
        self.statistics.update(z.all, positions(self.regularizer.scope, inputs))
        factor = self.regularizer.schedule(step)
        parts: dict[str, Tensor] = {}
        for penalty in self.regularizer.penalties:
            weight = penalty.weight * factor
            self.statistics.add(f"{penalty.name}/weight", weight)
            # At weight 0 nothing is computed: 0 times a penalty that is not finite would not be 0.
            if weight == 0:
                continue
            if not isinstance(penalty, Anchor):
                parts[penalty.name] = weight * self._over_scope(penalty, z.penalised, inputs, token_scale)
            elif first_of_step and step % penalty.every == 0:
                parts[penalty.name] = weight * penalty.every * step_scale * self._anchored(penalty, step)
        if parts and not self._proven:
            self._prove(parts)
        return sum(parts.values(), torch.zeros((), device=self._device))

    def observe(self, inputs: Mapping[str, Tensor]) -> None:
        """Count the forward pass just made, under the reader's mode "eval", among the evaluation's statistics."""
        z = self.reader.take(inputs["input_ids"].shape)
        self.eval_statistics.update(z.all, positions(self.regularizer.scope, inputs))

    def _begin_step(self, step: int) -> None:
        # Counted here and judged by whoever reads the statistics: looking at it now would make the host wait.
        for name, count in self._in_step.items():
            self.statistics.add(f"{name}/empty_steps", count == 0)
        self._step, self._in_step = step, {}

    def _over_scope(
        self,
        penalty: Hinge | Band,
        z_LBTP: Sequence[Tensor],
        inputs: Mapping[str, Tensor],
        token_scale: Tensor | float | None,
    ) -> Tensor:
        inside_BT = positions(penalty.scope, inputs)
        z_LBT = torch.stack([z_LBTP[row][..., self._k(penalty)].to(self._device) for row in self._rows(penalty)])
        # Padding may hold NaN: cut out before the penalty, so that its gradient is cut too, and again after.
        total = (penalty(torch.where(inside_BT, z_LBT, 0.0)) * inside_BT).sum() / len(z_LBT)
        count = inside_BT.sum()
        mean = total / count.clamp(min=1)
        self.statistics.add(f"{penalty.name}/penalty", mean.detach())
        self._in_step[penalty.name] = self._in_step.get(penalty.name, 0) + count
        if not self._proven and count == 0:
            raise ValueError(
                f"the scope {penalty.scope!r} of {penalty.name} selects no position of the first batch; "
                "check the data set's labels (or completion mask), or choose another scope"
            )
        return mean if token_scale is None else total * token_scale

    def _anchored(self, anchor: Anchor, step: int) -> Tensor:
        n = min(anchor.texts, len(self.reference))
        turn = step // anchor.every % (len(self.reference) // n)
        z_TLP, base_TLP = self.reference.anchored(slice(turn * n, turn * n + n))
        k = self._k(anchor)
        mean = torch.stack([anchor(z_TLP[:, row, k], base_TLP[:, row, k]) for row in self._rows(anchor)]).mean()
        self.statistics.add(f"{anchor.name}/penalty", mean.detach())
        return mean

    def _k(self, penalty: Penalty) -> int:
        return self.regularizer.vectors.index(penalty.emotion)

    def _rows(self, penalty: Penalty) -> list[int]:
        layers = self.regularizer.vectors.layers
        return [layers.index(layer) for layer in (layers if penalty.layers is None else penalty.layers)]

    def _prove(self, parts: Mapping[str, Tensor]) -> None:
        """At the first step only: a term that cannot train must stop the run, not go along silently."""
        for name, part in parts.items():
            if not part.requires_grad:
                raise ValueError(
                    f"{name} has no gradient: no trainable parameter lies at or below its layers; "
                    "train (or put adapters on) blocks at or below them, or choose higher layers"
                )
            if not part.isfinite():
                raise ValueError(
                    f"{name} is {part.item()} at its first step; the model's weights or vectors are not finite"
                )
        self._proven = True
