"""`EmotionVectors`: what it refuses, what it selects, and which layers it trusts."""

import dataclasses

import pytest
import torch

from emoreg import EmotionVectors
from tests.support import random_vectors


@pytest.fixture
def vectors(tiny_llama):
    return random_vectors(tiny_llama())


class TestValues:
    """Impossible values are refused at construction."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"directions": lambda v: v.directions * 2}, "directions must have norm 1"),
            ({"mean": lambda v: v.mean * torch.nan}, "mean must be finite fp32"),
            ({"std": lambda v: v.std * 0}, "std must be positive"),
            ({"emotions": lambda v: ("calm", "calm", "sad")}, "emotions must be a list of distinct names"),
            ({"layers": lambda v: (3, 1, 2, 0)}, "expected 4 distinct ascending layers"),
        ],
    )
    def test_refused(self, vectors, change, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(vectors, **{name: make(vectors) for name, make in change.items()})

    def test_frozen(self, vectors):
        with pytest.raises(dataclasses.FrozenInstanceError):
            vectors.emotions = ("other",)


class TestSelect:
    """`select` keeps every table in step."""

    def test_emotions_in_the_order_given_and_layers_ascending(self, vectors):
        chosen = vectors.select(["sad", "desperate"], [3, 1])
        assert chosen.emotions == ("sad", "desperate")
        assert chosen.layers == (1, 3)
        for field in ("directions", "mean", "std"):
            whole, part = getattr(vectors, field), getattr(chosen, field)
            assert torch.equal(part[0, 0], whole[1, 2]), field
            assert torch.equal(part[1, 1], whole[3, 0]), field
        assert torch.equal(chosen.reference_z[:, :, 1, 0], vectors.reference_z[:, :, 3, 2])
        assert torch.equal(chosen.residual_norm, vectors.residual_norm[[1, 3]])

    def test_an_unknown_emotion_suggests_the_nearest(self, vectors):
        with pytest.raises(ValueError, match="unknown emotion 'clam'; did you mean 'calm'"):
            vectors.select(["clam"])

    def test_a_layer_they_do_not_have(self, vectors):
        with pytest.raises(ValueError, match=r"layer 7 is out of range: these vectors have layers \[0, 1, 2, 3\]"):
            vectors.select(layers=[7])


class TestTrusted:
    """The layers of validation's verdict."""

    @pytest.fixture
    def judged(self, vectors):
        verdict = {"desperate": {"layers": [1, 2], "why": "it passes"}, "calm": {"layers": [], "why": "words"}}
        return dataclasses.replace(vectors, validation={"verdict": verdict})

    def test_those_that_validation_trusts(self, judged):
        assert judged.trusted("desperate") == (1, 2)

    def test_none_where_it_trusts_none(self, judged):
        assert judged.trusted("calm") == ()

    def test_only_those_that_were_selected(self, judged):
        assert judged.select(layers=[2, 3]).trusted("desperate") == (2,)

    def test_after_a_file(self, judged, tmp_path):
        assert EmotionVectors.load(judged.save(tmp_path / "v")).trusted("desperate") == (1, 2)

    def test_vectors_that_nobody_has_validated(self, vectors):
        with pytest.raises(ValueError, match="nobody has validated these vectors.* run `emoreg validate`"):
            vectors.trusted("desperate")

    def test_an_emotion_that_had_no_texts(self, judged):
        with pytest.raises(ValueError, match="'sad' was not validated, for want of texts; known: desperate, calm"):
            judged.trusted("sad")

    def test_an_unknown_emotion(self, judged):
        with pytest.raises(ValueError, match="unknown emotion 'desprate'; did you mean 'desperate'"):
            judged.trusted("desprate")
