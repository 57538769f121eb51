"""`Regularizer`: vectors, penalties and a schedule or target, to be attached to a model. Knows no trainer."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from emoreg import checks
from emoreg.reading import ReferenceText, Scope, check_scope, matched, rows_of
from emoreg.regularizer.penalties import Anchor, Penalty
from emoreg.regularizer.schedules import Schedule, constant
from emoreg.regularizer.target import Target
from emoreg.regularizer.term import Term
from emoreg.vectors import EmotionVectors

logger = logging.getLogger(__name__)


class Regularizer:
    """What to keep down, and how. Attach it to a model to train under it.

    Example:
        >>> reg = Regularizer(vectors, default_penalties("desperate"))
        >>> with reg.attach(model) as term:
        ...     loss = model(**batch).loss + term.loss(batch)
        ...     loss.backward()

    With no penalties it is a monitor.
    """

    def __init__(
        self,
        vectors: EmotionVectors,
        penalties: Sequence[Penalty] = (),
        *,
        scope: Scope = "completion",
        schedule: Schedule | Target | None = None,
        target: Target | None = None,
        monitor: Sequence[str] | None = None,
        references: Literal["rows", "file"] = "rows",
        non_finite: Literal["stop", "skip"] = "stop",
    ):
        """
        Args:
            vectors: directions and their calibration. Penalties act at all their layers unless they name some;
                `EmotionVectors.select` narrows them.
            penalties: `Hinge`, `Band`, `Anchor`.
            scope: the positions that the statistics are taken over. Each penalty has its own.
            schedule: optimizer step to a factor on every weight; constant by default.
            target: what to hold a contrast to; the weights are then sought at each log, in place of a schedule.
            monitor: emotions to keep statistics of, beside the penalised ones; all by default.
            references: what anchors hold and contrasts are measured against: texts in the format of the rows that are
                trained on, where these are known, or the plain ones of the vectors' file.
            non_finite: what a penalty that is not finite does after the first step. It never reaches the gradient;
                ``stop`` ends the run at the next log, ``skip`` goes on and logs how many there were.

        Raises:
            ValueError: for an emotion or layer that the vectors do not have, two penalties of one name, or layers
                "trusted" where `emoreg validate` has not run or trusts none.
        """
        if isinstance(schedule, Target):  # as 0.1 took it
            warnings.warn("pass a Target as target=, not as schedule=", FutureWarning, stacklevel=2)
            schedule, target = None, schedule
        check_scope(scope)
        checks.kind("vectors", vectors, EmotionVectors, "EmotionVectors, as EmotionVectors.load(path) gives them")
        checks.kind("penalties", penalties, list | tuple, "a list of Hinge, Band or Anchor")
        checks.option("non_finite", non_finite, ("stop", "skip"))
        checks.option("references", references, ("rows", "file"))
        if monitor is not None:
            checks.names("monitor", monitor)
        if schedule is not None:
            checks.function("schedule", schedule, "the optimizer step")
        checks.kind("target", target, Target | None, "a Target")
        if schedule is not None and target is not None:
            raise ValueError("give a schedule or a target, not both: a target seeks the weights that a schedule sets")
        for penalty in penalties:
            checks.kind("each of penalties", penalty, Penalty, "a Hinge, Band or Anchor")
        penalties = [_resolved(penalty, vectors) for penalty in penalties]
        names = [penalty.name for penalty in penalties]
        if len(set(names)) != len(names):
            raise ValueError(f"two penalties of one name among {names}; their metrics could not be told apart")
        penalised = list(dict.fromkeys(penalty.emotion for penalty in penalties))
        monitored = vectors.emotions if monitor is None else monitor
        # The penalised emotions come first: they are the ones whose readings carry a gradient.
        self.vectors = vectors.select([*penalised, *(name for name in monitored if name not in penalised)])
        self.penalties = tuple(penalties)
        self.scope = scope
        self.schedule = constant() if schedule is None else schedule
        self.target = target
        self.references: Literal["rows", "file"] = references
        self.non_finite: Literal["stop", "skip"] = non_finite
        if target is not None:
            vectors.index(target.emotion)
            steered = [p for p in penalties if p.emotion == target.emotion and not isinstance(p, Anchor)]
            if not any(penalty.weight for penalty in steered):
                raise ValueError(
                    f"the target is of {target.emotion!r}, which no Hinge or Band with a weight above 0 penalises; add "
                    "one, whose weight the search starts from"
                )

    @contextmanager
    def attach(
        self,
        model: nn.Module,
        *,
        rows: Sequence[Mapping[str, Tensor]] = (),
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Iterator[Term]:
        """Hook the model for as long as the context is open.

        Args:
            model: the model that trains, as it is before its first step.
            rows: a few batches of what it will be trained on, as it will get them (``input_ids``, ``labels``, ...), one
                row each. Reference text then has their format; without any it is the plain text of the vectors' file.
            tokenizer: the one that cut them.

        Raises:
            ValueError: if the vectors do not belong to the model, or no parameter that trains would feel a penalty.
        """
        self.vectors.check(model)
        term = Term(
            model,
            self.vectors,
            self.penalties,
            reference=self._reference(model, rows, tokenizer),
            scope=self.scope,
            schedule=self.schedule,
            target=self.target,
            non_finite=self.non_finite,
        )
        with term.reader.hooked():
            term.prove_gradient()
            yield term

    def _reference(
        self, model: nn.Module, rows: Sequence[Mapping[str, Tensor]], tokenizer: PreTrainedTokenizerBase | None
    ) -> ReferenceText:
        n_penalised, found = len({penalty.emotion for penalty in self.penalties}), None
        if rows and self.references == "rows":
            checks.refuse_unless(tokenizer is not None, "tokenizer", "the one that cut the rows", tokenizer)
            assert tokenizer is not None
            found = matched(model, self.vectors, tokenizer, rows_of(rows), n_penalised)
            if found is None:
                logger.warning("the tokenizer has no tokens for reference text in English: the vectors' own is used")
        return ReferenceText.of_vectors(self.vectors, n_penalised) if found is None else found


def _resolved(penalty: Penalty, vectors: EmotionVectors) -> Penalty:
    """A penalty at the layers that "trusted" stands for; refused where the vectors lack its emotion or a layer."""
    layers = penalty.layers
    if layers == "trusted":
        layers = vectors.trusted(penalty.emotion)
        if not layers:
            raise ValueError(
                f"validation trusts the direction of {penalty.emotion!r} at no layer (`emoreg validate` says why), so "
                "there is none to penalise; only watch, with no penalties, or name layers"
            )
    vectors.select([penalty.emotion], layers)
    return replace(penalty, layers=layers)
