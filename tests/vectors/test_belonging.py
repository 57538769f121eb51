"""Which models a set of vectors accepts."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from emoreg.model import decoder_blocks
from emoreg.vectors import sample_weights
from tests.support import random_vectors


@pytest.fixture
def vectors(tiny_llama):
    return random_vectors(tiny_llama())


class TestCheck:
    """A model is accepted if the vectors come from it or from the base that it was tuned from."""

    def test_the_model_itself_also_in_bf16_and_under_adapters(self, tiny_llama, caplog):
        model = tiny_llama()
        vectors = random_vectors(model)
        vectors.check(model)
        vectors.check(get_peft_model(tiny_llama(), LoraConfig(target_modules="all-linear")))
        vectors.check(tiny_llama().to(torch.bfloat16))
        assert not caplog.records

    def test_a_fine_tune_is_accepted_with_a_word(self, tiny_llama, caplog):
        model = tiny_llama()
        vectors = random_vectors(model)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * p.std() * torch.randn_like(p))
        vectors.check(model)
        assert "is a fine-tune of it" in caplog.text

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"seed": 1}, "weights are unrelated to it"),
            ({"hidden_size": 64}, "width 32; the model has width 64"),
            ({"num_hidden_layers": 3}, "which is deeper"),
            ({"num_hidden_layers": 5}, "another architecture"),
            ({"intermediate_size": 48}, "another architecture"),
        ],
    )
    def test_another_model_is_refused(self, tiny_llama, vectors, other, message):
        with pytest.raises(ValueError, match=message):
            vectors.check(tiny_llama(**other))

    def test_a_model_is_found_again_after_its_own_checkpoint(self, tiny_llama, tmp_path, caplog):
        model = tiny_llama()
        vectors = random_vectors(model)
        model.save_pretrained(tmp_path)
        vectors.check(LlamaForCausalLM.from_pretrained(tmp_path))
        assert not caplog.records

    def test_no_blocks_to_be_found(self, tiny_llama, vectors):
        model = tiny_llama()
        del decoder_blocks(model)[3]
        with pytest.raises(ValueError, match="expected one list of 4 decoder blocks in LlamaForCausalLM, found 0"):
            decoder_blocks(model)


def test_a_matrix_of_more_values_than_fp32_can_count_is_sampled_to_its_end():
    model = torch.nn.Linear(4, 2**22 + 1, bias=False, dtype=torch.bfloat16)
    assert sample_weights(model)["weight"][-1] == model.weight[-1, -1]
