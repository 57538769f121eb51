"""What a term found, in a trainer's own log, checkpoint and console.

Reporters run before a user's callbacks: figures reach all of them, and the history, by way of the trainer's `log`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor
from transformers import Trainer

from emoreg.regularizer import Term
from emoreg.tracking import GapAlarm, flat, is_ours, shown_on_console
from emoreg.training.own_text import OwnText


class FiguresInLog:
    """Adds a term's figures to what one trainer logs."""

    def __init__(self, trainer: Trainer, term: Term, own_text: OwnText | None, own_text_every: int):
        self._trainer, self._term, self._alarm = trainer, term, GapAlarm()
        self._own_text, self._own_text_every = own_text, own_text_every

    def in_log(self, log: Callable) -> Callable:
        """`Trainer.log` with the figures since the last one; on every rank."""

        @wraps(log)
        def with_figures(logs: dict[str, float], *args: Any, **kwargs: Any):
            training = self._trainer.model.training  # pyright: ignore[reportOptionalMemberAccess]
            with self._trainer.accelerator.autocast():
                record = self._term.report("train" if training else "eval")
                if training and self._trainer.is_world_process_zero():
                    record.tables.update(self._of_own_text())
            logs.update(flat(record))
            if training and self._trainer.is_world_process_zero():
                watched = [penalty.emotion for penalty in self._term.penalties] or ["desperate"]
                self._alarm(record, dict.fromkeys(watched), self._trainer.state.global_step)
            return log(logs, *args, **kwargs)

        return with_figures

    def _of_own_text(self) -> dict[str, Tensor]:
        if self._own_text is None:
            return {}
        # By the history, which a run that resumes has too.
        state = self._trainer.state
        logged = [log["step"] for log in state.log_history if "emoreg/task" in log]
        due = not logged or state.global_step // self._own_text_every > logged[-1] // self._own_text_every
        return self._own_text.read() if due else {}

    def before_saving(self, save_checkpoint: Callable) -> Callable:
        """`Trainer._save_checkpoint`, of which the state is the first rank's: it gets all ranks' statistics."""

        @wraps(save_checkpoint)
        def with_all_ranks(*args: Any, **kwargs: Any):
            if self._trainer.accelerator.num_processes > 1:
                self._term.statistics.move_to_first_rank()
            return save_checkpoint(*args, **kwargs)

        return with_all_ranks

    def on_console(self, on_log: Callable) -> Callable:
        """A printing callback's `on_log`, brief: a console line has room for a few figures only."""
        shown = shown_on_console(penalty.emotion for penalty in self._term.penalties)

        @wraps(on_log)
        def brief(args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any):
            kept = {name: value for name, value in (logs or {}).items() if not is_ours(name) or name in shown}
            return on_log(args, state, control, logs=kept, **kwargs)

        return brief
