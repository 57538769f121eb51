"""Says so when the reader gap opens: the model's reading of the same words leaves the frozen base's."""

import logging
from collections.abc import Iterable
from itertools import product

from emoreg.tracking.record import Record

logger = logging.getLogger(__name__)

OPEN = 0.3
"""z, mean over layers. On a small chat model a plain fine-tune opened it to +.6, and a penalty that was met by
translation to -.5 (docs/evidence-smollm2.md)."""

WORDS = {"gap": "the same training rows", "own_gap": "its own replies", "neutral": "reference text"}


class GapAlarm:
    """Warns once each time that an emotion's gap opens, in either direction."""

    def __init__(self):
        self._side: dict[tuple[str, str], int] = {}

    def __call__(self, record: Record, emotions: Iterable[str], step: int) -> None:
        """Look at a record of training."""
        for emotion, figure in product(emotions, WORDS):
            if emotion not in record.emotions or figure not in record.tables:
                continue
            gap = record.tables[figure][:, record.emotions.index(emotion)].mean().item()
            side = 0 if abs(gap) < OPEN else 1 if gap > 0 else -1
            if side and side != self._side.get((emotion, figure)):
                logger.warning(
                    "step %d: on %s the model reads %r %.2f z %s than its frozen base: %s",
                    *(step, WORDS[figure], emotion, abs(gap), "higher" if side > 0 else "lower"),
                    "training raises it inside, beyond what the words say"
                    if side > 0
                    else "it reads less than the words say; if other emotions fell too, a penalty was met by moving "
                    "everything (less hinge, more anchor)",
                )
            self._side[emotion, figure] = side
