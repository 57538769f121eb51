"""Held-out AUC: honest about what a direction has seen, and what it reaches on a real model."""

import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

from emoreg.corpus import LabelledText, read_corpus, read_texts
from emoreg.extraction import extract, held_out_auc
from emoreg.extraction.holdout import auc_within_folds, folds_of
from tests.extraction.texts import corpus, hidden_states, neutral, plant, story

module = sys.modules["emoreg.extraction.held_out_auc"]
SHARED = Path(__file__).parents[2] / "../shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared, which a clone does not have")
OPTIONS: dict[str, Any] = {"progress": False, "from_token": 20, "folds": 4}


class TestHeldOutAuc:
    """On a tiny model in which emotions are planted."""

    def test_a_planted_emotion_is_told_apart(self, tiny_llama, tiny_tokenizer):
        model = tiny_llama()
        plant(model, tiny_tokenizer)
        for along in ("difference", "positive"):
            auc = held_out_auc(model, tiny_tokenizer, corpus(), along=along, **OPTIONS)
            assert auc == {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0}

    def test_labels_at_random_are_not_although_the_directions_fit_their_own_texts(self, tiny_llama, tiny_tokenizer):
        rng = random.Random(3)
        texts = [LabelledText(story(rng, 60), emotion) for _ in range(16) for emotion in ("desperate", "calm")]
        model = tiny_llama()
        auc = held_out_auc(model, tiny_tokenizer, texts, **OPTIONS)
        assert 0.3 < np.mean(list(auc.values())) < 0.7, auc
        directions = extract(
            model, tiny_tokenizer, texts, neutral(), from_token=20, denoise_share=0.0, progress=False
        ).directions[:, 0]
        seen = [[h[19:].mean(0) for h in hidden_states(model, tiny_tokenizer(t.text)["input_ids"])] for t in texts]
        scores = np.einsum("nld,ld->nl", np.array(seen), directions.numpy())
        assert roc_auc_score([t.emotion == "desperate" for t in texts], scores[:, 3]) > 0.7

    def test_equals_refitting_without_each_fold(self, tiny_llama, tiny_tokenizer):
        model = tiny_llama()
        rng = random.Random(1)
        texts = [LabelledText(story(rng, 60), emotion) for _ in range(8) for emotion in ("calm", "sad", "desperate")]
        auc = held_out_auc(model, tiny_tokenizer, texts, along="positive", seed=3, **OPTIONS)
        fold = np.array(folds_of(texts, ("desperate", "calm"), 4, 3))
        vectors = [[h[19:].mean(0) for h in hidden_states(model, tiny_tokenizer(t.text)["input_ids"])] for t in texts]
        for layer in range(4):
            folds = []
            for f in range(4):
                kept = [item for item, its in zip(texts, fold, strict=True) if its != f]
                refitted = extract(
                    model, tiny_tokenizer, kept, neutral(), from_token=20, denoise_share=0.0, progress=False
                )
                direction = refitted.directions[layer, refitted.index("desperate")]
                test = [n for n, item in enumerate(texts) if fold[n] == f and item.emotion != "sad"]
                readings = [float(vectors[n][layer] @ direction.numpy()) for n in test]
                folds.append(roc_auc_score([texts[n].emotion == "desperate" for n in test], readings))
            assert auc[layer] == pytest.approx(np.mean(folds))
        assert len(set(auc.values())) > 1, "a corpus on which every answer is the same shows nothing"

    def test_groups_are_held_out_together_across_emotions(self):
        texts = [
            LabelledText(f"{n} {emotion}", emotion, str(n)) for n in range(10) for emotion in ("desperate", "calm")
        ]
        fold = folds_of(texts, ("desperate", "calm"), 5, 0)
        assert fold[::2] == fold[1::2]
        assert sorted(set(fold)) == [0, 1, 2, 3, 4]

    def test_copies_of_a_text_are_held_out_together(self):
        texts = [LabelledText(str(n % 6), "desperate" if n % 2 else "calm") for n in range(24)]
        fold = folds_of(texts, ("desperate", "calm"), 3, 0)
        assert fold[:6] * 4 == fold

    def test_only_texts_of_one_fold_are_compared(self):
        # Fold 1 reads everything ten higher; within each fold the order is right but for one pair of the four and one.
        high, fold = torch.tensor([True, False, True, False, True, False]), torch.tensor([0, 0, 0, 0, 1, 1])
        found = auc_within_folds(torch.tensor([[3.0, 2.0, 1.0, 0.0, 11.0, 10.0]]), high, ~high, fold)
        assert found.item() == pytest.approx(4 / 5)

    def test_ties_weights_and_sources_are_scikit_learns(self):
        readings_SN, weight_BN = torch.randint(0, 6, (3, 40)).float(), torch.randint(0, 4, (5, 40)).float()
        high, fold = torch.arange(40) % 3 == 0, torch.zeros(40, dtype=torch.long)
        found_BS = auc_within_folds(readings_SN, high, ~high, fold, weight_BN)
        for b, weight_N in enumerate(weight_BN):
            for s, reading_N in enumerate(readings_SN):
                expected = roc_auc_score(high, reading_N, sample_weight=weight_N)
                assert found_BS[b, s].item() == pytest.approx(expected, abs=1e-12)

    def test_no_pair_is_no_better_than_chance(self):
        high, fold = torch.tensor([True, False]), torch.tensor([0, 1])
        assert auc_within_folds(torch.ones(1, 2), high, ~high, fold).item() == 0.5

    def test_emotions_that_share_no_fold(self, tiny_llama, tiny_tokenizer, monkeypatch):
        monkeypatch.setattr(module, "folds_of", lambda corpus, *_: [int(item.emotion == "calm") for item in corpus])
        with pytest.raises(ValueError, match="no fold holds texts of both emotions; use fewer folds, or groups that"):
            held_out_auc(tiny_llama(), tiny_tokenizer, corpus(), **OPTIONS)

    def test_mistakes(self, tiny_llama, tiny_tokenizer):
        with pytest.raises(ValueError, match=r"^the corpus has no texts of 'serene'; it has desperate, calm, sad$"):
            held_out_auc(tiny_llama(), tiny_tokenizer, corpus(), negative="serene", **OPTIONS)
        with pytest.raises(ValueError, match=r"judged; got 9, and 'desperate' has 8 groups$"):
            held_out_auc(tiny_llama(), tiny_tokenizer, corpus(), **OPTIONS | {"folds": 9})
        alone = [*corpus(), LabelledText("a" * 40, "angry")]
        with (
            pytest.warns(UserWarning, match="The least populated class"),  # scikit-learn's own
            pytest.raises(ValueError, match=r"^no text of 'angry' is left to fit a direction on$"),
        ):
            held_out_auc(tiny_llama(), tiny_tokenizer, alone, **OPTIONS)


