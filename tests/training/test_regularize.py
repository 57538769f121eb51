"""One line before `trainer.train()`: the same run as the callback made by hand, and what it refuses."""

from dataclasses import replace

import pytest
import torch

import emoreg
from emoreg import Anchor, Hinge, Regularizer, RegularizerCallback, Target, default_penalties
from tests.support import random_vectors, sft_trainer


@pytest.fixture
def vectors(tiny_llama):
    verdict = {"desperate": {"layers": [1, 2], "why": "planted"}, "calm": {"layers": [], "why": "planted"}}
    return replace(random_vectors(tiny_llama()), validation={"verdict": verdict})


@pytest.fixture
def trainer(tiny_llama, tiny_tokenizer, tmp_path):
    return sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path)


def trained(trainer):
    trainer.train()
    logs = [{k: v for k, v in log.items() if k.startswith("emo")} for log in trainer.state.log_history]
    return {name: p.detach() for name, p in trainer.model.named_parameters()}, logs


def test_it_is_the_default_set_under_the_callback(trainer, vectors, tiny_llama, tiny_tokenizer, tmp_path):
    by_hand = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path / "by hand")
    by_hand.add_callback(RegularizerCallback(by_hand, Regularizer(vectors, default_penalties("desperate"))))
    file = vectors.save(tmp_path / "vectors")
    callback = emoreg.regularize(trainer, file)
    assert callback in trainer.callback_handler.callbacks
    (ours, our_logs), (theirs, their_logs) = trained(trainer), trained(by_hand)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert our_logs == their_logs
    assert "emotion/desperate/contrast" in our_logs[0]


def test_no_penalties_only_watch(trainer, vectors, tiny_llama, tiny_tokenizer, tmp_path):
    emoreg.regularize(trainer, vectors, penalties=[])
    plain, _ = trained(sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path / "plain"))
    watched, logs = trained(trainer)
    assert all(torch.equal(watched[name], plain[name]) for name in plain)
    assert "emotion/calm/contrast" in logs[0]


def test_what_it_is_told_reaches_the_regularizer(trainer, vectors):
    target = Target("calm", at_most=0.5)
    told = emoreg.regularize(
        trainer, vectors, "calm", layers=[0, 3], scope="all", target=target, monitor=["sad"], non_finite="skip",
        gradient_every=3,
    )  # fmt: skip
    made = told.regularizer
    assert made.penalties == (Hinge("calm", scope="all", layers=[0, 3]), Anchor("calm", layers=[0, 3]))
    assert (made.scope, made.target, made.non_finite, told.gradient_every) == ("all", target, "skip", 3)
    assert made.vectors.emotions == ("calm", "sad")


def test_vectors_without_the_default_emotion_can_be_watched(trainer, vectors):
    callback = emoreg.regularize(trainer, vectors.select(["calm"]), penalties=[])
    assert callback.regularizer.vectors.emotions == ("calm",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"validation": None}, ["nobody has validated the direction of 'desperate'"]),
        (
            {"validation": {"verdict": {"desperate": {"layers": [], "why": ""}}}},
            ["'desperate' that this run penalises at no"],
        ),
        ({}, []),
    ],
)
def test_a_direction_that_nobody_trusts_is_penalised_with_a_word(trainer, vectors, caplog, change, said):
    emoreg.regularize(trainer, replace(vectors, **change))
    assert len(caplog.messages) == len(said)
    assert all(words in message for words, message in zip(said, caplog.messages, strict=True))


class TestTrustedLayers:
    def test_the_default_penalties_act_where_validation_trusts(self, trainer, vectors):
        made = emoreg.regularize(trainer, vectors, layers="trusted").regularizer
        assert [penalty.layers for penalty in made.penalties] == [(1, 2), (1, 2)]
        assert made.vectors.layers == (0, 1, 2, 3), "all layers are watched"

    def test_they_are_the_layers_that_feel_the_gradient(self, trainer, vectors):
        emoreg.regularize(trainer, vectors, layers="trusted", gradient_every=1)
        _, logs = trained(trainer)
        assert {name for name in logs[0] if "gradient/term" in name} == {
            "emoreg/gradient/term/layer_1", "emoreg/gradient/term/layer_2",
        }  # fmt: skip

    def test_none_is_refused(self, trainer, vectors):
        with pytest.raises(ValueError, match="trusts the direction of 'calm' at no layer.*only watch"):
            emoreg.regularize(trainer, vectors, "calm", layers="trusted")

    def test_vectors_that_nobody_has_validated_are_refused(self, trainer, vectors):
        with pytest.raises(ValueError, match="nobody has validated these vectors"):
            emoreg.regularize(trainer, replace(vectors, validation=None), layers="trusted")


class TestRefusals:
    def test_layers_beside_penalties(self, trainer, vectors):
        with pytest.raises(ValueError, match="layers are those of the default penalties"):
            emoreg.regularize(trainer, vectors, penalties=[Hinge("desperate")], layers=[1])

    def test_an_unknown_emotion_even_where_it_is_only_watched(self, trainer, vectors):
        with pytest.raises(ValueError, match="unknown emotion 'desprate'; did you mean 'desperate'"):
            emoreg.regularize(trainer, vectors, "desprate", penalties=[])

    def test_nothing_is_added_when_something_is_wrong(self, trainer, vectors):
        before = list(trainer.callback_handler.callbacks)
        with pytest.raises(ValueError, match="no vectors at"):
            emoreg.regularize(trainer, "no/such/file.safetensors")
        assert trainer.callback_handler.callbacks == before
        assert "train" not in vars(trainer)
