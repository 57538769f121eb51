"""The options of a regularizer, from YAML or the command line."""

import pytest

from emoreg import Hinge, Reasoning, Target
from emoreg.regularizer.regularizer import Regularizer
from emoreg.training.config import RegularizerConfig
from tests import tiny
from tests.support import random_vectors


@pytest.fixture
def vectors(tmp_path) -> str:
    random_vectors(tiny.llama()).save(tmp_path / "vectors")
    return str(tmp_path / "vectors")


def test_the_default_set(vectors):
    reg = RegularizerConfig(vectors).build()
    assert [(p.name, p.weight) for p in reg.penalties] == [("hinge/desperate", 0.01), ("anchor/desperate", 0.1)]


def test_a_target_begins_at_the_hinges_weight(vectors):
    reg = RegularizerConfig(vectors, hinge_weight=0.2, target_above_base=0.3, target_task_budget=2.0).build()
    assert reg.target == Target("desperate", above_base=0.3, task_budget=2.0)
    assert reg.penalties[0] == Hinge("desperate", weight=0.2)


def test_a_target_and_a_schedule_are_refused(vectors):
    with pytest.raises(ValueError, match="term_schedule must be constant where a target is given, got 'linear'"):
        RegularizerConfig(vectors, target_at_most=0.3, term_schedule="linear").build()


def test_a_budget_alone_is_refused(vectors):
    with pytest.raises(ValueError, match="needs at_most or above_base"):
        RegularizerConfig(vectors, target_task_budget=0.3).build()


def test_reasoning_takes_its_markers_from_the_models_tokenizer(vectors, tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    config = RegularizerConfig(vectors, scope="reasoning", reasoning_markers=["<a>", "</a>"])
    reg: Regularizer = config.build(str(tmp_path / "model"))
    assert reg.scope == Reasoning.between(tokenizer, "<a>", "</a>") == reg.penalties[0].scope
    with pytest.raises(ValueError, match="tokenizer must be the tokenizer's hub id or folder"):
        config.build()


def test_non_finite_reaches_the_regularizer(vectors):
    assert RegularizerConfig(vectors, non_finite="skip").build().non_finite == "skip"


@pytest.mark.parametrize(("said", "layers"), [("1,2-3", [1, 2, 3]), ([0, 3], [0, 3]), (None, [0, 1, 2, 3])])
def test_layers_are_a_list_or_as_on_the_command_line(vectors, said, layers):
    assert list(RegularizerConfig(vectors, emotion_layers=said).build().vectors.layers) == layers


@pytest.mark.parametrize(
    ("said", "error"),
    [("1-", "emotion_layers takes block numbers and ranges"), ("3-1", "one or more"), ("1,1", "distinct")],
)
def test_layers_that_will_not_do(vectors, said, error):
    with pytest.raises(ValueError, match=error):
        RegularizerConfig(vectors, emotion_layers=said)
