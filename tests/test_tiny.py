"""The fixtures that the suite is built on."""

import torch


def test_the_tokenizer_brings_any_text_back(tiny_tokenizer):
    text = "Der Mieter schuldet 3 Monate und sagt wörtlich: «Ich kann nicht mehr.»\n\t🙂"
    ids = tiny_tokenizer(text)["input_ids"]
    assert tiny_tokenizer.decode(ids) == text
    assert len(ids) == len(text.encode())
    assert (tiny_tokenizer.pad_token_id, tiny_tokenizer.bos_token_id, tiny_tokenizer.eos_token_id) == (0, 1, 2)


def test_the_chat_template_marks_what_the_assistant_says(tiny_tokenizer):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    out = tiny_tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    spoken = [i for i, mask in zip(out["input_ids"], out["assistant_masks"], strict=True) if mask]
    assert tiny_tokenizer.decode(spoken) == "Yes?<eos>"


def test_the_model_is_the_same_for_the_same_seed(tiny_llama, tiny_tokenizer):
    before = torch.get_rng_state()
    one, same, other = tiny_llama(), tiny_llama(), tiny_llama(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.config.vocab_size == len(tiny_tokenizer)
    assert tiny_llama(num_hidden_layers=2).config.num_hidden_layers == 2
