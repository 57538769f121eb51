"""What a term found, in a trainer's own log, checkpoint and console.

Reporters run before a user's callbacks: figures reach all of them, and the history, by way of the trainer's `log`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from transformers import Trainer

from emoreg.regularizer import Term
from emoreg.tracking import flat, is_ours, shown_on_console


class FiguresInLog:
    """Adds a term's figures to what one trainer logs."""

    def __init__(self, trainer: Trainer, term: Term):
        self._trainer, self._term = trainer, term

    def in_log(self, log: Callable) -> Callable:
        """`Trainer.log` with the figures since the last one; on every rank."""

        @wraps(log)
        def with_figures(logs: dict[str, float], *args: Any, **kwargs: Any):
            training = self._trainer.model.training  # pyright: ignore[reportOptionalMemberAccess]
            with self._trainer.accelerator.autocast():
                logs.update(flat(self._term.report("train" if training else "eval")))
            return log(logs, *args, **kwargs)

        return with_figures

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
