"""`Monitor`: reads a model's passes and keeps statistics of them. A `Term` is one that penalises too.

Shapes: B batch, T positions, L layers, K emotions.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from emoreg import ranks
from emoreg.model import compute_device
from emoreg.reading import (
    GradientNorms,
    Pass,
    Reader,
    Reference,
    ReferenceText,
    Scope,
    Scoped,
    Statistics,
    gradient_norms,
    per_pass,
)
from emoreg.regularizer.guard import Guard, refuse_empty
from emoreg.regularizer.penalties import Penalty, thresholds
from emoreg.tracking import Record
from emoreg.vectors import EmotionVectors


class Monitor:
    """What a model's forward passes look like along a set of vectors, in training and in evaluation."""

    def __init__(
        self,
        model: nn.Module,
        vectors: EmotionVectors,
        penalties: Sequence[Penalty],
        *,
        reference: ReferenceText,
        scope: Scope,
        non_finite: Literal["stop", "skip"],
    ):
        """
        Args:
            model: the model, to be hooked by `Reader.hooked`.
            vectors: those that belong to it, the penalised emotions first.
            penalties: their thresholds are counted against, and their emotions are read with gradient.
            reference: what is read at each log beside them.
            scope: the positions that the statistics are taken over.
            non_finite: what a later penalty that is not finite does.
        """
        self._device = compute_device(model)
        self.vectors, self.penalties, self.scope = vectors, tuple(penalties), scope
        edges = thresholds(penalties, vectors.emotions)
        self.statistics = Statistics(vectors.emotions, vectors.layers, edges, self._device)
        self.eval_statistics = Statistics(vectors.emotions, vectors.layers, edges, self._device)
        self._gradients = GradientNorms(self.statistics)
        self.reader = Reader(vectors, model, len({penalty.emotion for penalty in penalties}), self._gradients)
        self.reference = Reference(reference, model, self.reader)
        self._guard = Guard(self.statistics, non_finite)
        self._in_first_step: Tensor | None = torch.zeros((), dtype=torch.long, device=self._device)
        """Positions in the statistics' scope, until the first step is through."""
        self._penalised = list(dict.fromkeys(penalty.emotion for penalty in penalties))
        self._distributed = False

    def reading(self, mode: Literal["train", "eval"], measure_gradient: bool = False) -> AbstractContextManager[None]:
        """Read a training step's passes, or an evaluation's, while the context is open. See `Reader.reading`."""
        return self.reader.reading(mode, measure_gradient and bool(self.penalties))

    def observe(self, inputs: Mapping[str, Any] | None = None) -> None:
        """Count the forward pass just made, in an evaluation's `reading`, among the evaluation's statistics."""
        passes = self.reader.take()
        if len(passes) > 1 and inputs and "input_ids" in inputs:
            # A trainer may look at other texts too, as KTO does: the batch itself is meant.
            batch = inputs["input_ids"].data_ptr()
            passes = [one for one in passes if one.inputs["input_ids"].data_ptr() == batch] or passes
        self._keep(self.eval_statistics, passes[:1], inputs)

    def add_losses(self, task: Tensor, term: Tensor) -> None:
        """Note what a micro-batch adds to its optimizer step's loss, by the task and by the term."""
        self.statistics.add("task", task, weight=0.0)
        self.statistics.add("term", term, weight=0.0)

    def report(self, of: Literal["train", "eval"] = "train") -> Record:
        """Everything since the last report of training or of evaluation; over several processes of all ranks together,
        each of which must call this.

        Raises:
            ValueError: if a reading is not finite, or a penalty's scope was empty for a whole step.
        """
        statistics = self.statistics if of == "train" else self.eval_statistics
        tables, numbers = statistics.read(self._distributed)
        statistics.reset()
        n_ranks = ranks.world() if self._distributed else 1
        # Before anything else: a window with no position at all has no tables, and is the one to refuse.
        self._guard.judge(tables, numbers, n_ranks)
        gradient_norms(numbers, n_ranks)
        if of == "train" and tables:
            neutral, gap = (table.cpu() for table in self.reference.read())
            tables |= {"neutral": neutral - self.reference.text.base, "contrast": tables["mean"] - neutral}
            if gap.isfinite().all():
                tables["gap"] = gap
        if "term" in numbers:
            both = abs(numbers["term"]) + abs(numbers["task"])
            numbers["share"] = abs(numbers["term"]) / both if both else 0.0
        return Record(of, statistics.emotions, statistics.layers, tables, numbers)

    def state(self) -> dict[str, Any]:
        """What it takes to go on from a checkpoint, as JSON can hold it."""
        return {
            "statistics": self.statistics.state(),
            "proven": self._guard.proven,
            "penalised": self._penalised,
            "reference": self.reference.text.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, before the first step.

        Raises:
            ValueError: if it is of other emotions or layers, or of other penalised emotions.
        """
        if state.get("penalised", self._penalised) != self._penalised:
            raise ValueError(
                f"the checkpoint is of a run that penalised {state['penalised'] or 'nothing'}, and this one penalises "
                f"{self._penalised or 'nothing'}; resume with the emotions that the run began with"
            )
        self.statistics.load_state(state["statistics"])
        self._guard.proven = state["proven"]
        if "reference" in state:  # 0.1 had the file's alone
            self.reference.hold(ReferenceText.of_state(state["reference"]))
        self._in_first_step = None  # a checkpoint is of a run that has made its first step

    def _keep(self, statistics: Statistics, passes: Sequence[Pass], inputs: Mapping[str, Any] | None) -> list[Scoped]:
        """Add passes to statistics; returns what scopes look at, for each of them."""
        batches = [Scoped(one) for one in per_pass([one.inputs for one in passes], inputs or {})]
        for one, batch in zip(passes, batches, strict=True):
            inside_BT = batch.positions(self.scope)
            if statistics is self.statistics and self._in_first_step is not None:
                self._in_first_step = self._in_first_step + batch.tokens(self.scope).sum()
            if self._guard.non_finite == "skip":
                inside_BT = inside_BT & torch.stack([z.to(self._device).isfinite().all(-1) for z in one.all]).all(0)
            statistics.update(one.all, inside_BT)
        return batches

    def _close_step(self) -> None:
        if self._in_first_step is not None:
            refuse_empty(f"the regularizer's scope {self.scope!r}", self._in_first_step, self._distributed)
            self._in_first_step = None
        self._guard.close_step(self._distributed)
        for name in ("task", "term"):
            self.statistics.add(name, 0.0, weight=1.0)
        self._gradients.close_step()
