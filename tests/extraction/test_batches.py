"""Which texts go together, and how they are laid side by side."""

from array import array

import torch

from emoreg.extraction.batches import cut, padded
from emoreg.extraction.tokens import Tokens


class TestBatches:
    """As many padded tokens as allowed, the longest texts first."""

    def cut(self, lengths, tokens_per_batch):
        texts = [Tokens(array("i", [1] * length), 1, length) for length in lengths]
        return cut(texts, range(len(texts)), tokens_per_batch)

    def test_padding_counts(self):
        assert self.cut([5, 4, 1, 1, 1, 1], 10) == [[0, 1], [2, 3, 4, 5]]

    def test_a_text_that_is_longer_goes_alone(self):
        assert self.cut([12, 11, 5, 5], 10) == [[0], [1], [2, 3]]


class TestPadded:
    """The longest first; what is read is marked."""

    def test_masks_and_means(self):
        texts = [Tokens(array("i", [9, 8, 7]), 1, 3), Tokens(array("i", [6, 5, 4, 3, 2]), 3, 4)]
        batch = padded(texts, [1, 0], torch.device("cpu"))
        assert batch.ids[:, :3].tolist() == [[6, 5, 4], [9, 8, 7]]
        assert batch.present.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
        assert batch.read.int().tolist() == [[0, 0, 0, 1, 0], [0, 1, 1, 0, 0]]
        means_BD = batch.text_means(torch.arange(10.0).view(2, 5, 1))
        assert means_BD.tolist() == [[3.0], [6.5]]
