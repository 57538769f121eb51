"""The rows of a trainer's batch in each pass, and which of its sequences count."""

import pytest
import torch

from emoreg.reading.batch import per_pass
from emoreg.reading.scope import n_sequences, positions, sequences

IDS = torch.arange(4, 16).view(4, 3)
MASK = torch.ones_like(IDS)


class TestSequences:
    def test_pairs(self):
        batch = {"input_ids": IDS, "labels": IDS, "branch": torch.tensor([0, 0, 1, 1])}
        assert sequences("completion", batch).tolist() == [True, True, False, False]
        assert sequences("rejected:all", batch).tolist() == [False, False, True, True]
        assert sequences("both:last:2", batch).tolist() == [True] * 4
        assert [n_sequences(s, batch).item() for s in ("all", "rejected:all", "both:all")] == [2, 2, 4]

    def test_judgements(self):
        batch = {"input_ids": IDS, "labels": IDS, "desirable": torch.tensor([True, False, False, True])}
        assert sequences("completion", batch).tolist() == [True, False, False, True]
        assert sequences("undesirable:completion", batch).tolist() == [False, True, True, False]
        # A mean over all of them, as KTO's own: how many are desirable depends on the cut.
        assert [n_sequences(s, batch).item() for s in ("all", "undesirable:all", "both:all")] == [4, 4, 4]

    def test_positions_are_tokens_of_rows(self):
        batch = {"input_ids": IDS, "labels": IDS, "branch": torch.tensor([0, 0, 1, 1])}
        assert positions("rejected:last:1", batch).int().tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]]


class TestPerPass:
    def given(self, *slices: slice, **more: torch.Tensor):
        return [{"input_ids": IDS[one], "attention_mask": MASK[one], **more} for one in slices]

    def test_chunks_get_their_rows(self):
        batch = {"labels": IDS, "desirable": torch.tensor([True, False, True, False])}
        first, second = per_pass(self.given(slice(0, 3), slice(3, 4)), batch)
        assert torch.equal(first["labels"], IDS[:3])
        assert torch.equal(second["labels"], IDS[3:])
        assert second["desirable"].tolist() == [False]

    def test_a_batch_that_runs_twice(self):
        both = per_pass(self.given(slice(0, 4), slice(0, 4)), {"labels": IDS})
        assert all(torch.equal(one["labels"], IDS) for one in both)

    def test_what_the_model_was_given_comes_first(self):
        (one,) = per_pass(self.given(slice(0, 4)), {"input_ids": IDS + 1, "labels": IDS})
        assert torch.equal(one["input_ids"], IDS)

    def test_a_label_counts_if_pass_and_batch_have_it(self):
        given = self.given(slice(0, 4), labels=IDS.masked_fill(IDS == 5, -100))
        (one,) = per_pass(given, {"labels": IDS.masked_fill(IDS == 6, -100)})
        assert one["labels"][0].tolist() == [4, -100, -100]

    def test_labels_of_the_pass_alone(self):
        (one,) = per_pass(self.given(slice(0, 4), labels=IDS), {})
        assert torch.equal(one["labels"], IDS)

    def test_labels_that_fit_no_pass_are_refused(self):
        with pytest.raises(ValueError, match=r"labels of shape \(4, 4\) and a forward pass read \(4, 3\) positions"):
            per_pass(self.given(slice(0, 4)), {"labels": torch.ones(4, 4).long()})
