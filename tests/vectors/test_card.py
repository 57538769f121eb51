"""The card of a set of vectors."""

import dataclasses

import yaml

from emoreg.vectors import model_card


class TestCard:
    """A README that the Hub can read, with what a reader must know."""

    def test_front_matter(self, shared):
        _, head, body = model_card(shared, "me/calm").split("---\n", 2)
        assert yaml.safe_load(head) == {
            "library_name": "emoreg",
            "tags": ["emoreg", "activation-steering", "interpretability"],
            "base_model": "lab/model-1b",
        }
        for part in (
            "desperate, calm, sad",
            "0, 1, 2, 3",
            "calm 9, neutral 40",
            "| calm | 1, 2 | held-out AUC of 0.93 |",
            "emoreg.vectors/2",
        ):
            assert part in body
        assert 'emoreg.regularize(trainer, "me/calm")' in body
        assert 'from emoreg.vectors import pull_from_hub\n\nvectors = pull_from_hub("me/calm")' in body
        assert shared.fingerprint() in body

    def test_a_local_model_is_no_base_model_of_the_hub(self, shared):
        provenance = dataclasses.replace(shared.provenance, model="/home/me/model")
        card = model_card(dataclasses.replace(shared, provenance=provenance, validation=None))
        assert "base_model" not in card
        assert "Nobody has validated them" in card

    def test_names_that_would_break_it(self, shared):
        odd = dataclasses.replace(shared, emotions=("a|b", "c\n---\nd", "<script>"))
        card = model_card(odd)
        assert card.count("\n---\n") == 1
        assert "| a b |" in card
        assert "<script>" not in card
        assert "<sad>" not in card
