"""`Regularizer`: vectors, penalties and a schedule; `Term`: the same, attached to one model. Knows no trainer.

Shapes: B batch, T positions, L layers, K emotions, P penalised emotions, N reference texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from emoreg import checks
from emoreg.batch import per_pass
from emoreg.penalties import Anchor, Band, Hinge, Penalty
from emoreg.reader import Pass, Reader
from emoreg.reference import Reference
from emoreg.schedules import ClosedLoop, Schedule, Target, constant
from emoreg.scope import Scope, check_scope, n_sequences, positions, rows, tokens
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
        schedule: Schedule | Target | None = None,
        monitor: Sequence[str] | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
    ):
        """
        Args:
            vectors: directions and their calibration. Penalties act at all their layers unless they name some;
                `EmotionVectors.select` narrows them.
            penalties: `Hinge`, `Band`, `Anchor`.
            scope: the positions that the statistics are taken over. Each penalty has its own.
            schedule: optimizer step to a factor on every weight, constant by default; or a `Target`, for which the
                weights are sought at each log.
            monitor: emotions to keep statistics of, beside the penalised ones; all by default.
            non_finite: what a part of the term that is not finite does after the first step. It never reaches the
                gradient; ``stop`` ends the run at the next log, ``skip`` goes on and logs how many there were.

        Raises:
            ValueError: for an emotion or layer that the vectors do not have, or two penalties of one name.
        """
        check_scope(scope)
        checks.kind("vectors", vectors, EmotionVectors, "EmotionVectors, as EmotionVectors.load(path) gives them")
        checks.kind("penalties", penalties, list | tuple, "a list of Hinge, Band or Anchor")
        checks.option("non_finite", non_finite, ("stop", "skip"))
        if monitor is not None:
            checks.names("monitor", monitor)
        if schedule is not None and not isinstance(schedule, Target):
            checks.function("schedule", schedule, "the optimizer step")
        for penalty in penalties:
            checks.kind("each of penalties", penalty, Penalty, "a Hinge, Band or Anchor")
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
        self.non_finite = non_finite
        if isinstance(self.schedule, Target):
            vectors.index(self.schedule.emotion)
            steered = [p for p in penalties if p.emotion == self.schedule.emotion and not isinstance(p, Anchor)]
            if not any(penalty.weight for penalty in steered):
                raise ValueError(
                    f"the schedule's Target is of {self.schedule.emotion!r}, which no Hinge or Band with a weight "
                    "above 0 penalises; add one, whose weight the search starts from"
                )

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
            ValueError: if the vectors do not belong to the model, or no parameter that trains would feel a penalty.
        """
        self.vectors.check(model)
        term = Term(self, model)
        with term.reader.hooked():
            term.prove_gradient()
            yield term


class Scale(NamedTuple):
    """How a batch's positions in scope become a part of an optimizer step's loss."""

    of: Literal["scope", "tokens", "sequences"] = "scope"
    """``scope``: a mean over this batch's positions in scope. ``tokens``: a sum over them, times ``factor``.
    ``sequences``: each sequence's mean over its own, and the mean of those."""
    factor: Tensor | float = 1.0
    """For a loop that accumulates gradients, or averages them over ranks."""
    once: Tensor | float = 1.0
    """Factor on what is added once per optimizer step (anchors)."""


