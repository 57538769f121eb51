"""`Term`: a regularizer attached to one model.

Shapes: B batch, T positions, L layers, K emotions, P penalised emotions, n tokens of reference texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from emoreg import checks, ranks
from emoreg.model import compute_device
from emoreg.reading import Pass, Reader, Reference, Scope, Statistics, per_pass, positions, tokens
from emoreg.regularizer.parts import Gate, Scale, anchored, over_scope
from emoreg.regularizer.penalties import Anchor, Band, Hinge, Penalty, thresholds
from emoreg.regularizer.schedules import ClosedLoop, Schedule, Target
from emoreg.vectors import EmotionVectors


class Term:
    """A regularizer on one model: turns the forward passes made under grad into a loss term and statistics."""

    def __init__(
        self,
        model: nn.Module,
        vectors: EmotionVectors,
        penalties: Sequence[Penalty],
        *,
        scope: Scope,
        schedule: Schedule | Target,
        non_finite: Literal["stop", "skip"],
    ):
        """
        Args:
            model: the model, to be hooked by `Reader.hooked`.
            vectors: those that belong to it, the penalised emotions first.
            penalties: over its forward passes and, if anchors, over the vectors' reference texts.
            scope: the positions that the statistics are taken over.
            schedule: optimizer step to a factor on every weight, or a target.
            non_finite: what a later part that is not finite does.
        """
        device = compute_device(model)
        self.vectors, self.penalties, self.scope = vectors, tuple(penalties), scope
        self.schedule, self.non_finite = schedule, non_finite
        edges = thresholds(penalties, vectors.emotions)
        self.statistics = Statistics(vectors.emotions, vectors.layers, edges, device)
        self.eval_statistics = Statistics(vectors.emotions, vectors.layers, edges, device)
        n_penalised = len({penalty.emotion for penalty in penalties})
        self.reader = Reader(vectors, model, n_penalised, self.statistics)
        self.reference = Reference(vectors, model, self.reader)
        self.loop = ClosedLoop(schedule) if isinstance(schedule, Target) else None
        self._device = device
        self._step = -1
        self._in_step: dict[str, Tensor] = {}
        self._tried = self._proven = False
        self._watched: Tensor | None = torch.zeros((), dtype=torch.long, device=device)
        """Positions in the statistics' scope, until the first step is through."""
        self._open = False
        self.across_ranks = False
        """Whether every rank of a distributed run has this term and comes by at each `close_step` and log."""

    def loss(
        self, inputs: Mapping[str, Any] | None = None, *, step: int | None = None, scale: Scale | None = None
    ) -> Tensor:
        """The term for the forward passes made since the last call: a scalar to add to their task loss.

        Each penalty is taken over the positions of its scope, averaged over its layers, and multiplied by its weight
        and the schedule's factor. Anchors join once per optimizer step.

        Args:
            inputs: the batch that the model was given, where a scope needs more than the model's own arguments; as
                `emoreg.reading.batch.standard` names things.
            step: optimizer step, counted from 0; by default every call is a step.
            scale: by default each penalty is a mean over the positions in its scope. A loop that accumulates gradients
                says here what it divides its own loss by, so that how a batch is cut does not matter.

        Raises:
            ValueError: if no pass was made under grad since the last call, or its scopes cannot be told; and at the
                first step with a weight, if a scope is empty, or a part has no gradient or is not finite.
        """
        scale = Scale() if scale is None else scale
        every_call, step = step is None, self._step + 1 if step is None else step
        anchors = self.anchors(step, once=scale.once)
        passes = self.reader.take()
        batches = per_pass([one.inputs for one in passes], inputs or {})
        self._watch(self.statistics, passes, batches)
        if self._watched is not None:
            self._watched = self._watched + torch.stack([tokens(self.scope, batch).sum() for batch in batches]).sum()
        parts = [anchors]
        for penalty in self.penalties:
            weight = penalty.weight * self._factor(penalty, step)
            self.statistics.add(f"{penalty.name}/weight", weight)
            # At weight 0 nothing is computed: 0 times a penalty that is not finite would not be 0.
            if weight and not isinstance(penalty, Anchor):
                self._tried = True
                parts.append(self._over_scope(penalty, weight, passes, batches, scale))
        if every_call:
            self.close_step()
        return torch.stack(parts).sum()

    def anchors(self, step: int, *, once: Tensor | float = 1.0) -> Tensor:
        """What anchors add to an optimizer step: a scalar at the first call with that step, then 0.

        `loss` adds it, unless this was called before. A loop whose engine can have one graph through the weights at a
        time (DDP, FSDP, DeepSpeed) calls it before its forward pass, and gives it a backward of its own.

        Args:
            step: as for `loss`.
            once: factor.

        Raises:
            ValueError: at the first step with a weight, if an anchor has no gradient or is not finite.
        """
        parts = [torch.zeros((), device=self._device)]
        if step == self._step:
            return parts[0]
        self.close_step()
        self._step, self._open = step, True
        for penalty in self.penalties:
            weight = penalty.weight * self._factor(penalty, step)
            if weight and isinstance(penalty, Anchor) and step % penalty.every == 0:
                self._tried = True
                parts.append(self._anchored(penalty, weight * once, step))
        return torch.stack(parts).sum()

    def observe(self, inputs: Mapping[str, Any] | None = None) -> None:
        """Count the forward pass just made, under the reader's mode "eval", among the evaluation's statistics."""
        passes = self.reader.take()
        if len(passes) > 1 and inputs and "input_ids" in inputs:
            # A trainer may look at other texts too, as KTO does: the batch itself is meant.
            batch = inputs["input_ids"].data_ptr()
            passes = [one for one in passes if one.inputs["input_ids"].data_ptr() == batch] or passes
        self._watch(self.eval_statistics, passes[:1], per_pass([passes[0].inputs], inputs or {}))

    def close_step(self) -> None:
        """Call once an optimizer step's last micro-batch is in `loss`, which does so itself when it sees a new step.

        Raises:
            ValueError: at the first step, if no position was in a penalty's scope, or in that of the statistics.
        """
        if not self._open:
            return
        self._open = False
        if self._watched is not None:
            self._refuse_empty(f"the regularizer's scope {self.scope!r}", self._watched)
            if self.loop is not None and self.loop.base is None:
                self.loop.keep_base(self.statistics, self.across_ranks)
            self._watched = None
        if self._tried and not self._proven:
            for name, count in self._in_step.items():
                self._refuse_empty(f"the scope of {name}", count)
            self._proven = True
        # Counted here and judged by whoever reads the statistics: looking at it now would make the host wait.
        for name, count in self._in_step.items():
            self.statistics.add(f"{name}/empty_steps", count == 0)
        self._in_step = {}
        for name in ("task", "term"):
            self.statistics.add(name, 0.0, weight=1.0)
        if self.reader.watched:
            self.statistics.count("gradient/steps", 1.0)
            self.reader.watched = False

    def record(self, task: Tensor, term: Tensor) -> None:
        """Note what a micro-batch adds to its optimizer step's loss, by the task and by the term."""
        self.statistics.add("task", task, weight=0.0)
        self.statistics.add("term", term, weight=0.0)

    def _refuse_empty(self, whose: str, count: Tensor) -> None:
        count = ranks.sum_over(count) if self.across_ranks else count
        if count == 0:
            raise ValueError(
                f"{whose} selects no position of the first step's batches; check the data set's labels (or completion "
                "mask), or choose another scope"
            )

    def prove_gradient(self) -> None:
        """Check, on a reference text, that the lowest penalised layer's z has a gradient at parameters that train.

        A hidden state that wants a gradient is not enough: peft makes embeddings want one under checkpointing, also
        when every adapter sits above the layer.

        Raises:
            ValueError: if there is no such gradient, or it is zero or not finite.
        """
        rows = [row for p in self.penalties if p.weight for row in self._rows(p)]
        if not rows:
            return
        norm = self.reference.gradient_norm(min(rows))
        if not 0 < norm < float("inf"):
            layer = self.vectors.layers[min(rows)]
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
            inside_BT = positions(self.scope, batch)
            if self.non_finite == "skip":
                inside_BT = inside_BT & torch.stack([z.to(self._device).isfinite().all(-1) for z in one.all]).all(0)
            statistics.update(one.all, inside_BT)

    def _factor(self, penalty: Penalty, step: int) -> float:
        if self.loop is None:
            assert not isinstance(self.schedule, Target)
            factor = self.schedule(step)
            checks.number(f"what schedule gives for step {step}", factor, 0.0)
            return factor
        steered = penalty.emotion == self.loop.target.emotion and not isinstance(penalty, Anchor)
        return self.loop.factor if steered else 1.0

    def _over_scope(
        self,
        penalty: Hinge | Band,
        weight: float,
        passes: Sequence[Pass],
        batches: Sequence[Mapping[str, Tensor]],
        scale: Scale,
    ) -> Tensor:
        gate, k, layers = Gate(), self.vectors.index(penalty.emotion), self._rows(penalty)
        z_LBT = [gate.on(torch.stack([one.penalised[r][..., k].to(self._device) for r in layers])) for one in passes]
        part = over_scope(penalty, z_LBT, batches, scale)
        self._in_step[penalty.name] = self._in_step.get(penalty.name, 0) + part.everywhere
        return self._gated(penalty, weight * part.value, part.total, part.inside, gate)

    def _anchored(self, anchor: Anchor, weight: Tensor | float, step: int) -> Tensor:
        n = min(anchor.texts, len(self.reference))
        turn = step // anchor.every % (len(self.reference) // n)
        gate, k, layers = Gate(), self.vectors.index(anchor.emotion), self._rows(anchor)
        z_nLP, base_nLP = self.reference.anchored(slice(turn * n, turn * n + n))
        z_Ln, base_Ln = (torch.stack([z[:, row, k] for row in layers]) for z in (z_nLP, base_nLP))
        part = anchored(anchor, gate.on(z_Ln), base_Ln)
        return self._gated(anchor, weight * part, part.detach() / anchor.every, torch.ones_like(part), gate)

    def _gated(self, penalty: Penalty, part: Tensor, total: Tensor, count: Tensor, gate: Gate) -> Tensor:
        finite = gate.close_unless_finite(part)
        self.statistics.add(f"{penalty.name}/penalty", torch.where(gate.open, total, 0.0), count * gate.open)
        if self._proven:
            self.statistics.count("skipped", ~gate.open)
            return finite
        # In the first step only: a term that cannot train must stop the run, not go along silently.
        if not part.requires_grad:
            raise ValueError(
                f"{penalty.name} has no gradient: no trainable parameter lies at or below its layers; "
                "train (or put adapters on) blocks at or below them, or choose higher layers"
            )
        if not gate.open:
            raise ValueError(
                f"{penalty.name} is {part.item()} at its first step; the model's weights or vectors are not finite"
            )
        return finite

    def _rows(self, penalty: Penalty) -> list[int]:
        layers = self.vectors.layers
        return [layers.index(layer) for layer in (layers if penalty.layers is None else penalty.layers)]

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
