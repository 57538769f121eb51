"""The closed loop on the sandbox: the target is held, wherever the weight began."""

import pytest

from emoreg import Anchor, Hinge, Regularizer, Target
from emoreg.sandbox import extract_vectors, organism
from emoreg.sandbox.fine_tuning import fine_tune

CONTRAST = 0.6  # a plain run's is about 1.3


@pytest.fixture(scope="module")
def sandbox():
    model, tokenizer = organism.load()
    return model, tokenizer, extract_vectors(model, tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.002, 0.02, 0.2])
def test_the_target_is_held_within_15_percent_from_three_starting_weights(sandbox, tmp_path, weight):
    model, tokenizer, vectors = sandbox
    penalties = [Hinge("desperate", weight=weight), Anchor("desperate", weight=0.3)]
    regularizer = Regularizer(vectors, penalties, target=Target("desperate", at_most=CONTRAST), references="file")
    _, history = fine_tune(
        model, tokenizer, regularizer, tmp_path, steps=120, logging_steps=5, lr_scheduler_type="constant"
    )
    contrasts = [log["emotion/desperate/contrast"] for log in history if "emotion/desperate/contrast" in log]
    # A window of 5 steps holds 80 texts, which alone scatter by some .08: the last ten windows together.
    assert sum(contrasts[-10:]) / 10 == pytest.approx(CONTRAST, rel=0.15)
