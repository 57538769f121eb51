"""Validation of vectors: of the organism, which was trained, and of a pretrained model where it is there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from emoreg import EmotionVectors
from emoreg.corpus import LabelledText, Passage, read_corpus
from emoreg.extraction import extract
from emoreg.sandbox import data
from emoreg.sandbox.organism import load
from emoreg.validation import StakesPair, dose_response, page, validate
from emoreg.validation.verdict import verdict
from tests import tiny
from tests.support import random_vectors

SHARED = Path(__file__).parents[3] / "shared"
EMOTIONS = ("desperate", "calm", "angry", "bored")
QUICK = {"permutations": 39, "draws": 60, "progress": False}


def evidence(vectors: EmotionVectors) -> dict:
    assert vectors.validation is not None
    return vectors.validation


@pytest.fixture(scope="module")
def organism():
    torch.set_num_threads(1)
    return load()


@pytest.fixture(scope="module")
def tones(organism):
    """Read only where the words are the same whatever the emotion: what is found there is in the state alone."""
    model, tokenizer = organism
    corpus = [
        LabelledText(Passage(probe.text, probe.start), probe.emotion, probe.group, {"person": person})
        for n, probe in enumerate(data.probes(0, 24, EMOTIONS))
        for person in ["first" if n % 3 else "third"]
    ]
    neutral = data.neutral_texts(0, 60)
    vectors = extract(model, tokenizer, corpus, neutral, from_token=1, progress=False)
    rises = [StakesPair(("I fix one map.", "I fix two maps."), ("I see one map.", "I see two maps."))]
    ratings = {"desperate": (-0.9, 0.8), "calm": (0.7, -0.8), "angry": (-0.7, 0.8), "bored": (-0.4, -0.7)}
    return validate(vectors, model, tokenizer, corpus, neutral, severity=rises, ratings=ratings, doses=(), **QUICK)


@pytest.fixture(scope="module")
def stories(organism):
    """Stories of the sandbox: their own words give every emotion away."""
    model, tokenizer = organism
    corpus = [item for item in data.stories(0, 15) if item.emotion in EMOTIONS]
    neutral = data.neutral_texts(0, 60)
    vectors = extract(model, tokenizer, corpus, neutral, from_token=8, progress=False)
    return validate(vectors, model, tokenizer, corpus, neutral, folds=3, **QUICK)


class TestVerdict:
    def test_a_state_without_words_is_trusted(self, tones):
        found = evidence(tones)
        k = found["emotions"].index("desperate")
        assert found["words"]["auc"][k] < 0.65
        assert found["verdict"]["desperate"]["layers"], found["verdict"]["desperate"]["why"]
        assert "where words or embeddings alone have" in found["verdict"]["desperate"]["why"]

    def test_words_that_give_it_away_are_named(self, stories):
        found = evidence(stories)
        k = found["emotions"].index("desperate")
        assert found["words"]["auc"][k] > 0.95
        assert found["verdict"]["desperate"]["layers"] == []
        assert "it is not above what is lexical: words alone reach" in found["verdict"]["desperate"]["why"]

    def test_labels_that_mean_nothing_are_not_trusted(self, organism):
        model, tokenizer = organism
        texts = [item for item in data.stories(1, 12) if item.emotion in EMOTIONS]
        labels = [text.emotion for text in texts]
        corpus = [LabelledText(text.text, labels[n * 7 % len(labels)]) for n, text in enumerate(texts)]
        vectors = extract(model, tokenizer, corpus, data.neutral_texts(0, 30), from_token=8, progress=False)
        found = validate(vectors, model, tokenizer, corpus, data.neutral_texts(0, 30), folds=3, **QUICK)
        assert not any(one["layers"] for one in evidence(found)["verdict"].values())
        assert "shuffled labels do as well" in evidence(found)["verdict"]["desperate"]["why"]

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"p": 0.2}, "shuffled labels do as well"),
            ({"random": 0.99}, "random directions reach 0.99"),
            ({"gain_low": -0.01}, "not above what is lexical"),
            ({"reliability": 0.5}, "too few texts for a stable direction"),
            ({"hard": 0.4}, "does not tell the emotion from its neighbours"),
        ],
    )
    def test_every_test_can_fail_a_layer(self, change, reason):
        good = {"auc": 0.9, "auc_low": 0.85, "auc_high": 0.95, "p": 0.01, "random": 0.6, "gain": 0.2, "gain_low": 0.1,
                "reliability": 0.95, "hard": 0.8}  # fmt: skip
        figures = {"emotions": ["sad"], "layers": [4, 5, 6, 8]} | {name: [[x]] * 4 for name, x in good.items()}
        figures |= {name: {"auc": [0.7]} for name in ("words", "embeddings")}
        assert verdict(figures, "sad")["layers"] == [4, 5, 6, 8]
        ((name, value),) = change.items()
        one_bad = figures | {name: [[good[name]], [value], [good[name]], [good[name]]]}
        one_bad["auc"] = [[0.8], [0.95], [0.9], [0.85]]
        assert verdict(one_bad, "sad")["layers"] == [6, 8], "the run around the best that passes"
        all_bad = figures | {name: [[value]] * 4}
        assert verdict(all_bad, "sad")["layers"] == []
        assert reason in verdict(all_bad, "sad")["why"]


class TestFigures:
    def test_length_and_traits_are_the_confounds(self, tones):
        assert evidence(tones)["confounds"] == ["length", "person"]

    def test_stakes_and_twins_have_figures_for_every_layer(self, tones):
        severity = evidence(tones)["severity"]
        assert [len(severity[side]) for side in ("stakes", "twin")] == [4, 4]
        assert all(-1 <= rho <= 1 for row in severity["stakes"] for rho in row)

    def test_an_emotions_own_texts_read_highest_along_its_direction(self, tones):
        table = torch.tensor(evidence(tones)["crosstalk"])
        assert (table.argmax(0) == torch.arange(len(EMOTIONS))).all(), table

    def test_the_dose_is_read_in_what_the_model_writes(self, stories):
        dose = evidence(stories)["dose"]
        assert dose["desperate"]["rho"] >= 0.8, dose
        assert dose["desperate"]["effects"][-1] - dose["desperate"]["effects"][0] > 0.1, dose

    def test_of_too_many_texts_as_many_of_each_emotion_are_judged(self, organism, stories):
        corpus = [item for item in data.stories(0, 30) if item.emotion in EMOTIONS]
        bare, neutral = replace(stories, validation=None), data.neutral_texts(0, 20)
        found = validate(bare, *organism, corpus, neutral, doses=(), folds=2, max_texts=50, **QUICK)
        assert evidence(found)["texts"] == 48

    def test_it_travels_in_the_file_and_the_page_says_it(self, tones, tmp_path):
        again = EmotionVectors.load(tones.save(tmp_path / "vectors"))
        assert evidence(again) == evidence(tones)
        text = page(again)
        assert "## Verdict" in text
        assert evidence(tones)["verdict"]["desperate"]["why"] in text
        assert "nan" not in text

    def test_the_same_seed_gives_the_same_evidence_and_the_model_is_left_as_it_was(self, organism, stories):
        model, tokenizer = organism
        corpus = [item for item in data.stories(0, 15) if item.emotion in EMOTIONS]
        bare, neutral = replace(stories, validation=None), data.neutral_texts(0, 60)
        again = validate(bare, model, tokenizer, corpus, neutral, folds=3, **QUICK)
        assert {name: one for name, one in evidence(again).items() if one != evidence(stories)[name]} == {}
        assert not any(module._forward_hooks for module in model.modules())


class TestDose:
    def test_the_causal_emotion_is_found_and_ranks_above_its_neighbour(self, organism):
        """In the sandbox desperation drives shortcuts most, and anger less: what the world's table says."""
        from emoreg.sandbox import behaviour, extract_vectors

        model, tokenizer = organism
        vectors = extract_vectors(model, tokenizer)
        found = {
            emotion: dose_response(
                model,
                vectors,
                emotion,
                lambda: behaviour.measure(model, tokenizer, count=100),
                lambda done: done.shortcut.value,
                doses=(-0.1, 0.0, 0.1),
            )
            for emotion in ("desperate", "angry", "bored")
        }
        assert found["desperate"]["monotone"]
        assert found["desperate"]["slope"] > 1.3 * found["angry"]["slope"] > 1.3 * found["bored"]["slope"]


