"""Replies that a model in training writes itself, under two readers."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from emoreg import Regularizer, RegularizerCallback
from emoreg.model import without_adapters
from emoreg.training.own_text import OwnText
from emoreg.training.rows import some_rows
from tests.support import random_vectors, sft_trainer

LORA = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)


@pytest.fixture
def trainer(tiny_llama, tiny_tokenizer, tmp_path):
    return sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path, peft_config=LORA)


def own_text(trainer, tokenizer):
    vectors = random_vectors(trainer.model)
    return OwnText(trainer, vectors, tokenizer, some_rows(trainer)), vectors


def test_both_readers_by_hand(trainer, tiny_tokenizer):
    own, vectors = own_text(trainer, tiny_tokenizer)
    found, replies = own.read(), own._sampled(trainer.model)

    def mean_z(model):
        """One reply at a time, without padding."""
        values = []
        for lead, reply in replies:
            with torch.no_grad():
                states = model(torch.tensor([lead + reply]), output_hidden_states=True).hidden_states[2][0, len(lead) :]
            values.append((states @ vectors.directions[1, 0] - vectors.mean[1, 0]) / vectors.std[1, 0])
        return torch.cat(values).mean()

    trainer.model.eval()
    mine = mean_z(trainer.model)
    with trainer.model.disable_adapter():
        base = mean_z(trainer.model)
    assert found["own_base"][1, 0] == pytest.approx(base.item(), rel=1e-4)
    assert found["own_gap"][1, 0] == pytest.approx((mine - base).item(), rel=1e-3)
    assert abs(found["own_gap"]).max() > 0.1


def test_an_adapter_that_does_nothing_has_no_gap(tiny_llama, tiny_tokenizer, tmp_path):
    trainer = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path, peft_config=LoraConfig(target_modules="all-linear"))
    own, _ = own_text(trainer, tiny_tokenizer)
    assert own.read()["own_gap"].abs().max() == 0.0


def test_the_same_replies_each_time_and_no_random_number_of_the_runs_is_used(trainer, tiny_tokenizer):
    own, _ = own_text(trainer, tiny_tokenizer)
    before = torch.get_rng_state()
    assert own._sampled(trainer.model) == own._sampled(trainer.model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_logs_them_at_the_first_log_after_every_so_many_steps(trainer):
    regularizer = Regularizer(random_vectors(trainer.model))
    trainer.args.max_steps = 7
    trainer.add_callback(RegularizerCallback(trainer, regularizer, own_text_every=3))
    trainer.train()
    logged = [log["step"] for log in trainer.state.log_history if "emotion/desperate/own_gap" in log]
    assert logged == [1, 3, 6]


def test_without_a_base_to_read_by_there_are_none(tiny_llama, tiny_tokenizer, tmp_path):
    assert not OwnText.possible(sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path))


def test_trained_weights_are_bitwise_those_without(tiny_llama, tiny_tokenizer, tmp_path):
    def weights(every):
        torch.manual_seed(0)
        trainer = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path, peft_config=LORA)
        if every is not None:
            monitor = Regularizer(random_vectors(trainer.model))
            trainer.add_callback(RegularizerCallback(trainer, monitor, own_text_every=every))
        trainer.train()
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])

    assert torch.equal(weights(None), weights(1))


def test_frozen_weights_of_an_adapter_stay_frozen(tiny_llama):
    model = get_peft_model(tiny_llama(), LORA)
    frozen = next(weight for name, weight in model.named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)
    ids = torch.arange(4, 9)[None]
    with_adapter = model(ids).logits
    with without_adapters(model):
        assert not torch.equal(model(ids).logits, with_adapter)
    assert torch.equal(model(ids).logits, with_adapter)
    assert not frozen.requires_grad


def test_plain_text_without_a_bos_has_nothing_to_begin_from(trainer, tiny_tokenizer):
    plain = [{"input_ids": torch.arange(4, 12)[None]}]
    assert OwnText(trainer, random_vectors(trainer.model), tiny_tokenizer, plain).read() == {}


def test_a_base_that_the_adapters_rewrote_is_not_read_without_them(tiny_llama, tiny_tokenizer, tmp_path):
    model = tiny_llama()
    vectors = random_vectors(model)
    rows = [{"input_ids": torch.arange(4, 20)[None]}]
    with Regularizer(vectors).attach(model, rows=rows, tokenizer=tiny_tokenizer) as term:
        of_base = term.reference.text.base
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights="pissa")
    trainer = sft_trainer(tiny_llama(), tiny_tokenizer, tmp_path, peft_config=config)
    assert not OwnText.possible(trainer)
    with Regularizer(vectors).attach(trainer.model, rows=rows, tokenizer=tiny_tokenizer) as term:
        torch.testing.assert_close(term.reference.text.base, of_base, rtol=1e-3, atol=1e-3)
