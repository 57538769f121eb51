"""A trainer's `compute_loss` with the term in it: the walk of a training batch."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import Trainer

from emoreg.regularizer import Term
from emoreg.training.batches import batch_of
from emoreg.training.trainers import backward_apart, is_scaled, scale_of


class TermInLoss:
    """Adds a term to what one trainer's `compute_loss` returns, and reads the passes that it makes."""

    def __init__(self, trainer: Trainer, term: Term, gradient_every: int):
        self.computed = False
        """Whether a training step has come through here."""
        self._trainer, self._term, self._gradient_every = trainer, term, gradient_every
        # Engines that take one graph through the weights at a time: the anchors' has a backward of its own.
        self._anchors_apart = trainer.accelerator.distributed_type != DistributedType.NO
        term.prepare(
            distributed=trainer.accelerator.num_processes > 1,
            scaler=trainer.accelerator.scaler,
            anchors_apart=self._anchors_apart,
        )

    def wrap(self, compute_loss: Callable) -> Callable:
        """`compute_loss` with the term."""

        @wraps(compute_loss)
        def with_term(model: torch.nn.Module, inputs: Mapping[str, Any], *args: Any, **kwargs: Any):
            batch = batch_of(self._trainer, inputs)  # now: trainers take entries out
            if not torch.is_grad_enabled():
                with self._term.reading("eval"):
                    result = compute_loss(model, inputs, *args, **kwargs)
                    self._term.observe(batch)
                return result
            step, num_items = self._trainer.state.global_step, kwargs.get("num_items_in_batch")
            begins = self._anchors_apart and self._term.begin_step(step)
            anchors = self._backward_of_anchors(step) if begins else None
            with self._term.reading("train", measure_gradient=step % self._gradient_every == 0):
                result = compute_loss(model, inputs, *args, **kwargs)
                loss, *outputs = result if isinstance(result, tuple) else (result,)
                added = self._added(batch, step, num_items, anchors)
            self._note(loss, added, num_items)
            self.computed = True
            loss = loss + added if added.requires_grad else loss
            return (loss, *outputs) if isinstance(result, tuple) else loss

        return with_term

    def _added(
        self, batch: Mapping[str, Tensor], step: int, num_items: Tensor | int | None, anchors: Tensor | None
    ) -> Tensor:
        accelerator = self._trainer.accelerator
        # Trainers autocast inside the model's forward; what the term runs beside it must match.
        with accelerator.autocast():
            scale = scale_of(self._trainer, batch, num_items)
            # The step ends before its last backward, in which DeepSpeed moves the weights.
            added = self._term.loss(batch, step=step, scale=scale, last=accelerator.sync_gradients)
        return added if anchors is None else added + anchors * scale.once

    def _backward_of_anchors(self, step: int) -> Tensor:
        """Leave the gradient of the step's anchors at the weights; returns their value, without it."""
        with self._trainer.accelerator.autocast():
            anchors = self._term.anchors(step)
        if anchors.requires_grad:
            backward_apart(self._trainer, anchors)
        return anchors.detach()

    def _note(self, loss: Tensor, added: Tensor, num_items: Tensor | int | None) -> None:
        accumulation = self._trainer.current_gradient_accumulation_steps
        share = 1.0 if is_scaled(self._trainer, num_items) else 1 / accumulation
        self._term.add_losses(loss.detach() * share, added.detach() * share)
