"""`regularize`: one line before `trainer.train()`."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from transformers import Trainer

from emoreg.reading import Scope
from emoreg.regularizer import Penalty, Regularizer, Schedule, Target, default_penalties
from emoreg.training.callback import RegularizerCallback
from emoreg.vectors import EmotionVectors, find

logger = logging.getLogger(__name__)


def regularize(
    trainer: Trainer,
    vectors: EmotionVectors | str | Path,
    emotion: str = "desperate",
    *,
    penalties: Sequence[Penalty] | None = None,
    layers: Sequence[int] | Literal["trusted"] | None = None,
    scope: Scope = "completion",
    schedule: Schedule | None = None,
    target: Target | None = None,
    monitor: Sequence[str] | None = None,
    references: Literal["rows", "file"] = "rows",
    non_finite: Literal["stop", "skip"] = "stop",
    gradient_every: int = 10,
    own_text_every: int = 100,
) -> RegularizerCallback:
    """Have a trainer keep an emotion down, and log every emotion's statistics.

    Example:
        >>> trainer = SFTTrainer(model, args=args, train_dataset=data, peft_config=lora)
        >>> emoreg.regularize(trainer, "vectors/qwen3-0.6b")
        >>> trainer.train()

    Args:
        trainer: a trainer of transformers or TRL, not started yet.
        vectors: those of the model that is trained: themselves, their file (from `emoreg extract`), a repository on the
            Hugging Face Hub, or ``wandb:`` and an artifact's name.
        emotion: the emotion to keep down.
        penalties: in place of `default_penalties` on that emotion; an empty list only watches.
        layers: blocks that the default penalties act on; all of the vectors' by default, ``"trusted"`` for those that
            `emoreg validate` trusts for the emotion.
        scope: the positions that the default penalties act on, and that the statistics are taken over.
        schedule: as in `Regularizer`.
        target: as in `Regularizer`.
        monitor: as in `Regularizer`.
        references: as in `Regularizer`.
        non_finite: as in `Regularizer`.
        gradient_every: as in `RegularizerCallback`.
        own_text_every: as in `RegularizerCallback`.

    Returns:
        The callback, which is among the trainer's from now on.

    Raises:
        ValueError: for vectors that cannot be found, an emotion or layer that they do not have, or ``layers`` beside
            ``penalties``, which have layers of their own.
    """
    found = find(vectors)
    if penalties is None or emotion != "desperate":  # to watch others, vectors need not have the default
        found.index(emotion)
    if penalties is None:
        if layers is None:
            _warn_unless_trusted(found, emotion)
        penalties = default_penalties(emotion, scope=scope, layers=layers)
    elif layers is not None:
        raise ValueError("layers are those of the default penalties; give each of `penalties` its own, as layers=")
    regularizer = Regularizer(
        found,
        penalties,
        scope=scope,
        schedule=schedule,
        target=target,
        monitor=monitor,
        references=references,
        non_finite=non_finite,
    )
    callback = RegularizerCallback(trainer, regularizer, gradient_every=gradient_every, own_text_every=own_text_every)
    trainer.add_callback(callback)
    return callback


def _warn_unless_trusted(vectors: EmotionVectors, emotion: str) -> None:
    judged = {} if vectors.validation is None else vectors.validation["verdict"]
    if emotion not in judged:
        logger.warning("nobody has validated the direction of %r that this run penalises: emoreg validate", emotion)
    elif not vectors.trusted(emotion):
        logger.warning("validation trusts the direction of %r that this run penalises at no layer", emotion)
