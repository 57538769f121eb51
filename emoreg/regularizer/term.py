"""`Term`: a regularizer attached to one model.

Shapes: B batch, T positions, L layers, K emotions, P penalised emotions, n tokens of reference texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from emoreg import checks, ranks
from emoreg.reading import Pass, ReferenceText, Scope, Scoped
from emoreg.regularizer.guard import Gate
from emoreg.regularizer.monitor import Monitor
from emoreg.regularizer.penalties import Anchor, Band, Hinge, Penalty
from emoreg.regularizer.schedules import Schedule
from emoreg.regularizer.scoped import Scale, over_reference, over_scope
from emoreg.regularizer.target import ClosedLoop, Target
from emoreg.tracking import Record
from emoreg.vectors import EmotionVectors


class Term(Monitor):
    """A regularizer on one model: turns the forward passes made under grad into a loss term and statistics."""

    def __init__(
        self,
        model: nn.Module,
        vectors: EmotionVectors,
        penalties: Sequence[Penalty],
        *,
        reference: ReferenceText,
        scope: Scope,
        schedule: Schedule,
        target: Target | None,
        non_finite: Literal["stop", "skip"],
    ):
        """
        Args are those of `Monitor`, and:
            schedule: optimizer step to a factor on every weight, where there is no target.
            target: for which the weights are sought.
        """
        super().__init__(model, vectors, penalties, reference=reference, scope=scope, non_finite=non_finite)
        self.schedule = schedule
        self.loop = None if target is None else ClosedLoop(target)
        self._step, self._open = -1, False
        self._anchors_apart = False

    def prepare(self, *, distributed: bool, scaler: torch.amp.GradScaler | None, anchors_apart: bool) -> None:
        """What a trainer says before its first step. From then on only passes inside `reading` count.

        Args:
            distributed: whether every rank of a run has this term and calls it at each step and log.
            scaler: what multiplies the loss before its backward, in fp16.
            anchors_apart: whether `anchors` is called where `begin_step` begins one, and has a backward of its own: for
                engines that take one graph through the weights at a time (DDP, FSDP, DeepSpeed). `loss` leaves it out.
        """
        self._distributed, self._gradients.scaler, self._anchors_apart = distributed, scaler, anchors_apart
        self.reader.counted.mode = "off"
        if distributed and ranks.rank() > 0:
            # A checkpoint holds the statistics of all ranks: to be added up once, on the first.
            self.statistics.forget_values()

    def loss(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        step: int | None = None,
        scale: Scale | None = None,
        last: bool | None = None,
    ) -> Tensor:
        """The term for the forward passes made since the last call: a scalar to add to their task loss.

        Each penalty is taken over the positions of its scope, averaged over its layers, and multiplied by its weight
        and the schedule's factor. Anchors join once per optimizer step.

        Args:
            inputs: the batch that the model was given, where a scope needs more than the model's own arguments:
                ``labels`` (B, T), ``branch`` or ``desirable`` (B,).
            step: optimizer step, counted from 0; by default every call is a step.
            scale: by default each penalty is a mean over the positions in its scope. A loop that accumulates gradients
                says here what it divides its own loss by, so that how a batch is cut does not matter.
            last: whether this is the step's last call; by default it is where every call is a step, and else the step
                ends when the next begins.

        Raises:
            ValueError: if no pass was made under grad since the last call, or its scopes cannot be told; and at the
                first step with a weight, if a scope is empty, or a penalty has no gradient or is not finite.
        """
        scale = Scale() if scale is None else scale
        last = step is None if last is None else last
        step = self._step + 1 if step is None else step
        added = [torch.zeros((), device=self._device)]
        if self.begin_step(step) and not self._anchors_apart:
            added.append(self.anchors(step, once=scale.once))
        passes = self.reader.take()
        batches = self._keep(self.statistics, passes, inputs)
        for penalty in self.penalties:
            weight = penalty.weight * self._factor(penalty, step)
            self.statistics.add(f"{penalty.name}/weight", weight)
            # At weight 0 nothing is computed: 0 times a penalty that is not finite would not be 0.
            if weight and not isinstance(penalty, Anchor):
                added.append(self._over_scope(penalty, weight, passes, batches, scale))
        if last:
            self._close_step()
        return torch.stack(added).sum()

    def begin_step(self, step: int) -> bool:
        """Begin an optimizer step, which ends the last one; False if it has begun. `loss` calls it."""
        if step == self._step:
            return False
        self._close_step()
        self._step, self._open = step, True
        return True

    def anchors(self, step: int, *, once: Tensor | float = 1.0) -> Tensor:
        """What anchors add to an optimizer step, once.

        `loss` calls it when it begins a step, unless `prepare` was told that they have a backward of their own.

        Args:
            step: as for `loss`.
            once: factor.

        Raises:
            ValueError: at the first step with a weight, if an anchor has no gradient or is not finite.
        """
        added = [torch.zeros((), device=self._device)]
        for penalty in self.penalties:
            weight = penalty.weight * self._factor(penalty, step)
            if weight and isinstance(penalty, Anchor) and step % penalty.every == 0:
                added.append(self._over_reference(penalty, weight * once, step))
        return torch.stack(added).sum()

    def report(self, of: Literal["train", "eval"] = "train") -> Record:
        """As `Monitor.report`. Where a target is sought, a report of training moves the weights."""
        record = super().report(of)
        if of == "train" and record.tables and self.loop is not None and self.loop.base is not None:
            k = self.vectors.index(self.loop.target.emotion)
            base = (self.loop.base.cpu() - self.reference.text.base)[:, k].mean().item()
            found = self.loop.update(record.tables["contrast"][:, k].mean().item(), base, record.numbers["task"])
            record.numbers.update({f"target/{name}": value for name, value in found.items()})
        return record

    def prove_gradient(self) -> None:
        """Check, on a reference text, that the lowest penalised layer's z has a gradient at parameters that train.

        A hidden state that wants a gradient is not enough: peft makes embeddings want one under checkpointing, also
        when every adapter sits above the layer.

        Raises:
            ValueError: if there is no such gradient, or it is zero or not finite.
        """
        places = [at for penalty in self.penalties if penalty.weight for at in penalty.places(self.vectors.layers)]
        if not places:
            return
        norm, layer = self.reference.gradient_norm(min(places)), self.vectors.layers[min(places)]
        if not norm:
            raise ValueError(
                f"the penalties have no gradient from layer {layer}, the lowest that they act on: no parameter that "
                "trains lies at or below it; train (or put adapters on) such a block, or give them higher layers"
            )
        if not norm < float("inf"):
            raise ValueError(
                f"the gradient of layer {layer}, the lowest that a penalty acts on, is not finite at the "
                f"parameters that train (norm {norm:g}); the model's weights hold NaN or inf"
            )

    def state(self) -> dict[str, Any]:
        """As `Monitor.state`."""
        return {**super().state(), "loop": None if self.loop is None else self.loop.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """As `Monitor.load_state`.

        Raises:
            ValueError: also if it is of a run with a `Target` where this has none, or the other way round.
        """
        if (state["loop"] is None) != (self.loop is None):
            raise ValueError(
                f"the checkpoint is of a run {'with' if state['loop'] else 'without'} a Target, and this regularizer "
                f"has {'none' if self.loop is None else 'one'}; resume with the target that the run began with"
            )
        super().load_state(state)
        if self.loop is not None:
            self.loop.load_state(state["loop"], self._device)

    def _close_step(self) -> None:
        if not self._open:
            return
        self._open = False
        super()._close_step()
        if self.loop is not None and self.loop.base is None:
            self.loop.base = self.statistics.mean(self._distributed)

    def _factor(self, penalty: Penalty, step: int) -> float:
        if self.loop is None:
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
        batches: Sequence[Scoped],
        scale: Scale,
    ) -> Tensor:
        gate, k, places = Gate(), self.vectors.index(penalty.emotion), penalty.places(self.vectors.layers)
        z_LBT = [gate.on(torch.stack([one.penalised[at][..., k].to(self._device) for at in places])) for one in passes]
        scoped = over_scope(penalty, z_LBT, batches, scale)
        self._guard.count(penalty, scoped)
        return self._guard.join(penalty, weight * scoped.value, gate, scoped.total, scoped.inside)

    def _over_reference(self, anchor: Anchor, weight: Tensor | float, step: int) -> Tensor:
        gate, k, places = Gate(), self.vectors.index(anchor.emotion), anchor.places(self.vectors.layers)
        z_nLP, base_nLP = self.reference.anchored(self.reference.turn(step // anchor.every, anchor.texts))
        z_Ln, base_Ln = (torch.stack([z[:, at, k] for at in places]) for z in (z_nLP, base_nLP))
        value = over_reference(anchor, gate.on(z_Ln), base_Ln)
        return self._guard.join(anchor, weight * value, gate, value.detach() / anchor.every)
