"""A record under the names that trainers log."""

import torch

from emoreg.tracking import Record, flat, is_ours, shown_on_console

TABLES = {
    "mean": torch.tensor([[1.0, 2.0], [3.0, 6.0]]),
    "contrast": torch.tensor([[0.0, -1.0], [1.0, -2.0]]),
    "gap": torch.tensor([[0.5, 0.0], [0.7, 0.0]]),
}


def record(of="train"):
    return Record(of, ("desperate", "calm"), (4, 7), TABLES, {"share": 0.25, "hinge/desperate/penalty": 2.0})


def test_every_figure_is_there_by_layer_and_as_the_mean_over_layers():
    named = flat(record())
    assert named["emotion/desperate/layer_4/mean"] == 1.0
    assert named["emotion/calm/layer_7/contrast"] == -2.0
    assert named["emotion/desperate/mean"] == 2.0
    assert named["emotion/calm/contrast"] == -1.5
    assert named["emoreg/hinge/desperate/penalty"] == 2.0
    assert len(named) == 3 * 2 * 3 + 2


def test_an_evaluations_emotions_have_its_prefix():
    named = flat(record("eval"))
    assert "eval_emotion/desperate/mean" in named
    assert not any(name.startswith("emotion/") for name in named)


def test_ours_are_told_from_the_trainers():
    assert all(map(is_ours, [*flat(record()), *flat(record("eval"))]))
    assert not any(map(is_ours, ["loss", "eval_loss", "emotions", "rewards/emotion_reward/mean"]))


def test_what_the_console_shows_is_among_them():
    assert shown_on_console(["desperate"]) < flat(record()).keys()
