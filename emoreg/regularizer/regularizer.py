"""`Regularizer`: vectors, penalties and a schedule, to be attached to a model. Knows no trainer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from torch import nn

from emoreg import checks
from emoreg.reading import Scope, check_scope
from emoreg.regularizer.penalties import Anchor, Penalty
from emoreg.regularizer.schedules import Schedule, Target, constant
from emoreg.regularizer.term import Term
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
        # The penalised emotions come first: they are the ones whose readings carry a gradient.
        self.vectors = vectors.select([*penalised, *(name for name in watched if name not in penalised)])
        self.penalties = tuple(penalties)
        self.scope = scope
        self.schedule = constant() if schedule is None else schedule
        self.non_finite: Literal["stop", "skip"] = non_finite
        if isinstance(self.schedule, Target):
            vectors.index(self.schedule.emotion)
            steered = [p for p in penalties if p.emotion == self.schedule.emotion and not isinstance(p, Anchor)]
            if not any(penalty.weight for penalty in steered):
                raise ValueError(
                    f"the schedule's Target is of {self.schedule.emotion!r}, which no Hinge or Band with a weight "
                    "above 0 penalises; add one, whose weight the search starts from"
                )

    @contextmanager
    def attach(self, model: nn.Module) -> Iterator[Term]:
        """Hook the model for as long as the context is open.

        Raises:
            ValueError: if the vectors do not belong to the model, or no parameter that trains would feel a penalty.
        """
        self.vectors.check(model)
        term = Term(
            model, self.vectors, self.penalties, scope=self.scope, schedule=self.schedule, non_finite=self.non_finite
        )
        with term.reader.hooked():
            term.prove_gradient()
            yield term
