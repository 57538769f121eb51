"""Who writes the texts."""

import pytest
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from emoreg.sandbox import organism


@pytest.fixture(scope="module")
def speaker() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The sandbox's organism, with room for a prompt that is long for it."""
    model, tokenizer = organism.load()
    model.config.max_position_embeddings = 512
    return model, tokenizer