class TestRealModel:
    @pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared: a pretrained model and vignettes")
    def test_a_pretrained_models_vignettes_are_found_to_be_lexical(self):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        model = AutoModelForCausalLM.from_pretrained(SHARED / "models/stories260K")
        tokenizer = AutoTokenizer.from_pretrained(SHARED / "models/stories260K")
        texts = read_corpus(SHARED / "data/emotion_stories_15x25/all_stimuli.json", emotion_field="concept")
        corpus = [item for item in texts if item.emotion in ("desperate", "calm", "afraid", "hostile", "proud")]
        neutral = [item.text for item in texts if item.emotion == "sad"]
        vectors = extract(model, tokenizer, corpus, neutral, from_token=1, denoise_share=0.0, progress=False)
        found = evidence(validate(vectors, model, tokenizer, corpus, neutral, doses=(), **QUICK))
        assert found["opposites"]["embeddings"] == pytest.approx(0.81, abs=0.05)
        assert max(found["opposites"]["layers"]) > 0.85
        assert "it is not above what is lexical" in found["verdict"]["desperate"]["why"]
        assert not found["verdict"]["desperate"]["layers"]


class TestErrors:
    def test_another_model(self, tones):
        with pytest.raises(ValueError, match="width 96; the model has width 32"):
            validate(tones, tiny.llama(), tiny.tokenizer(), [], [], **QUICK)

    def test_a_corpus_of_other_emotions(self, organism, tones):
        corpus = [LabelledText("some text here", emotion) for emotion in ("desperate", "brooding")]
        with pytest.raises(ValueError, match="texts of 1 of the vectors' emotions, expected two or more; it has brood"):
            validate(tones, *organism, corpus, [], **QUICK)

    def test_too_few_groups(self, organism, tones):
        corpus = [LabelledText(f"some text here {n}", emotion) for n in range(3) for emotion in EMOTIONS]
        with pytest.raises(ValueError, match="got 5, and 'desperate' has 3 groups"):
            validate(tones, *organism, corpus, ["neutral text"], **QUICK)

    def test_a_page_of_vectors_without_evidence(self):
        with pytest.raises(ValueError, match="have not been validated; run `emoreg validate`"):
            page(random_vectors(tiny.llama()))
