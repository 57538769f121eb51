"""What a forward pass may meet: too little memory, weights that are elsewhere, weights of four bits."""

import logging
from array import array

import accelerate
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from emoreg.extraction import held_out_auc
from emoreg.extraction.stream import cut
from emoreg.extraction.tokens import Tokens
from tests.extraction.test_extract import assert_same, run
from tests.extraction.texts import corpus, neutral, plant, slow_extract


@pytest.fixture
def model(tiny_llama, tiny_tokenizer):
    model = tiny_llama()
    plant(model, tiny_tokenizer)
    return model


class TestBatches:
    """As many padded tokens as allowed, the longest texts first."""

    def cut(self, lengths, tokens_per_batch):
        texts = [Tokens(array("i", [1] * length), 0, length) for length in lengths]
        return cut(texts, range(len(texts)), tokens_per_batch)

    def test_padding_counts(self):
        assert self.cut([5, 4, 1, 1, 1, 1], 10) == [[0, 1], [2, 3, 4, 5]]

    def test_a_text_that_is_longer_goes_alone(self):
        assert self.cut([12, 11, 5, 5], 10) == [[0], [1], [2, 3]]


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


class TestWeightsElsewhere:
    """Blocks wait on a disk, or all of them on the host, until accelerate brings them in."""

    def spread(self, model, how, folder):
        if how == "all on the host":
            return accelerate.cpu_offload(model, torch.device("cpu"))
        if how == "all on a disk":
            return accelerate.disk_offload(model, str(folder), torch.device("cpu"))
        places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
        places |= {f"model.layers.{n}": "disk" if n in (1, 3) else "cpu" for n in range(4)}
        return accelerate.dispatch_model(model, places, offload_dir=str(folder))

    @pytest.mark.parametrize("how", ["two blocks on a disk", "all on the host", "all on a disk"])
    def test_the_same_vectors(self, model, tiny_tokenizer, tmp_path, how):
        whole = run(model, tiny_tokenizer)
        auc = held_out_auc(model, tiny_tokenizer, corpus(), folds=2, from_token=20, progress=False)
        spread = self.spread(model, how, tmp_path / "weights")
        assert any(parameter.is_meta for parameter in spread.parameters())
        vectors = run(spread, tiny_tokenizer)
        assert_same(whole, vectors, atol=0)
        assert vectors.weights.keys() == whole.weights.keys()
        assert all(torch.equal(value, whole.weights[name]) for name, value in vectors.weights.items())
        vectors.check(spread)
        assert held_out_auc(spread, tiny_tokenizer, corpus(), folds=2, from_token=20, progress=False) == auc

    def test_nan_in_a_weight_is_found_on_the_disk(self, model, tiny_tokenizer, tmp_path):
        with torch.no_grad():
            model.model.layers[3].mlp.down_proj.weight[3, 5] = torch.nan
        spread = self.spread(model, "two blocks on a disk", tmp_path / "weights")
        with pytest.raises(ValueError, match=r"at layer 3 are not finite: parameter model\.layers\.3\.mlp\.down_proj"):
            run(spread, tiny_tokenizer)

    def test_weights_that_are_nowhere(self, model, tiny_tokenizer):
        with pytest.raises(ValueError, match="embeddings are on the meta device: its weights have not been loaded"):
            run(model.to("meta"), tiny_tokenizer)


class TestQuantisedBase:
    """Weights of four bits: read is what such a model computes."""

    def test_as_the_slow_way_has_it(self, tiny_llama, tiny_tokenizer, tmp_path):
        pytest.importorskip("bitsandbytes")
        base = tiny_llama(hidden_size=64, num_key_value_heads=4)
        plant(base, tiny_tokenizer)
        base.save_pretrained(tmp_path)
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
        model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=nf4, device_map="cpu")
        assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.uint8
        texts, plain = corpus(3), neutral(5)
        vectors = run(model, tiny_tokenizer, texts, plain, reference_texts=3, reference_tokens=30)
        slow = slow_extract(model, texts, plain, lambda text: (tiny_tokenizer(text)["input_ids"], 0), 20, 3, 30)
        for name, value in slow.items():
            torch.testing.assert_close(getattr(vectors, name).double(), torch.tensor(value), rtol=1e-4, atol=1e-4)
        vectors.check(model)
        unlike = run(base, tiny_tokenizer, texts, plain).directions - vectors.directions
        assert unlike.abs().max() > 1e-3


def test_tensor_parallel_ranks_are_not_given_different_texts(model, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr("emoreg.ranks.world", lambda: 2)
    model._tp_size = 2
    with pytest.raises(
        ValueError, match="those of a tensor-parallel model must see the same; load it whole, with FSDP"
    ):
        run(model, tiny_tokenizer)