@pytest.fixture(scope="module")
def real():
    where = SHARED / "models/stories260K"
    vignettes = read_corpus(SHARED / "data/emotion_stories_15x25/all_stimuli.json", emotion_field="concept")
    return AutoModelForCausalLM.from_pretrained(where), AutoTokenizer.from_pretrained(where), vignettes


@needs_shared
class TestRealModel:
    """A pretrained model and vignettes that this project did not write. No two vignettes share a scenario, so each is a
    group of its own."""

    def test_desperate_against_calm_is_read_on_held_out_vignettes(self, real):
        by_seed = [list(held_out_auc(*real, seed=seed, progress=False).values()) for seed in range(3)]
        assert max(np.mean(by_seed, axis=0)) >= 0.85, by_seed

    def test_all_fifteen_emotions_and_calibration(self, real):
        model, tokenizer, vignettes = real
        plain = read_texts(SHARED / "data/tinystories/tinystories_1000.json")[:60]
        vectors = extract(model, tokenizer, vignettes, plain, progress=False)
        assert vectors.directions.shape == (5, 15, 64)
        k, row = vectors.index("desperate"), 3

        def mean_z(emotion: str) -> float:
            """Of its vignettes' tokens from the 50th on, behind BOS, along the desperate direction."""
            ids = [tokenizer(item.text)["input_ids"] for item in vignettes if item.emotion == emotion]
            reading = np.mean(
                [hidden_states(model, i)[row][50:].mean(0) @ vectors.directions[row, k].numpy() for i in ids]
            )
            return float(reading - vectors.mean[row, k].item()) / vectors.std[row, k].item()

        assert mean_z("desperate") > 0.3
        assert mean_z("desperate") > max(mean_z("calm"), mean_z("happy"), mean_z("blissful")) + 0.05
