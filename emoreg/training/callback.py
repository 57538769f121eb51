"""`RegularizerCallback`: puts a regularizer's term into a trainer's loss, and its statistics into the trainer's log.

A `TrainerCallback` cannot change the loss, so the trainer's own `compute_loss` is wrapped while it trains: the term
then goes through its scaling (accumulation, GradScaler, DeepSpeed) like the task loss does.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any, cast

from torch import Tensor
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations import WandbCallback
from transformers.trainer_callback import ExportableState

from emoreg import checks, ranks
from emoreg.model import active_adapters, base_is_rewritten
from emoreg.regularizer import Regularizer, Term
from emoreg.training.faults import naming_a_lost_rank, offline_if_unreachable
from emoreg.training.log import FiguresInLog
from emoreg.training.loss import TermInLoss
from emoreg.training.own_text import OwnText
from emoreg.training.replaced import replaced
from emoreg.training.rows import some_rows, tokenizer_of
from emoreg.training.trainers import check_engine, partitions_checkpointed

logger = logging.getLogger(__name__)


class RegularizerCallback(TrainerCallback, ExportableState):
    """Trains under a regularizer. With no penalties it is a monitor, and the run is bitwise the run without it.

    Works in `transformers.Trainer`, in TRL's trainers that call `compute_loss`, and in subclasses of either
    (``docs/trainers.md``). Its state travels in the trainer's checkpoints and is there again before the first step of a
    run that resumes.

    Example:
        >>> trainer = SFTTrainer(model, args=args, train_dataset=data, peft_config=lora)
        >>> trainer.add_callback(RegularizerCallback(trainer, reg))
        >>> trainer.train()

    Metrics join the trainer's own at every log, under ``emotion/<name>/...`` and ``emoreg/...``; those of an evaluation
    begin with ``eval_``.

    Raises (from `Trainer.train`):
        ValueError: if the vectors do not belong to the model, the trainer makes a step without `compute_loss`, a term
            has no gradient, is not finite, or a scope selects nothing for a whole step.
    """

    def __init__(
        self, trainer: Trainer, regularizer: Regularizer, *, gradient_every: int = 10, own_text_every: int = 100
    ):
        """
        Args:
            trainer: the trainer that the callback is added to.
            regularizer: what to keep down.
            gradient_every: at every so many steps, the norms of the term's and the task's gradient are measured at
                the hooked layers.
            own_text_every: at the first log after every so many steps, a model with adapters writes a few replies,
                which it and its base read; 0 for never.
        """
        checks.kind("trainer", trainer, Trainer, "a Trainer of transformers or TRL")
        checks.kind("regularizer", regularizer, Regularizer, "a Regularizer")
        checks.integer("gradient_every", gradient_every, 1)
        checks.integer("own_text_every", own_text_every, 0)
        self.trainer = trainer
        self.regularizer = regularizer
        self.gradient_every, self.own_text_every = gradient_every, own_text_every
        self._attached = ExitStack()
        self._term: Term | None = None
        self._loss: TermInLoss | None = None
        # `on_train_end` is not called when training ends in an exception; this is.
        self._unguard_train: Callable[[], None] | None = replaced(trainer, "train", self._guarding_train)

    # ---- the trainer's events ----

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Attach. By now the model is prepared and a checkpoint, if any, is loaded."""
        self.detach()
        check_engine(self.trainer)
        with ExitStack() as stack:
            tokenizer, saved = tokenizer_of(self.trainer), self._saved(state)
            rows = self._rows(state, saved, tokenizer)
            # As a training pass reads: under the trainer's autocast. What a checkpoint holds is not read again.
            with self.trainer.accelerator.autocast():
                unread = rows if saved is None else []
                attached = self.regularizer.attach(kwargs["model"], rows=unread, tokenizer=tokenizer)
                self._term = stack.enter_context(attached)
            self._restore(state, saved)
            if self.trainer.accelerator.num_processes > 1:
                self._same_on_all_ranks()
            self._loss = TermInLoss(self.trainer, self._term, self.gradient_every)
            stack.callback(replaced(self.trainer, "compute_loss", self._loss.wrap))
            own = None
            if self.own_text_every and rows and tokenizer is not None and OwnText.possible(self.trainer):
                own = OwnText(self.trainer, self.regularizer.vectors, tokenizer, rows)
            figures = FiguresInLog(self.trainer, self._term, own, self.own_text_every)
            stack.callback(replaced(self.trainer, "log", figures.in_log))
            stack.callback(replaced(self.trainer, "_save_checkpoint", figures.before_saving))
            for callback in self.trainer.callback_handler.callbacks:
                if isinstance(callback, PrinterCallback | ProgressCallback):
                    stack.callback(replaced(callback, "on_log", figures.on_console))
            if self._unguard_train is None:  # a second run: too late to guard the whole of it
                stack.callback(replaced(self.trainer, "training_step", self._guarding_step))
            self._attached = stack.pop_all()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ):
        """Before any weight moves: refuse a trainer whose training step does not call `compute_loss`."""
        if self._loss is None or not self._loss.computed:
            raise ValueError(
                f"{type(self.trainer).__name__} makes its training step without calling compute_loss, so no term can "
                "join its loss; use a trainer that does, or Regularizer.attach in a loop of your own"
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        """Detach."""
        self.detach()

    def _rows(
        self, state: TrainerState, saved: Mapping[str, Any] | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> list[dict[str, Tensor]]:
        """Rows to take reference text's format from, the first rank's; none where the run began without."""
        if self.regularizer.references == "file" or (saved is not None and "reference" not in saved):
            return []
        model, rows, why = cast(Any, self.trainer.model), [], "the trainer has no train data, or no tokenizer"
        if state.global_step and saved is None and (not active_adapters(model) or base_is_rewritten(model)):
            why = "the checkpoint has none, and the base is gone"
        elif partitions_checkpointed(self.trainer):
            why = "ZeRO-3 with non-reentrant checkpointing bears no pass before its first step (reentrant does)"
        elif tokenizer is not None:
            try:
                rows = some_rows(self.trainer) if ranks.rank() == 0 else []
            except Exception as error:  # a data set and a collator may be anybody's
                why = f"a row of {type(self.trainer).__name__} could not be read ({type(error).__name__}: {error})"
        rows = ranks.object_from_first(rows)
        if not rows and ranks.rank() == 0:
            logger.warning(
                "reference text is the plain one of the vectors' file: %s. What moves in the rows' own format may not "
                "show in `neutral`",
                why,
            )
        return rows

    def _same_on_all_ranks(self) -> None:
        prints = ranks.gather(self.regularizer.vectors.fingerprint())
        other = [rank for rank, one in enumerate(prints) if one != prints[0]]
        if other:
            raise ValueError(
                f"the vectors of ranks {other} are not those of rank 0; give every rank the same file, and the same "
                "emotions and layers of it"
            )

    def detach(self) -> None:
        """Take every hook and wrapper off the model and the trainer. Harmless when there are none."""
        self._attached.close()
        self._term = self._loss = None

    # ---- its state in the trainer's checkpoint ----

    def state(self) -> dict[str, Any]:
        """What a run that resumes needs, as JSON can hold it; the trainer puts it into its checkpoint."""
        return {"args": {}, "attributes": {"term": None if self._term is None else self._term.state()}}

    def _restore(self, state: TrainerState, saved: Mapping[str, Any] | None) -> None:
        term = self._term
        assert term is not None
        # The trainer looks here at its next save, and fails on a checkpoint of a run that had no such callback.
        states: Any = state.stateful_callbacks
        states.setdefault(type(self).__name__, [one.state() for one in self._siblings()])
        if state.global_step == 0:
            return
        if saved is not None:
            term.load_state(saved)
        elif term.loop is not None and term.loop.target.above_base is not None:
            raise ValueError(
                "the checkpoint has no state of this callback, and a Target that is above_base needs the base model's "
                "contrast, which was measured at the run's first step; give the Target at_most instead"
            )

    def _saved(self, state: TrainerState) -> dict[str, Any] | None:
        """What the checkpoint that a run resumes from holds of the term."""
        states: Any = state.stateful_callbacks
        saved = states.get(type(self).__name__)
        if not state.global_step or saved is None:
            return None
        mine = saved[self._siblings().index(self)] if isinstance(saved, list) else saved
        return mine["attributes"]["term"]

    def _siblings(self) -> list["RegularizerCallback"]:
        return [one for one in self.trainer.callback_handler.callbacks if type(one) is type(self)]

    # ---- what is wrapped round the trainer's methods ----

    def _guarding_train(self, train: Callable) -> Callable:
        @wraps(train)
        def guarded(*args: Any, **kwargs: Any):
            stack = ExitStack()
            try:
                self._check_callbacks()
                for callback in self.trainer.callback_handler.callbacks:
                    if isinstance(callback, WandbCallback):
                        stack.callback(replaced(callback, "setup", offline_if_unreachable))
                with naming_a_lost_rank(self.trainer):
                    return train(*args, **kwargs)
            finally:
                stack.close()
                self.detach()
                if self._unguard_train is not None:
                    self._unguard_train()
                    self._unguard_train = None

        return guarded

    def _guarding_step(self, training_step: Callable) -> Callable:
        @wraps(training_step)
        def guarded(*args: Any, **kwargs: Any):
            try:
                return training_step(*args, **kwargs)
            except BaseException:
                self.detach()
                raise

        return guarded

    def _check_callbacks(self) -> None:
        if self not in self.trainer.callback_handler.callbacks:
            raise ValueError(
                "this RegularizerCallback is not among the trainer's callbacks, so the run would have no term; "
                "call trainer.add_callback(callback) before trainer.train()"
            )
        if self.trainer.args.restore_callback_states_from_checkpoint:
            raise ValueError(
                "restore_callback_states_from_checkpoint=True has the trainer build its callbacks anew, which "
                "cannot be done to this one; leave it False: RegularizerCallback restores its own state"
            )
