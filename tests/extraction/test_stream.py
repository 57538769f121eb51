"""What a stream of texts may meet: weights that are elsewhere, weights of four bits, ranks that share a text."""

import accelerate
import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from emoreg.extraction import held_out_auc
from tests.extraction.test_extract import assert_same, run
from tests.extraction.texts import corpus, neutral, plant, slow_extract


@pytest.fixture
def model(tiny_llama, tiny_tokenizer):
    model = tiny_llama()
    plant(model, tiny_tokenizer)
    return model


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
