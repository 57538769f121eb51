"""Too little memory in a forward pass."""

import logging

import pytest
import torch

from tests.extraction.test_extract import assert_same, run
from tests.extraction.texts import corpus, neutral, plant


@pytest.fixture
def model(tiny_llama, tiny_tokenizer):
    model = tiny_llama()
    plant(model, tiny_tokenizer)
    return model


class TestOutOfMemory:
    """A batch that does not fit is halved; what had been added of it at lower layers is not added again."""

    def too_small(self, model, rows: int, error=torch.OutOfMemoryError):
        """No more than so many texts fit, as shows at the third block, where two have been read."""
        failed = []

        def fail(_module, args, _kwargs):
            if len(args[0]) > rows:
                failed.append(len(args[0]))
                raise error("CUDA out of memory. Tried to allocate 2.00 GiB.")

        model.model.layers[2].register_forward_pre_hook(fail, with_kwargs=True)
        return failed

    @pytest.mark.parametrize("rows", [1, 2, 5])
    def test_every_text_counts_once_at_every_layer(self, model, tiny_tokenizer, rows):
        whole = run(model, tiny_tokenizer, reference_texts=1, tokens_per_batch=1000)
        self.too_small(model, rows)
        halved = run(model, tiny_tokenizer, reference_texts=1, tokens_per_batch=1000)
        assert_same(whole, halved, atol=1e-6)
        assert halved.provenance.counts == {"desperate": 8, "calm": 8, "sad": 8, "neutral": 10}

    def test_batches_that_follow_are_smaller_from_the_start(self, model, tiny_tokenizer, caplog):
        failed = self.too_small(model, 2, error=RuntimeError)  # as older backends call it
        with caplog.at_level(logging.WARNING):
            run(model, tiny_tokenizer, corpus(30, 60, 60), neutral(2), reference_texts=1, tokens_per_batch=8 * 61)
        assert failed == [8, 4]
        assert [record.message for record in caplog.records] == [
            f"out of memory; batches have at most {n * 61} padded tokens from here on" for n in (4, 2)
        ]

    def test_a_single_text_that_does_not_fit(self, model, tiny_tokenizer):
        self.too_small(model, 0)
        with pytest.raises(ValueError, match=r"of a single text \(1 x \d+ tokens\); shorten the texts, or load the"):
            run(model, tiny_tokenizer)

    def test_another_error_is_none_of_this(self, model, tiny_tokenizer):
        model.model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(model, tiny_tokenizer)