class Term:
    """A regularizer on one model: turns the forward passes made under grad into a loss term and statistics."""

    def __init__(self, regularizer: Regularizer, model: nn.Module):
        vectors, device = regularizer.vectors, next(model.parameters()).device
        self.regularizer = regularizer
        self.statistics = Statistics(vectors.emotions, vectors.layers, regularizer.thresholds, device)
        self.eval_statistics = Statistics(vectors.emotions, vectors.layers, regularizer.thresholds, device)
        self.reader = Reader(vectors, model, regularizer.n_penalised, self.statistics)
        self.reference = Reference(vectors, model, self.reader)
        schedule = regularizer.schedule
        self.loop = ClosedLoop(schedule) if isinstance(schedule, Target) else None
        self._device = device
        self._step = -1
        self._in_step: dict[str, Tensor | int] = {}
        self._tried = self._proven = False
        self._watched: Tensor | int | None = 0
        """Positions in the statistics' scope, until the first step is through."""

    def loss(
        self, inputs: Mapping[str, Any] | None = None, *, step: int | None = None, scale: Scale | None = None
    ) -> Tensor:
        """The term for the forward passes made since the last call: a scalar to add to their task loss.

        Each penalty is taken over the positions of its scope, averaged over its layers, and multiplied by its weight
        and the schedule's factor. Anchors join once per optimizer step.

        Args:
            inputs: the batch that the model was given, where a scope needs more than the model's own arguments; as
                `emoreg.batch.standard` names things.
            step: optimizer step, counted from 0; by default every call is a step.
            scale: by default each penalty is a mean over the positions in its scope. A loop that accumulates gradients
                says here what it divides its own loss by, so that how a batch is cut does not matter.

        Raises:
            ValueError: if no pass was made under grad since the last call, or its scopes cannot be told; and at the
                first step with a weight, if a scope is empty, or a part has no gradient or is not finite.
        """
        scale = Scale() if scale is None else scale
        every_call, step = step is None, self._step + 1 if step is None else step
        first_of_step = step != self._step
        if first_of_step:
            self.close_step()
            self._step = step
        passes = self.reader.take()
        batches = per_pass([one.inputs for one in passes], inputs or {})
        self._watch(self.statistics, passes, batches)
        if self._watched is not None:
            self._watched = self._watched + sum(tokens(self.regularizer.scope, batch).sum() for batch in batches)
        parts: dict[str, Tensor] = {}
        for penalty in self.regularizer.penalties:
            weight = penalty.weight * self._factor(penalty, step)
            self.statistics.add(f"{penalty.name}/weight", weight)
            # At weight 0 nothing is computed: 0 times a penalty that is not finite would not be 0.
            if weight == 0:
                continue
            if not isinstance(penalty, Anchor):
                parts[penalty.name] = self._over_scope(penalty, weight, passes, batches, scale)
            elif first_of_step and step % penalty.every == 0:
                parts[penalty.name] = self._anchored(penalty, weight * scale.once, step)
        if parts and not self._proven:
            self._prove(parts)
            self._tried = True
        if every_call:
            self.close_step()
        return sum(parts.values(), torch.zeros((), device=self._device))

    def observe(self, inputs: Mapping[str, Any] | None = None) -> None:
        """Count the forward pass just made, under the reader's mode "eval", among the evaluation's statistics."""
        passes = self.reader.take()
        if len(passes) > 1 and inputs and "input_ids" in inputs:
            # A trainer may look at other texts too, as KTO does: the batch itself is meant.
            batch = inputs["input_ids"].data_ptr()
            passes = [one for one in passes if one.inputs["input_ids"].data_ptr() == batch] or passes
        self._watch(self.eval_statistics, passes[:1], per_pass([passes[0].inputs], inputs or {}))

    def close_step(self) -> None:
        """Call before an optimizer step whose last micro-batch is through; `loss` does when it sees a new step.

        Raises:
            ValueError: at the first step, if no position was in a penalty's scope, or in that of the statistics.
        """
        if self._step >= 0 and self._watched is not None:
            if self._watched == 0:
                raise ValueError(
                    "the regularizer's scope, over which its statistics are taken, selects no position of the first "
                    "step's batches; check the data set's labels (or completion mask), or choose another scope"
                )
            self._watched = None
        if self._tried and not self._proven:
            for name, count in self._in_step.items():
                if count == 0:
                    raise ValueError(
                        f"the scope of {name} selects no position of the first step's batches; check the data set's "
                        "labels (or completion mask), or choose another scope"
                    )
            self._proven = True
        # Counted here and judged by whoever reads the statistics: looking at it now would make the host wait.
        for name, count in self._in_step.items():
            self.statistics.add(f"{name}/empty_steps", count == 0)
        if self.loop is not None and self.loop.base is None and self._in_step:
            self.loop.keep_base(self.statistics)
        self._in_step = {}

    def prove_gradient(self) -> None:
        """Check, on a reference text, that the lowest penalised layer's z has a gradient at parameters that train.

        A hidden state that wants a gradient is not enough: peft makes embeddings want one under checkpointing, also
        when every adapter sits above the layer.

        Raises:
            ValueError: if there is no such gradient, or it is zero or not finite.
        """
        rows = [row for p in self.regularizer.penalties if p.weight for row in self._rows(p)]
        if not rows:
            return
        norm = self.reference.gradient_norm(min(rows))
        if not 0 < norm < float("inf"):
            layer = self.regularizer.vectors.layers[min(rows)]
            if norm:
                raise ValueError(
                    f"the gradient of layer {layer}, the lowest that a penalty acts on, is not finite at the "
                    f"parameters that train (norm {norm:g}); the model's weights hold NaN or inf"
                )
            raise ValueError(
                f"the penalties have no gradient from layer {layer}, the lowest that they act on: no parameter that "
                "trains lies at or below it; train (or put adapters on) such a block, or give them higher layers"
            )

    def _watch(self, statistics: Statistics, passes: Sequence[Pass], batches: Sequence[Mapping[str, Tensor]]) -> None:
        for one, batch in zip(passes, batches, strict=True):
            inside_BT = positions(self.regularizer.scope, batch)
            if self.regularizer.non_finite == "skip":
                inside_BT = inside_BT & torch.stack([z.to(self._device).isfinite().all(-1) for z in one.all]).all(0)
            statistics.update(one.all, inside_BT)

    def _factor(self, penalty: Penalty, step: int) -> float:
        schedule = self.regularizer.schedule
        if not isinstance(schedule, Target):
            factor = schedule(step)
            checks.number(f"what schedule gives for step {step}", factor, 0.0)
            return factor
        assert self.loop is not None
        return self.loop.factor if penalty.emotion == schedule.emotion and not isinstance(penalty, Anchor) else 1.0

    def _over_scope(
        self,
        penalty: Hinge | Band,
        weight: float,
        passes: Sequence[Pass],
        batches: Sequence[Mapping[str, Tensor]],
        scale: Scale,
    ) -> Tensor:
        gate: list[Tensor] = []
        sums, counts, sequences, everywhere = [], [], 0, 0
        for one, batch in zip(passes, batches, strict=True):
            everywhere_BT = tokens(penalty.scope, batch)
            inside_BT = everywhere_BT & rows(penalty.scope, batch)[:, None]
            z_LBT = torch.stack([one.penalised[r][..., self._k(penalty)].to(self._device) for r in self._rows(penalty)])
            if z_LBT.requires_grad:
                z_LBT.register_hook(lambda grad: torch.where(gate[0], grad, 0.0))
            # Padding may hold NaN: cut out before the penalty, so that its gradient is cut too, and again after.
            sums.append((penalty(torch.where(inside_BT, z_LBT, 0.0)) * inside_BT).sum(2).mean(0))
            counts.append(inside_BT.sum(1))
            sequences = sequences + n_sequences(penalty.scope, batch)
            # Whether a preference batch holds a sequence of the kind in question is chance, and no fault of the scope.
            everywhere = everywhere + everywhere_BT.sum()
        sums_B, counts_B = torch.cat(sums), torch.cat(counts)
        mean = sums_B.sum() / counts_B.sum().clamp(min=1)
        self.statistics.add(f"{penalty.name}/penalty", mean.detach().nan_to_num(0.0, 0.0, 0.0))
        self._in_step[penalty.name] = self._in_step.get(penalty.name, 0) + everywhere
        if scale.of == "tokens":
            mean = sums_B.sum()
        elif scale.of == "sequences":
            mean = (sums_B / counts_B.clamp(min=1)).sum() / torch.as_tensor(sequences).clamp(min=1)
        return self._finite(weight * scale.factor * mean, gate)

    def _anchored(self, anchor: Anchor, weight: Tensor | float, step: int) -> Tensor:
        n = min(anchor.texts, len(self.reference))
        turn = step // anchor.every % (len(self.reference) // n)
        z_TLP, base_TLP = self.reference.anchored(slice(turn * n, turn * n + n))
        gate: list[Tensor] = []
        if z_TLP.requires_grad:
            z_TLP.register_hook(lambda grad: torch.where(gate[0], grad, 0.0))
        k = self._k(anchor)
        mean = torch.stack([anchor(z_TLP[:, row, k], base_TLP[:, row, k]) for row in self._rows(anchor)]).mean()
        self.statistics.add(f"{anchor.name}/penalty", mean.detach().nan_to_num(0.0, 0.0, 0.0))
        return self._finite(weight * anchor.every * mean, gate)

    def _finite(self, part: Tensor, gate: list[Tensor]) -> Tensor:
        """A part that is not finite, as 0. ``gate`` then keeps its gradient, which may be NaN, out of the model."""
        gate.append(part.detach().isfinite())
        if not self._proven:
            return part
        self.statistics.count("skipped", ~gate[0])
        return torch.where(gate[0], part, 0.0)

    def _k(self, penalty: Penalty) -> int:
        return self.regularizer.vectors.index(penalty.emotion)

    def _rows(self, penalty: Penalty) -> list[int]:
        layers = self.regularizer.vectors.layers
        return [layers.index(layer) for layer in (layers if penalty.layers is None else penalty.layers)]

    def _prove(self, parts: Mapping[str, Tensor]) -> None:
        """In the first step only: a term that cannot train must stop the run, not go along silently."""
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

    def state(self) -> dict[str, Any]:
        """What it takes to go on from a checkpoint, as JSON can hold it."""
        loop = None if self.loop is None else self.loop.state()
        return {"statistics": self.statistics.state(), "loop": loop, "proven": self._proven}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, before the first step.

        Raises:
            ValueError: if it is of other emotions or layers, or of a run with a `Target` where this has none.
        """
        if (state["loop"] is None) != (self.loop is None):
            raise ValueError(
                f"the checkpoint is of a run {'with' if state['loop'] else 'without'} a Target, and this regularizer "
                f"has {'none' if self.loop is None else 'one'}; resume with the schedule that the run began with"
            )
        self.statistics.load_state(state["statistics"])
        if self.loop is not None:
            self.loop.load_state(state["loop"], self.statistics)
        self._proven = state["proven"]
